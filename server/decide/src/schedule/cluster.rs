//! The nodes as one plan sees them: the view's, with what this plan has placed already.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::interpod::Stances;
use super::tally::Tallies;
use crate::view::{NodeUsage, PodDemand, Resources, View};

pub(super) struct NodeState<'a> {
    pub name: &'a str,
    pub node: &'a Arc<Node>,
    pub allocatable: &'a Resources,
    pub usage: NodeUsage,
    pub unschedulable: bool,
    /// NoSchedule and NoExecute.
    pub taints: Vec<&'a Taint>,
    /// PreferNoSchedule.
    pub discouragements: Vec<&'a Taint>,
}

/// The values of one topology key: a number for each, and each node's.
#[derive(Clone, Default)]
pub(super) struct Domains {
    pub of_node: Vec<Option<u32>>,
    pub count: usize,
}

pub(super) struct Cluster<'a> {
    pub view: &'a View,
    pub seed: u64,
    pub nodes: Vec<NodeState<'a>>,
    pub demands: &'a BTreeMap<crate::ObjectKey, PodDemand>,
    /// Where the next pod starts to look, so that sampling reaches every node in turn.
    pub next_start: usize,
    domains: BTreeMap<String, Arc<Domains>>,
    pub tallies: Tallies<'a>,
    pub stances: Stances<'a>,
}

/// The position of a node, by its name: nodes are in order of their names.
pub(super) fn position(nodes: &[NodeState<'_>], name: &str) -> Option<usize> {
    nodes.binary_search_by(|state| state.name.cmp(name)).ok()
}

fn is_hard(taint: &Taint) -> bool {
    taint.effect == "NoSchedule" || taint.effect == "NoExecute"
}

impl<'a> Cluster<'a> {
    pub fn new(view: &'a View, seed: u64) -> Cluster<'a> {
        let mut nodes = Vec::with_capacity(view.nodes.len());
        let mut usages = view.usage.nodes.iter().peekable();
        for ((key, node), (name, allocatable)) in view.nodes.iter().zip(&view.usage.allocatable) {
            // Kept by the same changes, so the same nodes in the same order.
            debug_assert_eq!(key.name, *name);
            if node.metadata.deletion_timestamp.is_some() {
                continue;
            }
            // Both maps are in order of names: one pass over each.
            while usages.peek().is_some_and(|(name, _)| **name < key.name) {
                usages.next();
            }
            let usage = usages.peek().filter(|(name, _)| **name == key.name);
            let taints = || {
                node.spec
                    .iter()
                    .flat_map(|spec| spec.taints.iter().flatten())
            };
            nodes.push(NodeState {
                name: &key.name,
                node,
                allocatable,
                usage: usage
                    .map(|(_, usage)| NodeUsage::clone(usage))
                    .unwrap_or_default(),
                unschedulable: node.spec.as_ref().and_then(|it| it.unschedulable) == Some(true),
                taints: taints().filter(|taint| is_hard(taint)).collect(),
                discouragements: taints()
                    .filter(|it| it.effect == "PreferNoSchedule")
                    .collect(),
            });
        }
        let next_start = usize::try_from(seed % nodes.len().max(1) as u64).unwrap_or(0);
        Cluster {
            view,
            seed,
            nodes,
            demands: &view.usage.demands,
            next_start,
            domains: BTreeMap::new(),
            tallies: Tallies::default(),
            stances: Stances::default(),
        }
    }

    /// The domains of a topology key over all nodes.
    pub fn domains(&mut self, key: &str) -> Arc<Domains> {
        if let Some(domains) = self.domains.get(key) {
            return domains.clone();
        }
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut of_node = Vec::with_capacity(self.nodes.len());
        for state in &self.nodes {
            let value = state
                .node
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(key));
            of_node.push(value.map(|value| {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                *numbers.entry(value.as_str()).or_insert(next)
            }));
        }
        let domains = Arc::new(Domains {
            of_node,
            count: numbers.len(),
        });
        self.domains.insert(key.to_owned(), domains.clone());
        domains
    }

    /// Counts a placement, for every later pod of the plan.
    pub fn commit(&mut self, pod: &'a Arc<Pod>, node: usize) {
        if let Some(demand) = self.demands.get(&crate::ObjectKey::of(&pod.metadata)) {
            self.nodes[node].usage.add(demand);
        }
        self.tallies.add(pod, node);
        self.stances.add(self.view, pod, node);
    }
}
