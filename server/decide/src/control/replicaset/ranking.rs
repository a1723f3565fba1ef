//! Which pods a ReplicaSet gives up first: those that serve least, and of equals the youngest,
//! with ages compared by their logarithm so that equals in practice are chosen evenly.
//! The order is the one Kubernetes documents for scaling down.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::{is_active, is_ready, node_of, phase_of, ready_since};
use crate::view::{View, controller_of};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DELETION_COST))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase_of(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn most_restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

/// Age in powers of two of nanoseconds; `None` where the time is not known (it counts as newest).
fn age_magnitude(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let Some(since) = since else {
        return 0;
    };
    let nanos = now.duration_since(since).as_nanos();
    u128::try_from(nanos)
        .ok()
        .and_then(u128::checked_ilog2)
        .unwrap_or(0)
}

/// Everything the order looks at, so that sorting compares plain values.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    /// More pods of the same owner on the same node: this one is missed less.
    neighbours: Reverse<usize>,
    ready_magnitude: u32,
    restarts: Reverse<i32>,
    age_magnitude: u32,
    uid: String,
}

/// The `count` pods of `active` to delete, first choice first.
pub(super) fn first_to_go<'a>(
    view: &View,
    set: &ReplicaSet,
    active: Vec<&'a Arc<Pod>>,
    count: usize,
) -> Vec<&'a Arc<Pod>> {
    if count >= active.len() {
        return active;
    }
    let neighbours = pods_per_node(view, set);
    let now = view.now();
    let mut ranked: Vec<(Standing, &Arc<Pod>)> = active
        .into_iter()
        .map(|pod| {
            let node = node_of(pod);
            let created = pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
            let standing = Standing {
                assigned: node.is_some(),
                phase: phase_rank(pod),
                ready: is_ready(pod),
                deletion_cost: deletion_cost(pod),
                neighbours: Reverse(
                    node.and_then(|node| neighbours.get(node))
                        .copied()
                        .unwrap_or(0),
                ),
                ready_magnitude: age_magnitude(ready_since(pod), now),
                restarts: Reverse(most_restarts(pod)),
                age_magnitude: age_magnitude(created, now),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
            };
            (standing, pod)
        })
        .collect();
    ranked.sort_by(|(one, _), (other, _)| -> Ordering { one.cmp(other) });
    ranked.truncate(count);
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

/// Active pods per node over all ReplicaSets of the same owner (during a rollout the old and the
/// new one spread together).
fn pods_per_node<'a>(view: &'a View, set: &ReplicaSet) -> BTreeMap<&'a str, usize> {
    let mut sets: Vec<String> = vec![set.metadata.uid.clone().unwrap_or_default()];
    if let Some(owner) = controller_of(&set.metadata) {
        sets = view
            .replica_sets_of(&owner.uid)
            .filter_map(|set| set.metadata.uid.clone())
            .collect();
    }
    let mut counts = BTreeMap::new();
    for uid in sets {
        for pod in view.pods_of(&uid).filter(|pod| is_active(pod)) {
            if let Some(node) = node_of(pod) {
                *counts.entry(node).or_default() += 1;
            }
        }
    }
    counts
}
