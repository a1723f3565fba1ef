//! One pod: walk the nodes, keep those that fit, choose the best.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::cluster::Cluster;
use super::diagnosis::Diagnosis;
use super::filter;
use super::profile::Profile;
use super::score;
use crate::digest::{fnv1a, mix};

/// Clusters up to this size are searched whole, as in kube-scheduler.
const MIN_NODES_TO_FIND: usize = 100;

/// How many fitting nodes are enough: kube-scheduler's adaptive share of the cluster, from half of a
/// small one down to a twentieth.
fn nodes_to_find(nodes: usize) -> usize {
    if nodes <= MIN_NODES_TO_FIND {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(MIN_NODES_TO_FIND)
}

/// The position of the node for the pod, or why there is none.
pub(super) fn place(cluster: &mut Cluster<'_>, pod: &Arc<Pod>) -> Result<usize, Diagnosis> {
    let nodes = cluster.nodes.len();
    let never_preempts = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.preemption_policy.as_deref())
        == Some("Never");
    let mut diagnosis = Diagnosis::new(nodes, never_preempts);
    let Some(profile) = Profile::of(cluster, pod) else {
        return Err(diagnosis);
    };
    diagnosis.may_be_cured_by_company = profile.company.seeks_company();
    let enough = nodes_to_find(nodes);
    let mut fitting = Vec::with_capacity(enough);
    let mut looked_at = 0;
    for offset in 0..nodes {
        let node = (cluster.next_start + offset) % nodes;
        looked_at += 1;
        match filter::check(&profile, &cluster.nodes[node], node) {
            Ok(()) => fitting.push(node),
            Err(refusal) => diagnosis.add(&refusal),
        }
        if fitting.len() >= enough {
            break;
        }
    }
    if nodes > 0 {
        cluster.next_start = (cluster.next_start + looked_at) % nodes;
    }
    match fitting[..] {
        [] => Err(diagnosis),
        [only] => Ok(only),
        _ => Ok(best(cluster, &profile, &fitting)),
    }
}

fn best(cluster: &Cluster<'_>, profile: &Profile<'_>, fitting: &[usize]) -> usize {
    let scores = score::scores(cluster, profile, fitting);
    let totals = score::totals(&scores, fitting.len());
    let uid = profile.pod.metadata.uid.as_deref().unwrap_or_default();
    let draw = cluster.seed ^ fnv1a(uid.as_bytes());
    let ranked = fitting.iter().zip(&totals);
    // Of equals, the one the seed puts first for this pod.
    let best = ranked.max_by_key(|(node, total)| (**total, mix(draw ^ **node as u64)));
    best.map_or(fitting[0], |(node, _)| *node)
}

#[cfg(test)]
mod tests {
    use super::nodes_to_find;

    #[test]
    fn the_share_searched_shrinks_with_the_cluster() {
        assert_eq!(nodes_to_find(10), 10);
        assert_eq!(nodes_to_find(100), 100);
        assert_eq!(nodes_to_find(150), 100);
        assert_eq!(nodes_to_find(1000), 420);
        assert_eq!(nodes_to_find(5000), 500);
        assert_eq!(nodes_to_find(10_000), 500);
    }
}
