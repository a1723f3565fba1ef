//! Where a route leads, and what holds on the way there.

use trireme_proxy_decide::config::{FaultAbort, FaultDelay, FaultPolicy, Fraction};
use trireme_xds::metadata;

use super::{Explanation, length};
use crate::Kind;
use crate::cluster::{BLACK_HOLE, PASSTHROUGH};
use crate::mesh::Mesh;
use crate::proto::{cluster as pb, core, endpoint, protobuf, route};
use crate::resource::Subscription;
use crate::workload::Workload;

pub fn fault(fault: &FaultPolicy, object: Option<&str>, told: &mut Explanation) {
    match &fault.delay {
        Some(FaultDelay::Fixed { delay, share }) => told.add(
            "fault",
            format!("delays {} of requests by {delay:?}", percent(*share)),
            object,
        ),
        Some(FaultDelay::Header { .. }) => told.add("fault", "delays as a header asks", object),
        None => {}
    }
    match &fault.abort {
        Some(FaultAbort::Http { status, share }) => told.add(
            "fault",
            format!("answers {} of requests with {status}", percent(*share)),
            object,
        ),
        Some(FaultAbort::Grpc { status, share }) => told.add(
            "fault",
            format!(
                "answers {} of requests with gRPC status {status}",
                percent(*share)
            ),
            object,
        ),
        Some(FaultAbort::Header { .. }) => told.add("fault", "aborts as a header asks", object),
        None => {}
    }
}

fn percent(share: Fraction) -> String {
    let percent = f64::from(share.numerator) * 100.0 / f64::from(share.denominator.max(1));
    format!("{percent} %")
}

pub fn policies(action: &route::RouteAction, object: Option<&str>, told: &mut Explanation) {
    let timeout = action
        .timeout
        .as_ref()
        .filter(|it| it.seconds != 0 || it.nanos != 0);
    told.add(
        "timeout",
        timeout.map_or_else(|| "none".to_owned(), length),
        object.filter(|_| timeout.is_some()),
    );
    let retries = match &action.retry_policy {
        None => "none".to_owned(),
        Some(retry) => {
            let count = retry.num_retries.as_ref().map_or(1, |it| it.value);
            let codes: Vec<String> = retry
                .retriable_status_codes
                .iter()
                .map(u32::to_string)
                .collect();
            let per_try = retry.per_try_timeout.as_ref();
            let per_try = per_try.map(|it| format!(", each at most {}", length(it)));
            let elsewhere = match retry.retry_host_predicate.is_empty() {
                true => "",
                false => ", on hosts not tried before",
            };
            let codes = match codes.is_empty() {
                true => String::new(),
                false => format!(" ({})", codes.join(", ")),
            };
            format!(
                "{count} on {}{codes}{}{elsewhere}",
                retry.retry_on,
                per_try.unwrap_or_default()
            )
        }
    };
    told.add("retries", retries, object);
    for mirror in &action.request_mirror_policies {
        told.add("mirror", format!("copies go to {}", mirror.cluster), object);
    }
    if !action.prefix_rewrite.is_empty() {
        told.add(
            "rewrite",
            format!("path prefix becomes {}", action.prefix_rewrite),
            object,
        );
    }
    if let Some(route::route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) =
        &action.host_rewrite_specifier
    {
        told.add("rewrite", format!("authority becomes {host}"), object);
    }
}

/// Every cluster of the route, also those that this request does not go to.
pub fn all(mesh: &Mesh, workload: &Workload, action: &route::RouteAction, told: &mut Explanation) {
    use route::route_action::ClusterSpecifier;
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => cluster(mesh, workload, name, None, told),
        Some(ClusterSpecifier::WeightedClusters(many)) => {
            for one in &many.clusters {
                let weight = one.weight.as_ref().map_or(0, |it| it.value);
                cluster(mesh, workload, &one.name, Some(weight), told);
            }
        }
        _ => {}
    }
}

fn made(mesh: &Mesh, workload: &Workload, name: &str) -> Option<pb::Cluster> {
    let names = Subscription::Names([name.to_owned()].into());
    let made = mesh.generate(workload, Kind::Cluster, &names);
    trireme_xds::unpack(&made.first()?.body).ok()
}

pub fn cluster(
    mesh: &Mesh,
    workload: &Workload,
    name: &str,
    weight: Option<u32>,
    told: &mut Explanation,
) {
    let what = match weight {
        Some(weight) => format!("cluster {name} (weight {weight})"),
        None => format!("cluster {name}"),
    };
    let Some(message) = made(mesh, workload, name) else {
        told.add(what, "is not there: 503 NC", None);
        return;
    };
    let object = metadata::object(message.metadata.as_ref());
    let policy = pb::cluster::LbPolicy::try_from(message.lb_policy);
    let policy = policy.map_or("?", |it| it.as_str_name());
    told.add(what, format!("balanced by {policy}"), object);
    let limits = message
        .circuit_breakers
        .iter()
        .flat_map(|it| &it.thresholds);
    for limits in limits {
        let shown = [
            ("connections", &limits.max_connections),
            ("pending requests", &limits.max_pending_requests),
            ("requests", &limits.max_requests),
            ("retries", &limits.max_retries),
        ];
        let shown = shown.into_iter().filter_map(|(of, limit)| {
            let limit: &protobuf::UInt32Value = limit.as_ref()?;
            (limit.value != u32::MAX).then(|| format!("{} {of}", limit.value))
        });
        let shown: Vec<String> = shown.collect();
        if !shown.is_empty() {
            told.add("  breaker", format!("at most {}", shown.join(", ")), object);
        }
    }
    if let Some(outlier) = &message.outlier_detection {
        let count = |of: &str, value: &Option<protobuf::UInt32Value>, otherwise: u32| {
            let value = value.as_ref().map_or(otherwise, |it| it.value);
            (value > 0).then(|| format!("{value} {of}"))
        };
        let causes = [
            count("consecutive 5xx", &outlier.consecutive_5xx, 5),
            outlier
                .consecutive_gateway_failure
                .as_ref()
                .and_then(|_| count("gateway errors", &outlier.consecutive_gateway_failure, 0)),
        ];
        let causes: Vec<String> = causes.into_iter().flatten().collect();
        let base = outlier
            .base_ejection_time
            .as_ref()
            .map_or("30s".to_owned(), length);
        let cap = outlier
            .max_ejection_percent
            .as_ref()
            .map_or(10, |it| it.value);
        told.add(
            "  ejection",
            format!(
                "after {}, for {base}, at most {cap}% of hosts",
                causes.join(" or ")
            ),
            object,
        );
    }
    if message.transport_socket.is_some() {
        told.add("  transport", "TLS is begun by the proxy", object);
    }
    told.add("  endpoints", endpoints(mesh, workload, &message), None);
}

fn assignment(
    mesh: &Mesh,
    workload: &Workload,
    message: &pb::Cluster,
) -> Option<endpoint::ClusterLoadAssignment> {
    if let Some(load) = &message.load_assignment {
        return Some(load.clone());
    }
    let name = message.eds_cluster_config.as_ref()?.service_name.clone();
    let made = mesh.generate(
        workload,
        Kind::Endpoint,
        &Subscription::Names([name].into()),
    );
    trireme_xds::unpack(&made.first()?.body).ok()
}

fn endpoints(mesh: &Mesh, workload: &Workload, message: &pb::Cluster) -> String {
    if message.name == BLACK_HOLE {
        return "none, on purpose".to_owned();
    }
    let Some(load) = assignment(mesh, workload, message) else {
        return "the address that the client chose".to_owned();
    };
    let mut shown = Vec::new();
    for place in &load.endpoints {
        let addresses: Vec<String> = place.lb_endpoints.iter().filter_map(address).collect();
        let somewhere = place.locality.as_ref().and_then(|it| {
            let parts = [&it.region, &it.zone, &it.sub_zone];
            let parts: Vec<&str> = parts
                .iter()
                .map(|it| it.as_str())
                .filter(|it| !it.is_empty())
                .collect();
            (!parts.is_empty()).then(|| format!(" in {}", parts.join("/")))
        });
        let order = match place.priority {
            0 => String::new(),
            later => format!(" (priority {later})"),
        };
        shown.push(format!(
            "{}{}{order}",
            addresses.join(" "),
            somewhere.unwrap_or_default()
        ));
    }
    match shown.is_empty() {
        true => "none: 503 UH".to_owned(),
        false => shown.join("; "),
    }
}

fn address(one: &endpoint::LbEndpoint) -> Option<String> {
    let endpoint::lb_endpoint::HostIdentifier::Endpoint(inner) = one.host_identifier.as_ref()?
    else {
        return None;
    };
    match inner.address.as_ref()?.address.as_ref()? {
        core::address::Address::SocketAddress(socket) => match socket.port_specifier {
            Some(core::socket_address::PortSpecifier::PortValue(port)) => {
                Some(format!("{}:{port}", socket.address))
            }
            _ => Some(socket.address.clone()),
        },
        core::address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        core::address::Address::EnvoyInternalAddress(_) => None,
    }
}

pub fn outcome(mesh: &Mesh, workload: &Workload, cluster: &str) -> String {
    if cluster == PASSTHROUGH {
        return "goes straight out to the address that the client chose".to_owned();
    }
    let Some(message) = made(mesh, workload, cluster) else {
        return format!("503: cluster {cluster} is not there (NC)");
    };
    match assignment(mesh, workload, &message) {
        Some(load) if load.endpoints.iter().all(|it| it.lb_endpoints.is_empty()) => {
            format!("503: cluster {cluster} has no endpoints (UH)")
        }
        _ => format!("goes to {cluster}"),
    }
}
