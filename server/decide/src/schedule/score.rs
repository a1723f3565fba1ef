//! Scores of the nodes that passed every filter: kube-scheduler's plugins, each 0 to 100, with its
//! default weights.

use k8s_openapi::api::core::v1::{Container, Taint};

use super::cluster::{Cluster, NodeState};
use super::profile::Profile;
use super::{nodeaffinity, spread, toleration};

/// Plugin names and weights, in the order of [`scores`].
pub(super) const PLUGINS: [(&str, i64); 7] = [
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("NodeResourcesBalancedAllocation", 1),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("ImageLocality", 1),
];

const MAX_SCORE: i64 = 100;

/// Scores per plugin, then per node of `nodes`.
pub(super) fn scores(
    cluster: &Cluster<'_>,
    profile: &Profile<'_>,
    nodes: &[usize],
) -> [Vec<i64>; PLUGINS.len()] {
    let each = |score: &dyn Fn(&NodeState<'_>) -> i64| -> Vec<i64> {
        nodes
            .iter()
            .map(|node| score(&cluster.nodes[*node]))
            .collect()
    };
    [
        fewest_best(each(&|state| intolerable(profile, &state.discouragements))),
        if profile.prefers_nodes {
            most_best(each(&|state| {
                nodeaffinity::preference(profile.spec, state.node)
            }))
        } else {
            vec![0; nodes.len()]
        },
        each(&|state| least_allocated(profile, state)),
        each(&|state| balanced_allocation(profile, state)),
        spread::score(
            cluster,
            profile.spec,
            &profile.soft_spread,
            profile.spread_needs_all_labels,
            nodes,
        ),
        profile.company.score(nodes),
        image_locality(cluster, profile, nodes),
    ]
}

/// The weighted sum per node.
pub(super) fn totals(scores: &[Vec<i64>; PLUGINS.len()], nodes: usize) -> Vec<i64> {
    let mut totals = vec![0; nodes];
    for ((_, weight), plugin) in PLUGINS.iter().zip(scores) {
        for (total, score) in totals.iter_mut().zip(plugin) {
            *total += weight * score;
        }
    }
    totals
}

/// Scales so that the highest count gets 100.
fn most_best(counts: Vec<i64>) -> Vec<i64> {
    let most = counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return counts;
    }
    counts
        .into_iter()
        .map(|count| MAX_SCORE * count / most)
        .collect()
}

/// Scales so that a count of zero gets 100.
fn fewest_best(counts: Vec<i64>) -> Vec<i64> {
    let most = counts.iter().copied().max().unwrap_or(0);
    let scaled = |count: i64| {
        if most == 0 {
            MAX_SCORE
        } else {
            MAX_SCORE - MAX_SCORE * count / most
        }
    };
    counts.into_iter().map(scaled).collect()
}

fn intolerable(profile: &Profile<'_>, taints: &[&Taint]) -> i64 {
    let bad = taints
        .iter()
        .filter(|taint| !toleration::any_tolerates(profile.tolerations, taint));
    i64::try_from(bad.count()).unwrap_or(i64::MAX)
}

/// The share of cpu and memory left free, on average.
fn least_allocated(profile: &Profile<'_>, state: &NodeState<'_>) -> i64 {
    let pairs = [
        (
            state.usage.scored_cpu_milli + profile.demand.scored_cpu_milli,
            state.allocatable.cpu_milli,
        ),
        (
            state
                .usage
                .scored_memory_bytes
                .saturating_add(profile.demand.scored_memory_bytes),
            state.allocatable.memory_bytes,
        ),
    ];
    let (mut sum, mut weights) = (0, 0);
    for (used, has) in pairs {
        if has <= 0 {
            continue;
        }
        weights += 1;
        if used <= has {
            sum += share(has - used, has, MAX_SCORE);
        }
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// `part / whole` in units of `unit`, without overflow.
fn share(part: i64, whole: i64, unit: i64) -> i64 {
    if let Some(scaled) = part.checked_mul(unit) {
        return scaled / whole;
    }
    let share = i128::from(part) * i128::from(unit) / i128::from(whole);
    i64::try_from(share).unwrap_or(unit)
}

/// How equally cpu and memory are used: 100 less the standard deviation of their shares.
fn balanced_allocation(profile: &Profile<'_>, state: &NodeState<'_>) -> i64 {
    const UNIT: i64 = 1_000_000;
    let fraction = |used: i64, wanted: i64, has: i64| {
        if has <= 0 {
            return None;
        }
        Some(share(used.saturating_add(wanted), has, UNIT).min(UNIT))
    };
    let (used, wanted, has) = (
        &state.usage.requested,
        &profile.demand.requests,
        state.allocatable,
    );
    let cpu = fraction(used.cpu_milli, wanted.cpu_milli, has.cpu_milli);
    let memory = fraction(used.memory_bytes, wanted.memory_bytes, has.memory_bytes);
    let deviation = match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2,
        _ => 0,
    };
    MAX_SCORE * (UNIT - deviation) / UNIT
}

/// An image smaller than this does not count, one larger counts as this much (per container).
const IMAGE_MIN_BYTES: i64 = 23 * 1024 * 1024;
const IMAGE_MAX_BYTES: i64 = 1000 * 1024 * 1024;

fn image_locality(cluster: &Cluster<'_>, profile: &Profile<'_>, nodes: &[usize]) -> Vec<i64> {
    let spec = profile.spec;
    let containers: Vec<&Container> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .collect();
    let total_nodes = i64::try_from(cluster.nodes.len())
        .unwrap_or(i64::MAX)
        .max(1);
    // What each image is worth where it is present: its size, less if few nodes have it.
    let wanted: Vec<(String, i64)> = containers
        .iter()
        .filter_map(|container| {
            let name = normalized(container.image.as_deref()?);
            let spread = cluster.view.usage.images.get(&name)?;
            let worth = share(spread.size_bytes, total_nodes, spread.nodes);
            Some((name, worth))
        })
        .collect();
    if wanted.is_empty() {
        return vec![0; nodes.len()];
    }
    let most = IMAGE_MAX_BYTES * i64::try_from(containers.len()).unwrap_or(1);
    nodes
        .iter()
        .map(|node| {
            let status = cluster.nodes[*node].node.status.as_ref();
            let images = || {
                status
                    .iter()
                    .flat_map(|status| status.images.iter().flatten())
            };
            let present = |name: &String| {
                images().any(|image| image.names.iter().flatten().any(|own| own == name))
            };
            let sum: i64 = wanted
                .iter()
                .filter(|(name, _)| present(name))
                .map(|(_, worth)| *worth)
                .sum();
            let sum = sum.clamp(IMAGE_MIN_BYTES, most.max(IMAGE_MIN_BYTES + 1));
            MAX_SCORE * (sum - IMAGE_MIN_BYTES) / (most - IMAGE_MIN_BYTES).max(1)
        })
        .collect()
}

/// With `:latest` where there is no tag, as nodes list images.
fn normalized(image: &str) -> String {
    let after_registry = image.rsplit('/').next().unwrap_or(image);
    if after_registry.contains(':') || after_registry.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
