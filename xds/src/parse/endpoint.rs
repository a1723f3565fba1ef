//! Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_proxy_decide::config::{
    Address, Endpoint, EndpointHealth, Endpoints, Labels, Locality, LocalityEndpoints,
};

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{fraction, host_and_port, ip, labels, number, text};
use crate::metadata::{self, ENVOY_LB, ENVOY_TRANSPORT_SOCKET_MATCH, ISTIO};
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::config::endpoint::v3 as proto;

/// Envoy counts priorities from 0 to this.
const MAX_PRIORITY: u32 = 128;

/// `by_name`: hosts may be names, which a cluster of a DNS kind resolves.
pub(super) fn endpoints(
    message: &proto::ClusterLoadAssignment,
    by_name: bool,
) -> Outcome<Endpoints> {
    unsupported(!message.named_endpoints.is_empty(), "named_endpoints")?;
    let mut endpoints = Endpoints::new(&message.cluster_name);
    let mut shared = Shared::default();
    for (index, locality) in message.endpoints.iter().enumerate() {
        let read = locality_endpoints(locality, by_name, &mut shared);
        endpoints
            .localities
            .push(read.at_element("endpoints", index, "")?);
    }
    check_priorities(&endpoints)?;
    if let Some(policy) = &message.policy {
        let within = "policy";
        unsupported(
            policy.endpoint_stale_after.is_some(),
            "endpoint_stale_after",
        )
        .at(within)?;
        if let Some(factor) = number(policy.overprovisioning_factor.as_ref()) {
            if factor < 100 {
                return Err(refused("overprovisioning_factor", "must be at least 100")).at(within);
            }
            endpoints.overprovisioning_factor = factor;
        }
        endpoints.weighted_priority_health = policy.weighted_priority_health;
        endpoints.drop_overloads = each("drop_overloads", &policy.drop_overloads, |overload| {
            let share = match &overload.drop_percentage {
                Some(share) => fraction(share).at("drop_percentage")?,
                None => return Err(refused("drop_percentage", "must be given")),
            };
            Ok((Arc::from(overload.category.as_str()), share))
        })
        .at(within)?;
    }
    Ok(endpoints)
}

/// Labels that were read already: endpoints of one workload share theirs.
#[derive(Default)]
struct Shared {
    labels: BTreeMap<LabelKey, Arc<Labels>>,
    hostnames: BTreeMap<String, Arc<str>>,
}

type LabelKey = (
    Vec<(Arc<str>, Arc<str>)>,
    Vec<(Arc<str>, Arc<str>)>,
    Option<Arc<str>>,
);

impl Shared {
    fn labels(&mut self, metadata: Option<&core::Metadata>) -> Outcome<Arc<Labels>> {
        let subset = labels(metadata, ENVOY_LB)?;
        let transport = labels(metadata, ENVOY_TRANSPORT_SOCKET_MATCH)?;
        let istio = metadata::filter(metadata, ISTIO);
        let workload = istio.and_then(|fields| metadata::text(fields, "workload"));
        let workload: Option<Arc<str>> = workload.map(Arc::from);
        let key = (subset.clone(), transport.clone(), workload.clone());
        let made = self.labels.entry(key).or_insert_with(|| {
            Arc::new(Labels {
                subset,
                transport,
                workload,
            })
        });
        Ok(made.clone())
    }

    fn hostname(&mut self, name: &str) -> Option<Arc<str>> {
        let name = text(name)?;
        let made = self.hostnames.entry(name.to_string()).or_insert(name);
        Some(made.clone())
    }
}

fn locality_endpoints(
    message: &proto::LocalityLbEndpoints,
    by_name: bool,
    shared: &mut Shared,
) -> Outcome<LocalityEndpoints> {
    unsupported(message.proximity.is_some(), "proximity")?;
    if message.priority > MAX_PRIORITY {
        return Err(refused(
            "priority",
            format!("{} must be at most {MAX_PRIORITY}", message.priority),
        ));
    }
    use proto::locality_lb_endpoints::LbConfig;
    #[allow(deprecated)]
    let listed = match &message.lb_config {
        None => &message.lb_endpoints,
        Some(LbConfig::LoadBalancerEndpoints(list)) => &list.lb_endpoints,
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(refused(
                "leds_cluster_locality_config",
                "is not supported by this proxy",
            ));
        }
    };
    let place = message.locality.as_ref();
    let part = |part: fn(&core::Locality) -> &String| -> Arc<str> {
        place.map_or("", |place| part(place).as_str()).into()
    };
    Ok(LocalityEndpoints {
        locality: Locality {
            region: part(|place| &place.region),
            zone: part(|place| &place.zone),
            sub_zone: part(|place| &place.sub_zone),
        },
        priority: message.priority,
        weight: number(message.load_balancing_weight.as_ref()),
        endpoints: each("lb_endpoints", listed, |one| endpoint(one, by_name, shared))?,
    })
}

fn endpoint(message: &proto::LbEndpoint, by_name: bool, shared: &mut Shared) -> Outcome<Endpoint> {
    use proto::lb_endpoint::HostIdentifier;
    let endpoint = match &message.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(refused("endpoint_name", "is not supported by this proxy"));
        }
        None => return Err(refused("endpoint", "must be given")),
    };
    unsupported(
        !endpoint.additional_addresses.is_empty(),
        "endpoint.additional_addresses",
    )?;
    let Some(address) = &endpoint.address else {
        return Err(refused("endpoint.address", "must be given"));
    };
    let (host, port) = host_and_port(address).at("endpoint.address")?;
    let address = match ip(host) {
        Ok(ip) => Address::from(std::net::SocketAddr::new(ip, port)),
        Err(_) if by_name && !host.is_empty() => Address::Name(Box::new((host.into(), port))),
        Err(refusal) => return Err(refusal).at("endpoint.address.socket_address.address"),
    };
    let weight = match number(message.load_balancing_weight.as_ref()) {
        Some(0) => return Err(refused("load_balancing_weight", "must be greater than 0")),
        other => other.unwrap_or(1),
    };
    use core::HealthStatus;
    let health = match HealthStatus::try_from(message.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => EndpointHealth::Healthy,
        Ok(HealthStatus::Unhealthy) => EndpointHealth::Unhealthy,
        Ok(HealthStatus::Draining) => EndpointHealth::Draining,
        Ok(HealthStatus::Timeout) => EndpointHealth::Timeout,
        Ok(HealthStatus::Degraded) => EndpointHealth::Degraded,
        Err(_) => {
            return Err(refused(
                "health_status",
                format!("{} is not known", message.health_status),
            ));
        }
    };
    Ok(Endpoint {
        address,
        weight,
        health,
        hostname: shared.hostname(&endpoint.hostname),
        labels: shared.labels(message.metadata.as_ref()).at("metadata")?,
    })
}

/// Priorities without a gap: failover goes from one to the next.
fn check_priorities(endpoints: &Endpoints) -> Outcome<()> {
    let given: std::collections::BTreeSet<u32> = endpoints
        .localities
        .iter()
        .map(|locality| locality.priority)
        .collect();
    for (expected, priority) in (0..).zip(given) {
        if priority != expected {
            return Err(reason(format!(
                "endpoints: priorities must have no gap: there is none of priority {expected}"
            )));
        }
    }
    Ok(())
}
