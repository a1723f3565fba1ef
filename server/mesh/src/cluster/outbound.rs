//! Clusters of the services that a workload may call, and of their subsets.

use trireme_model::istio::{SimpleLb, Subset, TrafficPolicy};
use trireme_xds::metadata;

use super::{BLACK_HOLE, Draft, PASSTHROUGH, name, policy, service_reference, transport};
use crate::assignment::{self, Client};
use crate::endpoint::endpoints;
use crate::proto::{ads, cluster as pb};
use crate::protocol::{Protocol, Treatment};
use crate::resource::Resource;
use crate::scope::Scope;
use crate::service::{Origin, Port, Resolution, Service};
use crate::view::{View, selects};
use crate::workload::Role;

use pb::cluster::DiscoveryType;

/// How endpoints of a service are found by a proxy of this role.
fn discovery(service: &Service, role: Role) -> DiscoveryType {
    match service.resolution {
        Resolution::Endpoints | Resolution::Alias => DiscoveryType::Eds,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        // A gateway's clients chose the gateway's address, so there is none to pass on.
        Resolution::Passthrough if role == Role::Sidecar => DiscoveryType::OriginalDst,
        Resolution::Passthrough => DiscoveryType::Eds,
    }
}

/// Every cluster of a scope but those of the workload's own ports.
pub fn outbound(view: &View, scope: &Scope, client: Client<'_>) -> Vec<Resource> {
    let mut clusters = Vec::new();
    for service in scope.services.values() {
        clusters.extend(of_service(view, scope, service, client));
    }
    if scope.key.role != Role::Grpc {
        clusters.push(black_hole(view));
    }
    if scope.key.role == Role::Sidecar {
        clusters.push(passthrough(view));
    }
    let named = clusters.iter().map(|it| Resource::new(it.name.clone(), it));
    named.collect()
}

/// Port and subset of every cluster of a service whose endpoints are sent apart.
pub fn targets<'a>(scope: &'a Scope, service: &'a Service) -> Vec<(&'a Port, Option<&'a Subset>)> {
    let subsets = scope
        .rule(&service.host)
        .map_or(&[][..], |rule| &rule.subsets);
    let ports = service
        .ports
        .iter()
        .filter(|it| it.protocol != Protocol::Udp);
    ports
        .flat_map(|port| {
            let subsets = subsets.iter().map(Some);
            [None]
                .into_iter()
                .chain(subsets)
                .map(move |subset| (port, subset))
        })
        .collect()
}

fn of_service(
    view: &View,
    scope: &Scope,
    service: &Service,
    client: Client<'_>,
) -> Vec<pb::Cluster> {
    if service.resolution == Resolution::Alias {
        return Vec::new();
    }
    let all = targets(scope, service);
    let built = all.into_iter();
    built
        .filter_map(|(port, subset)| build(view, scope, service, port, subset, client))
        .collect()
}

fn build(
    view: &View,
    scope: &Scope,
    service: &Service,
    port: &Port,
    subset: Option<&Subset>,
    client: Client<'_>,
) -> Option<pb::Cluster> {
    let rule = scope.rule(&service.host);
    let policy = rule
        .map(|it| it.policy(port.number, subset))
        .unwrap_or_default();
    let subset_name = subset.map_or("", |it| it.name.as_str());
    let name = name(port.number, subset_name, &service.host);
    let simple = policy.load_balancer.as_ref().and_then(|it| it.simple);
    let discovery = match simple {
        Some(SimpleLb::Passthrough) if scope.key.role == Role::Sidecar => {
            DiscoveryType::OriginalDst
        }
        _ => discovery(service, scope.key.role),
    };
    let mut draft = Draft::new(name.clone(), discovery, &view.mesh);
    match discovery {
        DiscoveryType::Eds => {
            draft.cluster.eds_cluster_config = Some(pb::cluster::EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: name.clone(),
            });
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let mut found = endpoints(view, service, port);
            found.retain(|it| subset.is_none_or(|subset| selects(&subset.labels, &it.labels)));
            if found.is_empty() {
                return None;
            }
            if discovery == DiscoveryType::LogicalDns {
                // Envoy takes one name there.
                found.truncate(1);
            }
            let load = assignment::assignment(&name, &found, &view.mesh, &policy, client);
            draft.cluster.load_assignment = Some(load);
            draft.cluster.dns_lookup_family = pb::cluster::DnsLookupFamily::V4Only as i32;
            // Deprecated in favour of a cluster type of its own, which no release before Envoy 1.34 knows.
            #[allow(deprecated)]
            {
                draft.cluster.respect_dns_ttl = true;
            }
        }
        DiscoveryType::OriginalDst | DiscoveryType::Static => {}
    }
    speak(&mut draft, port, &policy, view);
    draft.stands_for(&[service]);
    policy::apply(&mut draft, &view.mesh, &policy);
    let least_request = pb::cluster::LbPolicy::LeastRequest as i32;
    if scope.key.role == Role::Grpc && draft.cluster.lb_policy == least_request {
        // gRPC refuses a cluster with it.
        draft.cluster.lb_policy = pb::cluster::LbPolicy::RoundRobin as i32;
        draft.cluster.lb_config = None;
    }
    transport::apply(&mut draft, service, &policy, scope);
    annotate(&mut draft, service, port, subset_name);
    let cause = rule.map(|it| it.reference.clone());
    if let Some(reference) = cause.or_else(|| service_reference(service)) {
        metadata::set_object(&mut draft.cluster.metadata, &reference);
    }
    Some(draft.finish())
}

fn annotate(draft: &mut Draft, service: &Service, port: &Port, subset: &str) {
    use crate::proto::protobuf::{Value, value::Kind};
    let metadata = &mut draft.cluster.metadata;
    if !subset.is_empty() {
        metadata::set(
            metadata,
            metadata::ISTIO,
            "subset",
            metadata::string(subset),
        );
    }
    let port = Value {
        kind: Some(Kind::NumberValue(f64::from(port.number))),
    };
    metadata::set(metadata, metadata::ISTIO, "default_original_port", port);
    if service.mesh_external {
        let external = Value {
            kind: Some(Kind::BoolValue(true)),
        };
        metadata::set(metadata, metadata::ISTIO, "external", external);
    }
}

/// Which HTTP is spoken upstream.
fn speak(draft: &mut Draft, port: &Port, policy: &TrafficPolicy, view: &View) {
    use trireme_model::istio::H2UpgradePolicy;
    let http = policy
        .connection_pool
        .as_ref()
        .and_then(|pool| pool.http.as_ref());
    let as_client = http.is_some_and(|http| http.use_client_protocol);
    let upgrade = match http.map(|http| http.h2_upgrade_policy) {
        Some(H2UpgradePolicy::Upgrade) => true,
        Some(H2UpgradePolicy::DoNotUpgrade) => false,
        _ => {
            view.mesh.h2_upgrade_policy == H2UpgradePolicy::Upgrade
                && port.protocol.treatment() == Treatment::Http
        }
    };
    if port.protocol.is_http2() || (upgrade && !as_client) {
        draft.speak_http2();
    } else if as_client || port.protocol == Protocol::Auto {
        draft.speak_as_client();
    }
}

fn black_hole(view: &View) -> pb::Cluster {
    Draft::new(BLACK_HOLE.to_owned(), DiscoveryType::Static, &view.mesh).finish()
}

fn passthrough(view: &View) -> pb::Cluster {
    let mut draft = Draft::new(
        PASSTHROUGH.to_owned(),
        DiscoveryType::OriginalDst,
        &view.mesh,
    );
    draft.speak_as_client();
    policy::apply(&mut draft, &view.mesh, &TrafficPolicy::default());
    draft.finish()
}

/// Whether clusters made for one client of a scope may differ from another's: endpoints that are part of a cluster
/// are sorted by where the client is.
pub fn depends_on_place(view: &View, scope: &Scope) -> bool {
    let by_name = |service: &Service| {
        service.origin == Origin::ServiceEntry
            && matches!(
                service.resolution,
                Resolution::Dns | Resolution::DnsRoundRobin
            )
    };
    scope
        .services
        .values()
        .filter(|it| by_name(it))
        .any(|service| {
            targets(scope, service).into_iter().any(|(port, subset)| {
                let rule = scope.rule(&service.host);
                let policy = rule
                    .map(|it| it.policy(port.number, subset))
                    .unwrap_or_default();
                assignment::depends_on_place(&view.mesh, &policy)
            })
        })
}
