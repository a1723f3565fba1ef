//! How many pods that a selector picks run on each node: counted once per plan and selector, then
//! kept up with the plan's own placements.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::cluster::{NodeState, position};
use crate::labels::{Labels, selects};
use crate::pod::{is_finished, is_terminating, node_of};
use crate::view::View;

/// A selector and the namespaces it looks in (sorted).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scope {
    pub namespaces: Vec<String>,
    pub selector: LabelSelector,
}

impl Scope {
    pub fn picks(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.namespaces.iter().any(|it| it == namespace) && selects(&self.selector, &pod.metadata)
    }
}

pub(super) struct Tally {
    scope: Scope,
    /// By position of the node; nodes without any are left out.
    pub on_node: BTreeMap<usize, u32>,
    pub total: u32,
}

/// A number for a [`Scope`] within one plan.
pub(super) type TallyId = usize;

#[derive(Default)]
pub(super) struct Tallies<'a> {
    /// What this plan placed, which the view does not show yet.
    placed: Vec<(&'a Arc<Pod>, usize)>,
    placed_by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    tallies: Vec<Tally>,
    /// Ids by the first label a selector demands, so that a placed pod asks few selectors.
    by_label: BTreeMap<(String, String), Vec<TallyId>>,
    without_label: Vec<TallyId>,
}

fn first_label(scope: &Scope) -> Option<(String, String)> {
    let labels = scope.selector.match_labels.as_ref()?;
    let (name, value) = labels.first_key_value()?;
    Some((name.clone(), value.clone()))
}

impl<'a> Tallies<'a> {
    pub fn get(&self, id: TallyId) -> &Tally {
        &self.tallies[id]
    }

    /// The tally of a scope, counted now if this plan has not needed it yet. Pods that are going
    /// away no longer count.
    pub fn find(&mut self, view: &View, nodes: &[NodeState<'_>], scope: Scope) -> TallyId {
        let label = first_label(&scope);
        let candidates = match &label {
            Some(label) => self.by_label.get(label),
            None => Some(&self.without_label),
        };
        let known = candidates
            .into_iter()
            .flatten()
            .find(|id| self.tallies[**id].scope == scope);
        if let Some(id) = known {
            return *id;
        }
        let mut tally = Tally {
            on_node: BTreeMap::new(),
            total: 0,
            scope,
        };
        let none = Labels::new();
        let labels = tally.scope.selector.match_labels.as_ref().unwrap_or(&none);
        for namespace in &tally.scope.namespaces {
            for pod in view.pods_labelled(namespace, labels) {
                if is_terminating(pod) || is_finished(pod) || !tally.scope.picks(pod) {
                    continue;
                }
                if let Some(node) = node_of(pod).and_then(|node| position(nodes, node)) {
                    *tally.on_node.entry(node).or_default() += 1;
                    tally.total += 1;
                }
            }
        }
        let everyone: Vec<usize>;
        let placed: &[usize] = match &label {
            Some((name, value)) => self
                .placed_by_label
                .get(&(name.as_str(), value.as_str()))
                .map_or(&[], Vec::as_slice),
            None => {
                everyone = (0..self.placed.len()).collect();
                &everyone
            }
        };
        for index in placed {
            let (pod, node) = self.placed[*index];
            if tally.scope.picks(pod) {
                *tally.on_node.entry(node).or_default() += 1;
                tally.total += 1;
            }
        }
        let id = self.tallies.len();
        self.tallies.push(tally);
        match label {
            Some(label) => self.by_label.entry(label).or_default().push(id),
            None => self.without_label.push(id),
        }
        id
    }

    pub fn add(&mut self, pod: &'a Arc<Pod>, node: usize) {
        for (name, value) in pod.metadata.labels.iter().flatten() {
            let placed = self.placed_by_label.entry((name, value)).or_default();
            placed.push(self.placed.len());
        }
        self.placed.push((pod, node));
        let labelled = pod
            .metadata
            .labels
            .iter()
            .flatten()
            .filter_map(|(name, value)| self.by_label.get(&(name.clone(), value.clone())));
        let ids: Vec<TallyId> = labelled
            .flatten()
            .chain(&self.without_label)
            .copied()
            .collect();
        for id in ids {
            let tally = &mut self.tallies[id];
            if tally.scope.picks(pod) {
                *tally.on_node.entry(node).or_default() += 1;
                tally.total += 1;
            }
        }
    }
}
