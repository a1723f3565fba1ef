//! The same task in four languages: ten rules of which the last matches, 1,024 requests at a time at most.

use std::path::Path;

use prost::Message as _;
use serde_json::{Value, json};
use trireme_xds::pack;
use trireme_xds::pb::envoy::config::cluster::v3 as cluster;
use trireme_xds::pb::envoy::config::core::v3 as core;
use trireme_xds::pb::envoy::config::endpoint::v3 as endpoint;
use trireme_xds::pb::envoy::config::listener::v3 as listener;
use trireme_xds::pb::envoy::config::route::v3 as route;
use trireme_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use trireme_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use trireme_xds::pb::envoy::extensions::upstreams::http::v3 as upstreams;
use trireme_xds::pb::envoy::service::discovery::v3::DiscoveryResponse;
use trireme_xds::pb::google::protobuf::{Any, Duration, UInt32Value};

pub const UPSTREAM_HTTP1: u16 = 21001;
const UPSTREAM_HTTP2: u16 = 21002;
/// What the upstream answers.
pub const BODY: &str =
    "The quick brown fox jumps over the lazy dog; the trireme rows on when one bank is lost.\n";
const LIMIT: u32 = 1024;
const RULES: usize = 10;

pub struct Ports {
    pub http1: u16,
    pub http2: u16,
    pub tcp: u16,
    pub admin: u16,
}

pub fn upstream(directory: &Path) -> String {
    let base = directory.display();
    format!(
        "daemon off; worker_processes 1; pid {base}/upstream.pid; error_log {base}/upstream.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {base}/u1; proxy_temp_path {base}/u2; fastcgi_temp_path {base}/u3;
  uwsgi_temp_path {base}/u4; scgi_temp_path {base}/u5;
  server {{ listen 127.0.0.1:{UPSTREAM_HTTP1} backlog=4096; default_type text/plain; return 200 '{}'; }}
  server {{ listen 127.0.0.1:{UPSTREAM_HTTP2} http2 backlog=4096; default_type text/plain; return 200 '{}'; }}
}}
",
        BODY, BODY
    )
}

pub fn nginx(ports: &Ports, directory: &Path) -> String {
    let base = directory.display();
    let rules: String = (1..RULES)
        .map(|number| format!("    location /rule-{number} {{ return 404; }}\n"))
        .collect();
    format!(
        "daemon off; worker_processes 1; pid {base}/nginx.pid; error_log {base}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {base}/n1; proxy_temp_path {base}/n2; fastcgi_temp_path {base}/n3;
  uwsgi_temp_path {base}/n4; scgi_temp_path {base}/n5;
  upstream back {{ server 127.0.0.1:{UPSTREAM_HTTP1} max_conns={LIMIT} max_fails=5; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{http1} backlog=4096;
{rules}    location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header connection ''; }}
    location /status {{ stub_status; }}
  }}
}}
",
        http1 = ports.http1
    )
}

pub fn haproxy(ports: &Ports) -> String {
    let rules: String = (1..RULES)
        .map(|number| {
            format!("  http-request return status 404 if {{ path_beg /rule-{number} }}\n")
        })
        .collect();
    let front = |name: &str, port: u16, proto: &str, back: &str| {
        format!(
            "frontend {name}\n  bind 127.0.0.1:{port}{proto} backlog 4096\n{rules}  default_backend {back}\n"
        )
    };
    format!(
        "global\n  nbthread 1\n  maxconn 8000\n
defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  option redispatch\n
{}{}backend back1\n  http-reuse always\n  server one 127.0.0.1:{UPSTREAM_HTTP1} maxconn {LIMIT}\n
backend back2\n  http-reuse always\n  server one 127.0.0.1:{UPSTREAM_HTTP2} proto h2 maxconn {LIMIT}\n
frontend tcp\n  mode tcp\n  bind 127.0.0.1:{} backlog 4096\n  default_backend tcp\n
backend tcp\n  mode tcp\n  server one 127.0.0.1:{UPSTREAM_HTTP1} maxconn {LIMIT}\n",
        front("one", ports.http1, "", "back1"),
        front("two", ports.http2, " proto h2", "back2"),
        ports.tcp,
    )
}

/// Envoy's bootstrap; JSON, which Envoy reads as well as YAML.
pub fn envoy(ports: &Ports) -> String {
    let rules = |cluster: &str| -> Vec<Value> {
        let mut rules: Vec<Value> = (1..RULES)
            .map(|number| json!({"match": {"prefix": format!("/rule-{number}")}, "direct_response": {"status": 404}}))
            .collect();
        rules.push(json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}}));
        rules
    };
    let socket =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let manager = |port: u16, codec: &str, cluster: &str| {
        json!({"name": cluster, "address": socket(port), "filter_chains": [{"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": cluster, "codec_type": codec,
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": rules(cluster)}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }}]}]})
    };
    let back = |name: &str, port: u16, http2: bool| {
        let mut cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": LIMIT, "max_pending_requests": LIMIT, "max_requests": LIMIT}]},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(port)}}]}]},
        });
        if http2 {
            cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
        }
        cluster
    };
    let bytes = json!({"name": "tcp", "address": socket(ports.tcp), "filter_chains": [{"filters": [{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "one"}}]}]});
    json!({
        "admin": {"address": socket(ports.admin)},
        "static_resources": {
            "listeners": [manager(ports.http1, "HTTP1", "one"), manager(ports.http2, "HTTP2", "two"), bytes],
            "clusters": [back("one", UPSTREAM_HTTP1, false), back("two", UPSTREAM_HTTP2, true)],
        },
    })
    .to_string()
}

fn address(port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "127.0.0.1".into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
                port,
            ))),
            ..core::SocketAddress::default()
        })),
    }
}

fn rules(name: &str) -> Vec<route::Route> {
    let matching = |prefix: String| {
        Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix(prefix)),
            ..route::RouteMatch::default()
        })
    };
    let mut rules: Vec<route::Route> = (1..RULES)
        .map(|number| route::Route {
            r#match: matching(format!("/rule-{number}")),
            action: Some(route::route::Action::DirectResponse(
                route::DirectResponseAction {
                    status: 404,
                    ..route::DirectResponseAction::default()
                },
            )),
            ..route::Route::default()
        })
        .collect();
    rules.push(route::Route {
        r#match: matching("/".into()),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(name.into())),
            ..route::RouteAction::default()
        })),
        ..route::Route::default()
    });
    rules
}

fn served(name: &str, port: u16, filter: &str, configuration: Any) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        address: Some(address(port)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: filter.into(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(configuration)),
            }],
            ..listener::FilterChain::default()
        }],
        ..listener::Listener::default()
    }
}

fn manager(
    port: u16,
    codec: http::http_connection_manager::CodecType,
    name: &str,
) -> listener::Listener {
    let manager = http::HttpConnectionManager {
        codec_type: codec.into(),
        stat_prefix: name.into(),
        route_specifier: Some(http::http_connection_manager::RouteSpecifier::RouteConfig(
            route::RouteConfiguration {
                name: name.into(),
                virtual_hosts: vec![route::VirtualHost {
                    name: "v".into(),
                    domains: vec!["*".into()],
                    routes: rules(name),
                    ..route::VirtualHost::default()
                }],
                ..route::RouteConfiguration::default()
            },
        )),
        http_filters: vec![http::HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http::http_filter::ConfigType::TypedConfig(pack(
                &Router::default(),
            ))),
            ..http::HttpFilter::default()
        }],
        ..http::HttpConnectionManager::default()
    };
    served(
        name,
        port,
        "envoy.filters.network.http_connection_manager",
        pack(&manager),
    )
}

fn back(name: &str, port: u16, http2: bool) -> cluster::Cluster {
    let limit = Some(UInt32Value { value: LIMIT });
    let mut made = cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(Duration {
            seconds: 5,
            nanos: 0,
        }),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![cluster::circuit_breakers::Thresholds {
                max_connections: limit,
                max_pending_requests: limit,
                max_requests: limit,
                ..cluster::circuit_breakers::Thresholds::default()
            }],
            ..cluster::CircuitBreakers::default()
        }),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![endpoint::LbEndpoint {
                    host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                        endpoint::Endpoint {
                            address: Some(address(port)),
                            ..endpoint::Endpoint::default()
                        },
                    )),
                    ..endpoint::LbEndpoint::default()
                }],
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        ..cluster::Cluster::default()
    };
    if http2 {
        use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
        use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
        let options = upstreams::HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                        core::Http2ProtocolOptions::default(),
                    )),
                },
            )),
            ..upstreams::HttpProtocolOptions::default()
        };
        made.typed_extension_protocol_options.insert(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(),
            pack(&options),
        );
    }
    made
}

/// The same for the proxy, as `trireme-proxy static` reads it.
pub fn trireme(ports: &Ports) -> Vec<u8> {
    use http::http_connection_manager::CodecType;
    let bytes = tcp::TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("one".into())),
        ..tcp::TcpProxy::default()
    };
    DiscoveryResponse {
        resources: vec![
            pack(&back("one", UPSTREAM_HTTP1, false)),
            pack(&back("two", UPSTREAM_HTTP2, true)),
            pack(&manager(ports.http1, CodecType::Http1, "one")),
            pack(&manager(ports.http2, CodecType::Http2, "two")),
            pack(&served(
                "tcp",
                ports.tcp,
                "envoy.filters.network.tcp_proxy",
                pack(&bytes),
            )),
        ],
        ..DiscoveryResponse::default()
    }
    .encode_to_vec()
}
