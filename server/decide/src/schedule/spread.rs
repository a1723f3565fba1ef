//! Pod topology spread: hard constraints as a filter, soft ones and the system's default as a score.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use trireme_model::kinds;

use super::cluster::{Cluster, Domains};
use super::filter::Refusal;
use super::tally::{Scope, TallyId};
use super::{nodeaffinity, toleration};
use crate::key::ObjectKey;
use crate::labels::{map_selects, selects};
use crate::view::{controller_of, in_namespace};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Spreading for pods that ask for none: kube-scheduler's system default.
const DEFAULT_CONSTRAINTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// A DoNotSchedule constraint with its counts.
pub(super) struct HardSpread {
    domains: Arc<Domains>,
    /// Matching pods by domain, over the nodes that count.
    counts: Vec<u32>,
    fewest: u32,
    max_skew: u32,
    /// 1 if the pod itself is one of those it counts.
    own: u32,
}

impl HardSpread {
    pub fn check<'a>(&self, node: usize) -> Result<(), Refusal<'a>> {
        let Some(domain) = self.domains.of_node[node] else {
            return Err(Refusal::SpreadLabel);
        };
        let there = self.counts[domain as usize] + self.own;
        if there.saturating_sub(self.fewest) > self.max_skew {
            return Err(Refusal::Spread);
        }
        Ok(())
    }
}

fn scope(pod: &Pod, constraint: &TopologySpreadConstraint) -> Scope {
    // Without a selector a constraint counts nothing.
    let mut selector = constraint.label_selector.clone().unwrap_or_else(nothing);
    for key in constraint.match_label_keys.iter().flatten() {
        let own = pod
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key));
        if let Some(own) = own {
            let labels = selector.match_labels.get_or_insert_default();
            labels.entry(key.clone()).or_insert_with(|| own.clone());
        }
    }
    Scope {
        namespaces: vec![pod.metadata.namespace.clone().unwrap_or_default()],
        selector,
    }
}

/// A selector that picks no object: an operator nobody knows.
pub(super) fn nothing() -> LabelSelector {
    let never = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
        key: String::new(),
        operator: "Never".to_owned(),
        values: None,
    };
    LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![never]),
    }
}

/// Whether a node's pods count, by the constraint's inclusion policies.
fn is_counted(
    cluster: &Cluster<'_>,
    node: usize,
    spec: &PodSpec,
    constraint: &TopologySpreadConstraint,
) -> bool {
    let state = &cluster.nodes[node];
    if constraint.node_affinity_policy.as_deref() != Some("Ignore")
        && !nodeaffinity::allows(spec, state.node)
    {
        return false;
    }
    if constraint.node_taints_policy.as_deref() == Some("Honor") {
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        return state
            .taints
            .iter()
            .all(|taint| toleration::any_tolerates(tolerations, taint));
    }
    true
}

fn constraints<'a>(
    spec: &'a PodSpec,
    when: &'static str,
) -> impl Iterator<Item = &'a TopologySpreadConstraint> {
    spec.topology_spread_constraints
        .iter()
        .flatten()
        .filter(move |constraint| constraint.when_unsatisfiable == when)
}

pub(super) fn hard(cluster: &mut Cluster<'_>, pod: &Pod, spec: &PodSpec) -> Vec<HardSpread> {
    let wanted: Vec<&TopologySpreadConstraint> = constraints(spec, "DoNotSchedule").collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let all: Vec<Arc<Domains>> = wanted
        .iter()
        .map(|constraint| cluster.domains(&constraint.topology_key))
        .collect();
    let mut result = Vec::with_capacity(wanted.len());
    for (constraint, domains) in wanted.iter().zip(&all) {
        let scope = scope(pod, constraint);
        let own = u32::from(scope.picks(pod));
        let tally = cluster.tallies.find(cluster.view, &cluster.nodes, scope);
        let tally = cluster.tallies.get(tally);
        let mut counts = vec![0u32; domains.count];
        let mut counted = vec![false; domains.count];
        for node in 0..cluster.nodes.len() {
            let labelled = all.iter().all(|domains| domains.of_node[node].is_some());
            let Some(domain) = domains.of_node[node].filter(|_| labelled) else {
                continue;
            };
            if !is_counted(cluster, node, spec, constraint) {
                continue;
            }
            counted[domain as usize] = true;
            counts[domain as usize] += tally.on_node.get(&node).copied().unwrap_or(0);
        }
        let known = counted.iter().filter(|counted| **counted).count();
        let enough = constraint
            .min_domains
            .is_none_or(|least| known >= usize::try_from(least).unwrap_or(0));
        let fewest = counts
            .iter()
            .zip(&counted)
            .filter(|(_, counted)| **counted)
            .map(|(count, _)| *count)
            .min()
            .filter(|_| enough)
            .unwrap_or(0);
        result.push(HardSpread {
            domains: domains.clone(),
            counts,
            fewest,
            max_skew: u32::try_from(constraint.max_skew).unwrap_or(1),
            own,
        });
    }
    result
}

/// A ScheduleAnyway constraint.
pub(super) struct SoftSpread {
    tally: TallyId,
    /// `None`: every node is its own domain.
    domains: Option<Arc<Domains>>,
    max_skew: i32,
    /// `None` for the system's default, which counts every node.
    constraint: Option<TopologySpreadConstraint>,
}

fn is_per_host(key: &str) -> bool {
    key == HOSTNAME
}

/// The soft constraints, and whether nodes must carry all their labels to score.
pub(super) fn soft(
    cluster: &mut Cluster<'_>,
    pod: &Pod,
    spec: &PodSpec,
) -> (Vec<SoftSpread>, bool) {
    let own = spec
        .topology_spread_constraints
        .as_ref()
        .is_some_and(|own| !own.is_empty());
    if own {
        let soft = constraints(spec, "ScheduleAnyway")
            .map(|constraint| {
                let scope = scope(pod, constraint);
                let tally = cluster.tallies.find(cluster.view, &cluster.nodes, scope);
                let key = &constraint.topology_key;
                let domains = (!is_per_host(key)).then(|| cluster.domains(key));
                SoftSpread {
                    tally,
                    domains,
                    max_skew: constraint.max_skew,
                    constraint: Some(constraint.clone()),
                }
            })
            .collect();
        return (soft, true);
    }
    let Some(selector) = default_selector(cluster, pod) else {
        return (Vec::new(), false);
    };
    let scope = Scope {
        namespaces: vec![pod.metadata.namespace.clone().unwrap_or_default()],
        selector,
    };
    let tally = cluster.tallies.find(cluster.view, &cluster.nodes, scope);
    let soft = DEFAULT_CONSTRAINTS
        .iter()
        .map(|(key, max_skew)| SoftSpread {
            tally,
            domains: (!is_per_host(key)).then(|| cluster.domains(key)),
            max_skew: *max_skew,
            constraint: None,
        })
        .collect();
    (soft, false)
}

/// The pods that the default spreads a pod from: those of the same ReplicaSet and Services.
fn default_selector(cluster: &Cluster<'_>, pod: &Pod) -> Option<LabelSelector> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (_, service) in in_namespace(&cluster.view.services, namespace) {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        if let Some(selector) = selector.filter(|it| map_selects(it, &pod.metadata)) {
            labels.extend(selector.clone());
        }
    }
    let owner = controller_of(&pod.metadata)
        .filter(|owner| owner.kind == kinds::REPLICA_SET.kind)
        .and_then(|owner| {
            let key = ObjectKey::new(namespace, owner.name.clone());
            cluster.view.replica_set(&key)?.spec.as_ref()
        })
        .filter(|spec| selects(&spec.selector, &pod.metadata));
    let mut expressions = None;
    if let Some(spec) = owner {
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        expressions = spec
            .selector
            .match_expressions
            .clone()
            .filter(|it| !it.is_empty());
    }
    if labels.is_empty() && expressions.is_none() {
        return None;
    }
    Some(LabelSelector {
        match_labels: Some(labels),
        match_expressions: expressions,
    })
}

/// Scores of the nodes that passed the filters, 0 to 100.
pub(super) fn score(
    cluster: &Cluster<'_>,
    spec: &PodSpec,
    constraints: &[SoftSpread],
    needs_all_labels: bool,
    nodes: &[usize],
) -> Vec<i64> {
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    let ignored = |node: usize| {
        needs_all_labels
            && constraints.iter().any(|constraint| {
                constraint
                    .domains
                    .as_ref()
                    .is_some_and(|it| it.of_node[node].is_none())
            })
    };
    let scored: Vec<usize> = nodes
        .iter()
        .copied()
        .filter(|node| !ignored(*node))
        .collect();
    let mut sums = vec![0f64; nodes.len()];
    for constraint in constraints {
        let tally = cluster.tallies.get(constraint.tally);
        let bonus = f64::from(constraint.max_skew - 1);
        let Some(domains) = &constraint.domains else {
            let weight = (scored.len() as f64 + 2.0).ln();
            for (sum, node) in sums.iter_mut().zip(nodes) {
                let count = tally.on_node.get(node).copied().unwrap_or(0);
                *sum += f64::from(count) * weight + bonus;
            }
            continue;
        };
        let mut present = vec![false; domains.count];
        for node in &scored {
            if let Some(domain) = domains.of_node[*node] {
                present[domain as usize] = true;
            }
        }
        let mut counts = vec![0u32; domains.count];
        for (node, count) in &tally.on_node {
            let counted = constraint
                .constraint
                .as_ref()
                .is_none_or(|constraint| is_counted(cluster, *node, spec, constraint));
            if let Some(domain) = domains.of_node[*node].filter(|_| counted) {
                counts[domain as usize] += count;
            }
        }
        let size = present.iter().filter(|present| **present).count();
        let weight = (size as f64 + 2.0).ln();
        for (sum, node) in sums.iter_mut().zip(nodes) {
            if let Some(domain) = domains.of_node[*node] {
                *sum += f64::from(counts[domain as usize]) * weight + bonus;
            }
        }
    }
    // Fewer is better: turned around and scaled to 100.
    let rounded: Vec<i64> = sums.iter().map(|sum| sum.round() as i64).collect();
    let counted = || {
        nodes
            .iter()
            .zip(&rounded)
            .filter(|(node, _)| !ignored(**node))
    };
    let most = counted().map(|(_, sum)| *sum).max().unwrap_or(0);
    let least = counted().map(|(_, sum)| *sum).min().unwrap_or(0);
    nodes
        .iter()
        .zip(&rounded)
        .map(|(node, sum)| {
            if ignored(*node) {
                0
            } else if most == 0 {
                100
            } else {
                100 * (most + least - sum) / most
            }
        })
        .collect()
}
