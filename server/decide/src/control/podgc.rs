//! Pod garbage: pods on nodes that are gone, pods deleted before they had a node, and the oldest of
//! too many finished ones.
//!
//! Keys: `<namespace>/<pod>` for one pod, a bare node name for the pods of an absent node, and
//! [`FINISHED`] for the count of finished pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use trireme_model::kinds::{self, Kind};

use super::Controller;
use crate::intent::{Absent, Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::pod::{is_finished, is_terminating, node_of};
use crate::view::{Object, View};

const NAME: &str = "pod-garbage-collector";

/// Finished pods that are kept for people to look at, as in Kubernetes.
const MAX_FINISHED_PODS: usize = 12_500;
/// Most deletions of one reconciliation; the next goes on when the view has seen these.
const MAX_DELETIONS: usize = 500;
/// No node can have this name, for its slash.
const FINISHED: &str = "finished/pods";
/// Set by an operator who has made sure that a node is off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) struct PodGarbage;

impl Controller for PodGarbage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind == kinds::NODE {
            let changed = before.or(after).map(Object::key);
            let gone = after.is_none() || after.and_then(Object::node).is_some_and(is_out);
            return changed.filter(|_| gone).into_iter().collect();
        }
        let Some(Object::Pod(pod)) = after else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        match node_of(pod) {
            Some(node) if view.node(node).is_none() => keys.push(ObjectKey::cluster(node)),
            Some(node) if is_terminating(pod) && view.node(node).is_some_and(is_out) => {
                keys.push(ObjectKey::cluster(node));
            }
            None if is_terminating(pod) => keys.push(ObjectKey::of(&pod.metadata)),
            _ => {}
        }
        if is_finished(pod) && view.index.finished_pods.len() > MAX_FINISHED_PODS {
            keys.push(ObjectKey::cluster(FINISHED));
        }
        keys
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        if !key.namespace.is_empty() {
            if let Some(pod) = view
                .pod(key)
                .filter(|it| is_terminating(it) && node_of(it).is_none())
            {
                plan.push(remove(pod, "it was deleted before it had a node"));
            }
        } else if key.name == FINISHED {
            let surplus = view
                .index
                .finished_pods
                .len()
                .saturating_sub(MAX_FINISHED_PODS);
            let oldest = view
                .index
                .finished_pods
                .iter()
                .take(surplus.min(MAX_DELETIONS));
            for (_, key) in oldest {
                if let Some(pod) = view.pod(key).filter(|pod| !is_terminating(pod)) {
                    let reason = format!("more than {MAX_FINISHED_PODS} pods are finished");
                    plan.push(remove(pod, &reason));
                }
            }
        } else {
            match view.node(&key.name) {
                None => {
                    for pod in view.pods_on(&key.name).take(MAX_DELETIONS) {
                        let gone = Absent {
                            kind: kinds::NODE,
                            namespace: String::new(),
                            name: key.name.clone(),
                            uid: String::new(),
                        };
                        let intent = remove(pod, "its node is gone").provided_absent(vec![gone]);
                        plan.push(intent);
                    }
                }
                Some(node) if is_out(node) => {
                    let leaving = view.pods_on(&key.name).filter(|pod| is_terminating(pod));
                    for pod in leaving.take(MAX_DELETIONS) {
                        plan.push(remove(pod, "its node is out of service"));
                    }
                }
                Some(_) => {}
            }
        }
        plan
    }
}

fn is_out(node: &Arc<Node>) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints.is_some_and(|taints| taints.iter().any(|it| it.key == OUT_OF_SERVICE));
    let ready = super::nodelifecycle::ready_status(node);
    tainted && ready != Some("True")
}

fn remove(pod: &Pod, reason: &str) -> Intent {
    Intent::new(
        NAME,
        reason,
        Action::Delete {
            kind: kinds::POD,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            resource_version: None,
            // Nobody is left to confirm that it stopped.
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        },
    )
}
