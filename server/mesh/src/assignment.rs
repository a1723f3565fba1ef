//! The endpoints of a cluster as they go over the wire: by place, with shares or an order of preference.

use std::collections::BTreeMap;

use trireme_model::istio::{LocalityLbSetting, TrafficPolicy};
use trireme_xds::metadata;

use crate::endpoint::Endpoint;
use crate::locality::Locality;
use crate::mesh_config::MeshConfig;
use crate::proto::{address, core, endpoint as pb, uint};

/// Who asks, as far as the answer depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    pub locality: &'a Locality,
    pub labels: &'a BTreeMap<String, String>,
    pub node: &'a str,
}

/// Endpoints of one place that are preferred alike.
struct Group {
    locality: Locality,
    priority: u32,
    weight: u32,
    endpoints: Vec<pb::LbEndpoint>,
}

/// The setting that holds for a policy: the rule's, else the mesh's; `None` where it is turned off.
pub fn locality_setting(mesh: &MeshConfig, policy: &TrafficPolicy) -> Option<LocalityLbSetting> {
    let own = policy.load_balancer.as_ref();
    let setting = own
        .and_then(|it| it.locality_lb_setting.as_ref())
        .or(mesh.locality_lb_setting.as_ref())
        .cloned()
        .unwrap_or_default();
    (setting.enabled != Some(false)).then_some(setting)
}

/// Whether two clients in different places may get different assignments.
pub fn depends_on_place(mesh: &MeshConfig, policy: &TrafficPolicy) -> bool {
    locality_setting(mesh, policy)
        .is_some_and(|it| !it.distribute.is_empty() || policy.outlier_detection.is_some())
}

/// The load assignment of a cluster.
pub fn assignment(
    cluster: &str,
    endpoints: &[Endpoint],
    mesh: &MeshConfig,
    policy: &TrafficPolicy,
    client: Client<'_>,
) -> pb::ClusterLoadAssignment {
    pb::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities(endpoints, mesh, policy, client),
        ..pb::ClusterLoadAssignment::default()
    }
}

/// The endpoints by place. Failover needs ejection to have something to fail over from, so without outlier detection
/// there is one priority.
pub fn localities(
    endpoints: &[Endpoint],
    mesh: &MeshConfig,
    policy: &TrafficPolicy,
    client: Client<'_>,
) -> Vec<pb::LocalityLbEndpoints> {
    let setting = locality_setting(mesh, policy);
    let mut groups = match &setting {
        Some(setting) if !setting.distribute.is_empty() => {
            distributed(grouped(endpoints, |_| 0), setting, client.locality)
        }
        Some(setting) if policy.outlier_detection.is_some() => {
            let rank = |endpoint: &Endpoint| preference(endpoint, setting, client);
            grouped(endpoints, rank)
        }
        _ => grouped(endpoints, |_| 0),
    };
    close_gaps(&mut groups);
    groups
        .into_iter()
        .map(|group| pb::LocalityLbEndpoints {
            // Also where it is unknown: gRPC refuses endpoints without one.
            locality: Some(core::Locality {
                region: group.locality.region,
                zone: group.locality.zone,
                sub_zone: group.locality.sub_zone,
            }),
            lb_endpoints: group.endpoints,
            load_balancing_weight: uint(group.weight),
            priority: group.priority,
            ..pb::LocalityLbEndpoints::default()
        })
        .collect()
}

fn grouped(endpoints: &[Endpoint], rank: impl Fn(&Endpoint) -> u32) -> Vec<Group> {
    let mut groups: BTreeMap<(u32, &Locality), Group> = BTreeMap::new();
    for endpoint in endpoints {
        let priority = rank(endpoint);
        let group = groups.entry((priority, &endpoint.locality));
        let group = group.or_insert_with(|| Group {
            locality: endpoint.locality.clone(),
            priority,
            weight: 0,
            endpoints: Vec::new(),
        });
        group.weight = group.weight.saturating_add(endpoint.weight);
        group.endpoints.push(one(endpoint));
    }
    groups.into_values().collect()
}

fn one(endpoint: &Endpoint) -> pb::LbEndpoint {
    let mut metadata = None;
    metadata::set_workload(&mut metadata, &endpoint.workload);
    pb::LbEndpoint {
        health_status: core::HealthStatus::Healthy as i32,
        metadata,
        load_balancing_weight: uint(endpoint.weight),
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(pb::Endpoint {
            address: Some(address(&endpoint.address, endpoint.port)),
            ..pb::Endpoint::default()
        })),
    }
}

/// Envoy wants priorities without gaps.
fn close_gaps(groups: &mut [Group]) {
    let mut known: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    known.sort_unstable();
    known.dedup();
    for group in groups.iter_mut() {
        let place = known.partition_point(|priority| *priority < group.priority);
        group.priority = u32::try_from(place).unwrap_or(u32::MAX);
    }
}

/// The shares that a client's place prescribes; places without one get nothing.
fn distributed(groups: Vec<Group>, setting: &LocalityLbSetting, client: &Locality) -> Vec<Group> {
    let mut rules = setting.distribute.iter();
    let Some(rule) = rules.find(|rule| client.matches(&rule.from)) else {
        return groups;
    };
    // The most specific pattern of a place is its own: `eu/a/*` before `eu/*`.
    let mut patterns: Vec<(&String, &u32)> = rule.to.iter().collect();
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(depth(pattern)));
    let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    let mut chosen = Vec::new();
    for (pattern, share) in patterns {
        let mut same = Vec::new();
        for slot in &mut groups {
            if slot.as_ref().is_some_and(|it| it.locality.matches(pattern)) {
                same.extend(slot.take());
            }
        }
        let total: u64 = same.iter().map(|group| u64::from(group.weight)).sum();
        for mut group in same {
            let weight = (u64::from(group.weight) * u64::from(*share)).div_ceil(total.max(1));
            group.weight = u32::try_from(weight).unwrap_or(u32::MAX);
            if group.weight > 0 {
                chosen.push(group);
            }
        }
    }
    chosen.sort_by(|one, other| one.locality.cmp(&other.locality));
    chosen
}

fn depth(pattern: &str) -> usize {
    pattern.split('/').filter(|part| *part != "*").count()
}

/// How far down an endpoint stands in a client's preference: 0 is first.
fn preference(endpoint: &Endpoint, setting: &LocalityLbSetting, client: Client<'_>) -> u32 {
    if !setting.failover_priority.is_empty() {
        let total = setting.failover_priority.len();
        let alike = setting
            .failover_priority
            .iter()
            .take_while(|entry| alike(entry, endpoint, client))
            .count();
        return u32::try_from(total - alike).unwrap_or(u32::MAX);
    }
    if client.locality.is_unknown() {
        return 0;
    }
    let (here, there) = (client.locality, &endpoint.locality);
    if here.region == there.region {
        return match (here.zone == there.zone, here.sub_zone == there.sub_zone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
    }
    let mut rules = setting.failover.iter();
    match rules.find(|rule| rule.from == here.region) {
        Some(rule) if rule.to != there.region => 4,
        _ => 3,
    }
}

/// Whether client and endpoint have the same value of a label, or the endpoint the one that is asked for.
fn alike(entry: &str, endpoint: &Endpoint, client: Client<'_>) -> bool {
    let (name, wanted) = match entry.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (entry, None),
    };
    let there = value(name, &endpoint.labels, &endpoint.locality, &endpoint.node);
    let wanted = wanted.or_else(|| value(name, client.labels, client.locality, client.node));
    wanted == there
}

fn value(
    name: &str,
    labels: &BTreeMap<String, String>,
    locality: &Locality,
    node: &str,
) -> Option<String> {
    let place = match name {
        "topology.kubernetes.io/region" => &locality.region,
        "topology.kubernetes.io/zone" => &locality.zone,
        "topology.istio.io/subzone" => &locality.sub_zone,
        "kubernetes.io/hostname" => return Some(node.to_owned()),
        _ => return labels.get(name).cloned(),
    };
    Some(place.clone())
}
