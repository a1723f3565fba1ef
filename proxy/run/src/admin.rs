//! What people and probes ask of the proxy itself: readiness (15021), metrics (15090), administration (15000).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::drain::Drain;
use crate::h1::server::{self, Reply};
use crate::h1::{Transport, head};
use crate::net::{ListenOptions, Listener, Net};
use crate::shared::Shared;
use crate::telemetry::prometheus;

/// A scraper or a person; idle connections of theirs go early.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which questions a port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Readiness.
    Health,
    /// Metrics.
    Metrics,
    /// All, and what changes the proxy.
    Everything,
}

/// What the questions are about.
#[derive(Clone)]
pub struct Control {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// Of all workers.
    pub drain: Drain,
    /// Ends the program.
    pub quit: CancellationToken,
}

/// Answers on a port, for ever.
///
/// # Errors
/// When it cannot listen.
pub async fn listen(
    net: &Rc<dyn Net>,
    address: SocketAddr,
    scope: Scope,
    control: &Control,
) -> std::io::Result<()> {
    let listener = net.listen(address, ListenOptions::default()).await?;
    let control = control.clone();
    tokio::task::spawn_local(async move { accept(listener, scope, control).await });
    Ok(())
}

async fn accept(listener: Box<dyn Listener>, scope: Scope, control: Control) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                let control = control.clone();
                let options = server::Options {
                    idle_timeout: Some(IDLE_TIMEOUT),
                    tunnel_idle_timeout: None,
                    max_requests: None,
                    drain: Drain::new(),
                    server_name: HeaderValue::from_static("envoy"),
                    limits: head::Limits::default(),
                };
                let transport = Transport::new(accepted.stream, BytesMut::new());
                tokio::task::spawn_local(async move {
                    server::serve(transport, options, |request| {
                        let reply = answer(&request, scope, &control);
                        async move { reply }
                    })
                    .await
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut response = Response::new(Body::text(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(
        "cache-control",
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    Reply::from(response)
}

fn plain(status: StatusCode, body: impl Into<String>) -> Reply {
    text(status, "text/plain; charset=UTF-8", body.into())
}

/// The answer to one question.
#[must_use]
pub fn answer(request: &Request<Body>, scope: Scope, control: &Control) -> Reply {
    let shared = &control.shared;
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    match (scope, path) {
        (Scope::Health | Scope::Everything, "/healthz/ready" | "/ready") => {
            if shared.is_ready() {
                plain(StatusCode::OK, if path == "/ready" { "LIVE\n" } else { "" })
            } else {
                plain(StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n")
            }
        }
        (_, "/stats/prometheus") => text(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics(shared),
        ),
        (Scope::Everything, "/stats")
            if query.split('&').any(|part| part == "format=prometheus") =>
        {
            text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                metrics(shared),
            )
        }
        (Scope::Everything, "/stats") => plain(StatusCode::OK, statistics(shared, query)),
        (Scope::Everything, "/clusters") => plain(StatusCode::OK, clusters(shared)),
        (Scope::Everything, "/config_dump") => text(
            StatusCode::OK,
            "application/json",
            format!("{:#}\n", dump(shared)),
        ),
        (Scope::Everything, "/server_info") => text(
            StatusCode::OK,
            "application/json",
            format!("{:#}\n", info(shared)),
        ),
        (Scope::Everything, "/drain_listeners" | "/drain") if request.method() == Method::POST => {
            shared.drain();
            control.drain.ask();
            plain(StatusCode::OK, "OK\n")
        }
        (Scope::Everything, "/quitquitquit") if request.method() == Method::POST => {
            control.quit.cancel();
            plain(StatusCode::OK, "OK\n")
        }
        (Scope::Everything, "/drain" | "/drain_listeners" | "/quitquitquit") => plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method Not Allowed: POST it\n",
        ),
        (Scope::Everything, "/") => plain(
            StatusCode::OK,
            "/clusters\n/config_dump\n/drain (POST)\n/quitquitquit (POST)\n/ready\n/server_info\n/stats\n/stats/prometheus\n",
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            "invalid path. admin commands are at /\n",
        ),
    }
}

fn metrics(shared: &Shared) -> String {
    let mut out = String::new();
    prometheus::istio(&shared.istio(), &mut out);
    prometheus::envoy(shared, &mut out);
    out
}

fn statistics(shared: &Shared, query: &str) -> String {
    let mut out = String::new();
    crate::telemetry::stats::write(shared, &mut out);
    let filter = query
        .split('&')
        .find_map(|part| part.strip_prefix("filter="));
    let used = query.split('&').any(|part| part == "usedonly");
    let mut lines: Vec<&str> = out
        .lines()
        .filter(|line| filter.is_none_or(|filter| line.contains(filter)))
        .filter(|line| !used || !line.ends_with(": 0"))
        .collect();
    lines.sort_unstable();
    let mut sorted = lines.join("\n");
    sorted.push('\n');
    sorted
}

fn clusters(shared: &Shared) -> String {
    use std::fmt::Write as _;
    use std::sync::atomic::Ordering::Relaxed;
    let mut out = String::new();
    let live = shared.live();
    for cluster in live.in_use() {
        let name = &cluster.config.name;
        for host in cluster.members.iter() {
            let prefix = format!("{name}::{}", host.address);
            let health = if host.is_ejected() {
                "/failed_outlier_check"
            } else if host.is_healthy() {
                "healthy"
            } else {
                "/failed_eds_health"
            };
            let _ = writeln!(out, "{prefix}::cx_active::{}", host.connections());
            let _ = writeln!(out, "{prefix}::rq_active::{}", host.active());
            let _ = writeln!(
                out,
                "{prefix}::rq_total::{}",
                host.totals.requests.load(Relaxed)
            );
            let _ = writeln!(
                out,
                "{prefix}::rq_success::{}",
                host.totals.successes.load(Relaxed)
            );
            let _ = writeln!(
                out,
                "{prefix}::rq_error::{}",
                host.totals.errors.load(Relaxed)
            );
            let _ = writeln!(
                out,
                "{prefix}::rq_timeout::{}",
                host.totals.timeouts.load(Relaxed)
            );
            let _ = writeln!(out, "{prefix}::health_flags::{health}");
            let _ = writeln!(out, "{prefix}::weight::{}", host.weight());
            let _ = writeln!(out, "{prefix}::priority::{}", host.priority);
            let _ = writeln!(out, "{prefix}::region::{}", host.locality.region);
            let _ = writeln!(out, "{prefix}::zone::{}", host.locality.zone);
        }
    }
    out
}

fn dump(shared: &Shared) -> Value {
    let snapshot = shared.snapshot();
    let control_plane = shared.control_plane();
    let version = |service: &str| {
        control_plane
            .versions
            .get(service)
            .cloned()
            .unwrap_or_default()
    };
    let origin = |origin: &Option<trireme_proxy_decide::config::Origin>| {
        origin.as_ref().map(|origin| origin.path().to_owned())
    };
    let clusters: Vec<Value> = snapshot
        .clusters
        .values()
        .map(|cluster| {
            json!({"version_info": version("CDS"), "cluster": {
                "name": &*cluster.name,
                "type": format!("{:?}", cluster.kind),
                "lb_policy": format!("{:?}", cluster.lb),
                "connect_timeout": format!("{:?}", cluster.connection.connect_timeout),
                "origin": origin(&cluster.origin),
            }})
        })
        .collect();
    let endpoints: Vec<Value> = snapshot
        .endpoints
        .values()
        .map(|endpoints| {
            let hosts = endpoints.localities.iter().flat_map(|group| {
                group.endpoints.iter().map(move |endpoint| {
                    json!({
                        "address": endpoint.address.to_string(),
                        "health": format!("{:?}", endpoint.health),
                        "weight": endpoint.weight,
                        "priority": group.priority,
                        "locality": format!("{}/{}/{}", group.locality.region, group.locality.zone, group.locality.sub_zone),
                    })
                })
            });
            json!({"endpoint_config": {"cluster_name": &*endpoints.name, "endpoints": hosts.collect::<Vec<_>>()}})
        })
        .collect();
    let listeners: Vec<Value> = snapshot
        .listeners
        .values()
        .map(|listener| {
            let chains: Vec<&str> = listener.filter_chains.iter().map(|chain| &*chain.name).collect();
            json!({"name": &*listener.name, "active_state": {"version_info": version("LDS"), "listener": {
                "name": &*listener.name,
                "address": listener.address.to_string(),
                "bind_to_port": listener.bind_to_port,
                "filter_chains": chains,
                "origin": origin(&listener.origin),
            }}})
        })
        .collect();
    let routes: Vec<Value> = snapshot
        .routes
        .values()
        .map(|routes| {
            let hosts: Vec<Value> = routes
                .virtual_hosts
                .iter()
                .map(|host| {
                    let list: Vec<Value> = host
                        .routes
                        .iter()
                        .map(|route| {
                            json!({
                                "name": &*route.name,
                                "match": format!("{:?}", route.matches),
                                "action": format!("{:?}", route.action),
                                "origin": origin(&route.origin),
                            })
                        })
                        .collect();
                    let domains: Vec<&str> = host.domains.iter().map(|domain| &**domain).collect();
                    json!({"name": &*host.name, "domains": domains, "routes": list, "origin": origin(&host.origin)})
                })
                .collect();
            json!({"version_info": version("RDS"), "route_config": {"name": &*routes.name, "virtual_hosts": hosts}})
        })
        .collect();
    let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
    json!({"configs": [
        {"@type": kind("ClustersConfigDump"), "version_info": version("CDS"), "dynamic_active_clusters": clusters},
        {"@type": kind("EndpointsConfigDump"), "dynamic_endpoint_configs": endpoints},
        {"@type": kind("ListenersConfigDump"), "version_info": version("LDS"), "dynamic_listeners": listeners},
        {"@type": kind("RoutesConfigDump"), "dynamic_route_configs": routes},
    ]})
}

fn info(shared: &Shared) -> Value {
    let control_plane = shared.control_plane();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": if shared.is_ready() { "LIVE" } else { "PRE_INITIALIZING" },
        "connections": shared.active_connections(),
        "control_plane": {
            "server": control_plane.server,
            "accepted": control_plane.accepted,
            "rejected": control_plane.rejected,
            "last_rejection": control_plane.last_rejection,
            "disconnects": control_plane.disconnects,
            "versions": control_plane.versions,
        },
    })
}
