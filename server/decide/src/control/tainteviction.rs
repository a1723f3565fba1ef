//! Taint eviction: pods leave a node whose NoExecute taints they do not tolerate, at once or when
//! the time they tolerate it for is over.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use trireme_model::kinds::{self, Kind};

use super::Controller;
use crate::intent::{Action, EventRecord, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::pod::{is_active, node_of};
use crate::schedule::tolerates;
use crate::view::{Object, View};

const NAME: &str = "taint-eviction-controller";
const NO_EXECUTE: &str = "NoExecute";

pub(crate) struct TaintEviction;

fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == NO_EXECUTE).collect()
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        _before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        let node = match after {
            Some(Object::Node(node)) if kind == kinds::NODE => Some(node),
            Some(Object::Pod(pod)) if is_active(pod) => node_of(pod).and_then(|it| view.node(it)),
            _ => None,
        };
        let node = node.filter(|node| !evicting(node).is_empty());
        node.map(|node| ObjectKey::of(&node.metadata))
            .into_iter()
            .collect()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = view.node(&key.name) else {
            return plan;
        };
        let taints = evicting(node);
        if taints.is_empty() {
            return plan;
        }
        let since = |taint: &Taint| {
            let seen = view
                .silence
                .taint_seen(&key.name, taint)
                .unwrap_or(view.now());
            // The time written by whoever tainted it lets a new leader go on where the last one was.
            let added = taint.time_added.as_ref().map(|at| at.0);
            added.map_or(seen, |added| added.min(seen))
        };
        for pod in view.pods_on(&key.name).filter(|pod| is_active(pod)) {
            match departure(pod, &taints, since) {
                Departure::Never => {}
                Departure::At(at) if at > view.now() => {
                    plan.requeue(at.duration_since(view.now()));
                }
                Departure::At(_) => plan.push(evict(pod, &key.name)),
            }
        }
        plan
    }
}

enum Departure {
    Never,
    At(Timestamp),
}

/// When a pod has to leave. Of the tolerations that match, the shortest counts.
fn departure(pod: &Pod, taints: &[&Taint], since: impl Fn(&Taint) -> Timestamp) -> Departure {
    let tolerations: Vec<&Toleration> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.tolerations.iter().flatten())
        .collect();
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations
            .iter()
            .filter(|it| tolerates(it, taint))
            .peekable();
        let leaves_at = if matching.peek().is_none() {
            Some(Timestamp::MIN)
        } else {
            matching
                .filter_map(|toleration| toleration.toleration_seconds)
                .min()
                .map(|seconds| {
                    let patience = SignedDuration::from_secs(seconds.max(0));
                    since(taint).checked_add(patience).unwrap_or(Timestamp::MAX)
                })
        };
        earliest = match (earliest, leaves_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    earliest.map_or(Departure::Never, Departure::At)
}

fn evict(pod: &Arc<Pod>, node: &str) -> Intent {
    let key = ObjectKey::of(&pod.metadata);
    let event = EventRecord::normal(
        kinds::POD,
        &pod.metadata,
        "TaintManagerEviction",
        format!("Marking for deletion Pod {key}"),
    );
    Intent::new(
        NAME,
        format!("it does not tolerate the taints of node {node} any longer"),
        Action::Delete {
            kind: kinds::POD,
            namespace: key.namespace,
            name: key.name,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            resource_version: None,
            grace_seconds: None,
            propagation: Propagation::Background,
        },
    )
    .with_event(event)
}
