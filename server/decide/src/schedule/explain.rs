//! Every node's answer to one pod, for `trireme explain pod/x`.

use serde::Serialize;

use super::cluster::Cluster;
use super::diagnosis::Diagnosis;
use super::filter;
use super::profile::Profile;
use super::score::{self, PLUGINS};
use crate::key::ObjectKey;
use crate::view::View;

/// How all nodes stand to a pod, whether or not it has one already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub pod: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Why no node fits, as the pod's condition says it; `None` where one does.
    pub message: Option<String>,
    /// The best first, then the refused in order of their names.
    pub nodes: Vec<NodeExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExplanation {
    pub node: String,
    /// The filter that refused, and its reasons; `None` if the node fits.
    pub refused_by: Option<&'static str>,
    pub reasons: Vec<String>,
    /// Scores, if the node fits.
    pub scores: Vec<PluginScore>,
    /// The weighted sum of the scores.
    pub total: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginScore {
    pub plugin: &'static str,
    /// 0 to 100.
    pub score: i64,
    pub weight: i64,
}

/// Asks every node of the cluster, without sampling. `None` if there is no such pod. A pod that is
/// bound already counts on its node, so there the answer is for one more like it.
pub fn explain(view: &View, key: &ObjectKey) -> Option<Explanation> {
    let pod = view.pod(key)?;
    let mut cluster = Cluster::new(view, 0);
    let profile = Profile::of(&mut cluster, pod)?;
    let never = profile.spec.preemption_policy.as_deref() == Some("Never");
    let mut diagnosis = Diagnosis::new(cluster.nodes.len(), never);
    let mut fitting = Vec::new();
    let mut refused = Vec::new();
    for (position, state) in cluster.nodes.iter().enumerate() {
        match filter::check(&profile, state, position) {
            Ok(()) => fitting.push(position),
            Err(refusal) => {
                diagnosis.add(&refusal);
                refused.push(NodeExplanation {
                    node: state.name.to_owned(),
                    refused_by: Some(refusal.plugin()),
                    reasons: refusal.reasons(),
                    scores: Vec::new(),
                    total: 0,
                });
            }
        }
    }
    let scores = score::scores(&cluster, &profile, &fitting);
    let totals = score::totals(&scores, fitting.len());
    let mut nodes: Vec<NodeExplanation> = fitting
        .iter()
        .enumerate()
        .map(|(index, position)| NodeExplanation {
            node: cluster.nodes[*position].name.to_owned(),
            refused_by: None,
            reasons: Vec::new(),
            scores: PLUGINS
                .iter()
                .zip(&scores)
                .map(|((plugin, weight), scores)| PluginScore {
                    plugin,
                    score: scores[index],
                    weight: *weight,
                })
                .collect(),
            total: totals[index],
        })
        .collect();
    nodes.sort_by_key(|node| std::cmp::Reverse(node.total));
    nodes.extend(refused);
    Some(Explanation {
        pod: key.to_string(),
        node: crate::pod::node_of(pod).map(str::to_owned),
        message: fitting.is_empty().then(|| diagnosis.message()),
        nodes,
    })
}
