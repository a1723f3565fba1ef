//! Listeners and clusters in Envoy's JSON, with what every case has in common.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::place::Place;

/// One line for each request: key, code, flags, attempts, details.
const ACCESS_LOG: &str = "%REQ(X-KEY)% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_CODE_DETAILS%\n";

/// The resources of a case.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub listeners: Vec<Value>,
    pub clusters: Vec<Value>,
    /// Route configurations, where listeners name them.
    pub routes: Vec<Value>,
    /// Endpoints, where clusters have them discovered.
    pub endpoints: Vec<Value>,
}

/// `other` over `base`, objects merged; null takes out.
pub fn merged(mut base: Value, other: Value) -> Value {
    merge(&mut base, other);
    base
}

fn merge(base: &mut Value, other: Value) {
    match (base, other) {
        (Value::Object(base), Value::Object(other)) => {
            for (name, value) in other {
                if value.is_null() {
                    base.remove(&name);
                } else {
                    merge(base.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (base, other) => *base = other,
    }
}

/// A message inside an Any.
pub fn typed(full_name: &str, message: Value) -> Value {
    merged(
        json!({ "@type": format!("type.googleapis.com/{full_name}") }),
        message,
    )
}

pub fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

pub fn endpoint(at: SocketAddr, extra: Value) -> Value {
    merged(json!({ "endpoint": { "address": address(at) } }), extra)
}

/// A cluster of fixed endpoints, round robin, with `extra` merged in.
pub fn cluster(place: &Place, name: &str, hosts: &[SocketAddr], extra: Value) -> Value {
    let endpoints: Vec<Value> = hosts.iter().map(|at| endpoint(*at, json!({}))).collect();
    assigned(place, name, json!([{ "lb_endpoints": endpoints }]), extra)
}

/// A cluster with its localities spelled out.
pub fn assigned(place: &Place, name: &str, localities: Value, extra: Value) -> Value {
    let name = place.cluster(name);
    let base = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": { "cluster_name": name, "endpoints": localities },
    });
    merged(base, extra)
}

/// A cluster whose endpoints are discovered, round robin, with `extra` merged in.
pub fn discovered(place: &Place, name: &str, extra: Value) -> Value {
    let name = place.cluster(name);
    let base = json!({
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    merged(base, extra)
}

/// The endpoints of such a cluster, each with its weight.
pub fn endpoints(place: &Place, name: &str, hosts: &[(SocketAddr, u32)]) -> Value {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|(at, weight)| endpoint(*at, json!({ "load_balancing_weight": weight })))
        .collect();
    json!({ "cluster_name": place.cluster(name), "endpoints": [{ "lb_endpoints": endpoints }] })
}

/// A listener whose routes are discovered.
pub fn routed(place: &Place) -> Value {
    let rds = json!({
        "route_config_name": place.name,
        "config_source": { "ads": {}, "resource_api_version": "V3" },
    });
    http(
        place,
        json!([]),
        vec![],
        json!({ "route_config": null, "rds": rds }),
    )
}

/// The routes of such a listener.
pub fn routes(place: &Place, virtual_hosts: Value) -> Value {
    json!({ "name": place.name, "virtual_hosts": virtual_hosts })
}

/// Speaks HTTP/2 to its endpoints.
pub fn http2() -> Value {
    json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
        )
    }})
}

fn access_log(place: &Place) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", json!({
            "path": place.access_log,
            "log_format": { "text_format_source": { "inline_string": ACCESS_LOG } },
        })),
    }])
}

/// A listener with filter chains of its own, that looks into TLS.
pub fn inspecting(place: &Place, chains: Value) -> Value {
    json!({
        "name": place.name,
        "address": address(place.listener),
        "listener_filters": [filter(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        )],
        "filter_chains": chains,
    })
}

fn listener(place: &Place, filters: Value) -> Value {
    json!({
        "name": place.name,
        "address": address(place.listener),
        "filter_chains": [{ "filters": filters }],
    })
}

/// HTTP filters before the router.
pub fn filter(name: &str, full_name: &str, config: Value) -> Value {
    json!({ "name": name, "typed_config": typed(full_name, config) })
}

/// An HTTP listener with these virtual hosts; `manager` is merged into its connection manager.
pub fn http(place: &Place, virtual_hosts: Value, filters: Vec<Value>, manager: Value) -> Value {
    let mut filters = filters;
    filters.push(filter(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    ));
    let base = json!({
        "stat_prefix": place.name,
        "codec_type": "AUTO",
        "route_config": { "name": place.name, "virtual_hosts": virtual_hosts },
        "http_filters": filters,
        "access_log": access_log(place),
    });
    let manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        merged(base, manager),
    );
    listener(
        place,
        json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }]),
    )
}

/// A TCP listener.
pub fn tcp(place: &Place, config: Value) -> Value {
    let base = json!({ "stat_prefix": place.name, "access_log": access_log(place) });
    let proxy = typed(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        merged(base, config),
    );
    listener(
        place,
        json!([{ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy }]),
    )
}

/// One virtual host for every name.
pub fn any_host(routes: Value) -> Value {
    json!([{ "name": "all", "domains": ["*"], "routes": routes }])
}

/// A route of everything to one of the case's clusters, with `extra` in its action.
pub fn to(place: &Place, name: &str, extra: Value) -> Value {
    let action = merged(json!({ "cluster": place.cluster(name) }), extra);
    json!({ "match": { "prefix": "/" }, "route": action })
}

/// An HTTP listener that sends everything to its one cluster, `a`, with `action` in its route.
pub fn one_route(place: &Place, action: Value, cluster: Value) -> Resources {
    let routes = any_host(json!([to(place, "a", action)]));
    Resources {
        listeners: vec![http(place, routes, vec![], json!({}))],
        clusters: vec![cluster],
        ..Resources::default()
    }
}
