//! Inter-pod affinity and anti-affinity: the company a pod seeks or avoids, and the pods that avoid
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

use super::cluster::{Cluster, Domains, NodeState, position};
use super::filter::Refusal;
use super::spread::nothing;
use super::tally::Scope;
use crate::labels::{Labels, selects};
use crate::pod::node_of;
use crate::view::View;

/// Counts of the pods a term picks, by domain of its topology key.
struct Term {
    domains: Arc<Domains>,
    counts: Vec<i64>,
}

impl Term {
    fn at(&self, node: usize) -> Option<i64> {
        self.domains.of_node[node].map(|domain| self.counts[domain as usize])
    }
}

/// What one pod's affinity means for the nodes.
#[derive(Default)]
pub(super) struct Company {
    seeks: Vec<Term>,
    /// Nobody it seeks exists and it is one of them itself: the first may go anywhere.
    is_first: bool,
    avoids: Vec<Term>,
    avoided_by: Vec<Term>,
    /// Terms with their weights; negative for what is avoided.
    prefers: Vec<(i64, Term)>,
}

pub(super) fn scope(view: &View, pod: &Pod, term: &PodAffinityTerm) -> Scope {
    let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
    if let Some(selector) = &term.namespace_selector {
        let picked = view
            .namespaces
            .values()
            .filter(|it| selects(selector, &it.metadata));
        namespaces.extend(picked.filter_map(|it| it.metadata.name.clone()));
    } else if namespaces.is_empty() {
        namespaces.extend(pod.metadata.namespace.clone());
    }
    let mut selector = term.label_selector.clone().unwrap_or_else(nothing);
    let own = |key: &str| {
        pod.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            .cloned()
    };
    let mut expressions = selector.match_expressions.take().unwrap_or_default();
    let keys = [
        (&term.match_label_keys, "In"),
        (&term.mismatch_label_keys, "NotIn"),
    ];
    for (keys, operator) in keys {
        for key in keys.iter().flatten() {
            if let Some(value) = own(key) {
                expressions.push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value]),
                });
            }
        }
    }
    selector.match_expressions = Some(expressions).filter(|it| !it.is_empty());
    Scope {
        namespaces: namespaces.into_iter().collect(),
        selector,
    }
}

/// The scope of the pods that all terms pick: only those count as the company a pod seeks.
fn common(scopes: &[Scope]) -> Option<Scope> {
    let (first, rest) = scopes.split_first()?;
    let mut common = first.clone();
    for scope in rest {
        common.namespaces.retain(|it| scope.namespaces.contains(it));
        let labels = scope.selector.match_labels.iter().flatten();
        let as_expressions = labels.map(|(key, value)| LabelSelectorRequirement {
            key: key.clone(),
            operator: "In".to_owned(),
            values: Some(vec![value.clone()]),
        });
        let expressions = scope.selector.match_expressions.iter().flatten().cloned();
        common
            .selector
            .match_expressions
            .get_or_insert_default()
            .extend(as_expressions.chain(expressions));
    }
    Some(common)
}

fn count(cluster: &mut Cluster<'_>, key: &str, scope: Scope) -> (Term, u32) {
    let domains = cluster.domains(key);
    let tally = cluster.tallies.find(cluster.view, &cluster.nodes, scope);
    let tally = cluster.tallies.get(tally);
    let mut counts = vec![0i64; domains.count];
    for (node, count) in &tally.on_node {
        if let Some(domain) = domains.of_node[*node] {
            counts[domain as usize] += i64::from(*count);
        }
    }
    (Term { domains, counts }, tally.total)
}

/// Weights on nodes, summed by domain.
fn weigh(cluster: &mut Cluster<'_>, key: &str, nodes: &BTreeMap<usize, i64>) -> Term {
    let domains = cluster.domains(key);
    let mut counts = vec![0i64; domains.count];
    for (node, weight) in nodes {
        if let Some(domain) = domains.of_node[*node] {
            counts[domain as usize] += weight;
        }
    }
    Term { domains, counts }
}

impl Company {
    pub fn of(cluster: &mut Cluster<'_>, pod: &Arc<Pod>, spec: &PodSpec) -> Company {
        let mut company = Company::default();
        let stance = cluster.stances.towards(cluster.view, &cluster.nodes, pod);
        for (key, nodes) in &stance.refuses {
            company.avoided_by.push(weigh(cluster, key, nodes));
        }
        for (key, nodes) in &stance.likes {
            company.prefers.push((1, weigh(cluster, key, nodes)));
        }
        let Some(affinity) = spec.affinity.as_ref() else {
            return company;
        };
        let view = cluster.view;
        if let Some(wanted) = affinity.pod_affinity.as_ref() {
            let required = wanted
                .required_during_scheduling_ignored_during_execution
                .as_deref();
            let required = required.unwrap_or_default();
            let scopes: Vec<Scope> = required.iter().map(|it| scope(view, pod, it)).collect();
            if let Some(common) = common(&scopes) {
                let mut total = 0;
                for term in required {
                    let (term, found) = count(cluster, &term.topology_key, common.clone());
                    total += found;
                    company.seeks.push(term);
                }
                company.is_first = total == 0 && scopes.iter().all(|scope| scope.picks(pod));
            }
            let preferred = wanted
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            for weighted in preferred.flatten() {
                let term = &weighted.pod_affinity_term;
                let (term, _) = count(cluster, &term.topology_key, scope(view, pod, term));
                company.prefers.push((i64::from(weighted.weight), term));
            }
        }
        if let Some(unwanted) = affinity.pod_anti_affinity.as_ref() {
            let required = unwanted
                .required_during_scheduling_ignored_during_execution
                .iter();
            for term in required.flatten() {
                let (term, _) = count(cluster, &term.topology_key, scope(view, pod, term));
                company.avoids.push(term);
            }
            let preferred = unwanted
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            for weighted in preferred.flatten() {
                let term = &weighted.pod_affinity_term;
                let (term, _) = count(cluster, &term.topology_key, scope(view, pod, term));
                company.prefers.push((-i64::from(weighted.weight), term));
            }
        }
        company
    }

    pub fn seeks_company(&self) -> bool {
        !self.seeks.is_empty()
    }

    pub fn check<'a>(&self, node: usize) -> Result<(), Refusal<'a>> {
        for term in &self.seeks {
            match term.at(node) {
                None => return Err(Refusal::PodAffinity),
                Some(0) if !self.is_first => return Err(Refusal::PodAffinity),
                Some(_) => {}
            }
        }
        if self
            .avoids
            .iter()
            .any(|term| term.at(node).is_some_and(|count| count > 0))
        {
            return Err(Refusal::PodAntiAffinity);
        }
        if self
            .avoided_by
            .iter()
            .any(|term| term.at(node).is_some_and(|count| count > 0))
        {
            return Err(Refusal::ExistingAntiAffinity);
        }
        Ok(())
    }

    /// Scores of the nodes, 0 to 100 between the least and the most preferred.
    pub fn score(&self, nodes: &[usize]) -> Vec<i64> {
        if self.prefers.is_empty() {
            return vec![0; nodes.len()];
        }
        let sum = |node: &usize| -> i64 {
            let terms = self.prefers.iter();
            terms
                .map(|(weight, term)| weight * term.at(*node).unwrap_or(0))
                .sum()
        };
        let sums: Vec<i64> = nodes.iter().map(sum).collect();
        let most = sums.iter().copied().max().unwrap_or(0);
        let least = sums.iter().copied().min().unwrap_or(0);
        let scaled = |sum: &i64| {
            if most == least {
                0
            } else {
                100 * (sum - least) / (most - least)
            }
        };
        sums.iter().map(scaled).collect()
    }
}

/// What a pod's required affinity is worth to those it seeks, in points of preference: kube-scheduler's
/// `hardPodAffinityWeight`.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

fn refusing_terms(pod: &Pod) -> &[PodAffinityTerm] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref())
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|anti| {
            anti.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// The terms by which a pod likes others near it, with their weights; negative for dislike.
fn liking_terms(pod: &Pod) -> Vec<(i64, &PodAffinityTerm)> {
    let mut terms = Vec::new();
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
        return terms;
    };
    if let Some(wanted) = affinity.pod_affinity.as_ref() {
        let required = wanted
            .required_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        terms.extend(required.map(|term| (REQUIRED_AFFINITY_WEIGHT, term)));
        let preferred = wanted
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        terms.extend(preferred.map(|it| (i64::from(it.weight), &it.pod_affinity_term)));
    }
    if let Some(unwanted) = affinity.pod_anti_affinity.as_ref() {
        let preferred = unwanted
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        terms.extend(preferred.map(|it| (-i64::from(it.weight), &it.pod_affinity_term)));
    }
    terms
}

/// Weights on nodes, by topology key.
type OnNodes = BTreeMap<String, BTreeMap<usize, i64>>;

/// How the placed pods stand to a newcomer: where they refuse it, and where they like it to be.
#[derive(Clone, Default)]
pub(super) struct Stance {
    refuses: OnNodes,
    likes: OnNodes,
}

impl Stance {
    fn note(&mut self, view: &View, placed: &Pod, node: usize, newcomer: &Pod) {
        for term in refusing_terms(placed) {
            if scope(view, placed, term).picks(newcomer) {
                let nodes = self.refuses.entry(term.topology_key.clone()).or_default();
                *nodes.entry(node).or_default() += 1;
            }
        }
        for (weight, term) in liking_terms(placed) {
            if scope(view, placed, term).picks(newcomer) {
                let nodes = self.likes.entry(term.topology_key.clone()).or_default();
                *nodes.entry(node).or_default() += weight;
            }
        }
    }
}

/// The stances of this plan: found once for each namespace and labels of newcomers, then kept up with
/// the plan's own placements.
#[derive(Default)]
pub(super) struct Stances<'a> {
    by_newcomer: BTreeMap<(Option<String>, Option<Labels>), (Pod, Arc<Stance>)>,
    placed: Vec<(&'a Arc<Pod>, usize)>,
}

impl<'a> Stances<'a> {
    fn towards(&mut self, view: &View, nodes: &[NodeState<'_>], pod: &Pod) -> Arc<Stance> {
        let opinionated = &view.index.opinionated_pods;
        if opinionated.is_empty() && self.placed.is_empty() {
            return Arc::default();
        }
        let identity = (pod.metadata.namespace.clone(), pod.metadata.labels.clone());
        if let Some((_, stance)) = self.by_newcomer.get(&identity) {
            return stance.clone();
        }
        let mut stance = Stance::default();
        for placed in opinionated.iter().filter_map(|key| view.pod(key)) {
            if let Some(node) = node_of(placed).and_then(|node| position(nodes, node)) {
                stance.note(view, placed, node, pod);
            }
        }
        for (placed, node) in &self.placed {
            stance.note(view, placed, *node, pod);
        }
        let newcomer = Pod {
            metadata: pod.metadata.clone(),
            ..Pod::default()
        };
        let stance = Arc::new(stance);
        self.by_newcomer
            .insert(identity, (newcomer, stance.clone()));
        stance
    }

    pub fn add(&mut self, view: &View, pod: &'a Arc<Pod>, node: usize) {
        if refusing_terms(pod).is_empty() && liking_terms(pod).is_empty() {
            return;
        }
        self.placed.push((pod, node));
        for (newcomer, stance) in self.by_newcomer.values_mut() {
            Arc::make_mut(stance).note(view, pod, node, newcomer);
        }
    }
}
