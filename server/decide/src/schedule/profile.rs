//! What one pod asks of nodes, prepared once before the nodes are walked.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint, Toleration};

use super::cluster::Cluster;
use super::interpod::Company;
use super::spread::{self, HardSpread, SoftSpread};
use super::toleration;
use crate::key::ObjectKey;
use crate::view::PodDemand;

pub(super) struct Profile<'a> {
    pub pod: &'a Arc<Pod>,
    pub spec: &'a PodSpec,
    pub demand: PodDemand,
    pub tolerations: &'a [Toleration],
    pub tolerates_unschedulable: bool,
    /// It has a node selector or required node affinity.
    pub selects_nodes: bool,
    pub prefers_nodes: bool,
    pub hard_spread: Vec<HardSpread>,
    pub soft_spread: Vec<SoftSpread>,
    /// Nodes without one of the topology labels score nothing (constraints of the pod's own).
    pub spread_needs_all_labels: bool,
    pub company: Company,
}

impl<'a> Profile<'a> {
    /// `None` for a pod without a spec, which the API does not let exist.
    pub fn of(cluster: &mut Cluster<'_>, pod: &'a Arc<Pod>) -> Option<Profile<'a>> {
        let spec = pod.spec.as_ref()?;
        let demand = match cluster.demands.get(&ObjectKey::of(&pod.metadata)) {
            Some(demand) => demand.clone(),
            None => PodDemand::of(pod),
        };
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let unschedulable = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let node_affinity = spec
            .affinity
            .as_ref()
            .and_then(|it| it.node_affinity.as_ref());
        let selects_nodes = spec.node_selector.as_ref().is_some_and(|it| !it.is_empty())
            || node_affinity.is_some_and(|affinity| {
                affinity
                    .required_during_scheduling_ignored_during_execution
                    .is_some()
            });
        let prefers_nodes = node_affinity.is_some_and(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
                .is_some_and(|terms| !terms.is_empty())
        });
        let hard_spread = spread::hard(cluster, pod, spec);
        let (soft_spread, spread_needs_all_labels) = spread::soft(cluster, pod, spec);
        Some(Profile {
            pod,
            spec,
            demand,
            tolerations,
            tolerates_unschedulable: toleration::any_tolerates(tolerations, &unschedulable),
            selects_nodes,
            prefers_nodes,
            hard_spread,
            soft_spread,
            spread_needs_all_labels,
            company: Company::of(cluster, pod, spec),
        })
    }
}
