//! Node life: a node that stays silent is marked Unknown and tainted, its pods no longer ready; a
//! node that says it is not well is tainted; all is taken back when the node is.
//!
//! Silence is judged by when this view last saw a sign of life (see [`crate::view`]), never by
//! comparing the clocks of two machines. When nobody can be heard the fault is likely ours: then no
//! node gets the taint that evicts.

mod disruption;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use trireme_model::kinds::{self, Kind};

use super::{Controller, object_value, second};
use crate::intent::{Action, EventRecord, Intent, Plan, Subresource};
use crate::key::ObjectKey;
use crate::pod::{is_finished, is_ready};
use crate::view::{NODE_LEASE_NAMESPACE, Object, View};

use disruption::Disruption;

const NAME: &str = "node-lifecycle-controller";

/// A node that gave no sign of life for this long counts as lost. Its agent renews several times
/// within it, so that one lost message does not empty a node.
pub(super) const SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(10);
/// How soon a decision that was held back is looked at again.
const RECHECK: SignedDuration = SignedDuration::from_secs(1);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions whose truth keeps new pods away, with the taint that does it.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// Conditions a node agent keeps up, all unknown once it is silent.
const HEARTBEAT_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) struct NodeLife;

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|it| it.type_ == type_)?;
    Some(found.status.as_str())
}

pub(super) fn ready_status(node: &Node) -> Option<&str> {
    condition(node, "Ready")
}

/// How long ago the node last gave a sign of life.
pub(super) fn silent_for(view: &View, node: &Node) -> SignedDuration {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    match view.silence.last_seen(name) {
        Some(seen) => view.now().duration_since(seen),
        None => SignedDuration::ZERO,
    }
}

impl Controller for NodeLife {
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
        let Some(after) = after else {
            return Vec::new();
        };
        let name = after.key().name;
        if kind == kinds::NODE {
            return vec![ObjectKey::cluster(name)];
        }
        // A healthy node's renewals change nothing: its timer looks at them when it is due.
        let lease = kind == kinds::LEASE && after.key().namespace == NODE_LEASE_NAMESPACE;
        let unwell = || {
            view.node(&name)
                .is_some_and(|it| ready_status(it) != Some("True"))
        };
        if lease && unwell() {
            vec![ObjectKey::cluster(name)]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = view.node(&key.name) else {
            return plan;
        };
        let silence = silent_for(view, node);
        let silent = silence >= SILENCE_LIMIT;
        if !silent {
            plan.requeue(SILENCE_LIMIT - silence);
        }
        // The state of all nodes is looked at only where it matters, not at every heartbeat.
        let unwell = silent || ready_status(node) != Some("True");
        let disruption = if unwell {
            Disruption::of(view, node)
        } else {
            Disruption::NONE
        };
        if silent {
            if !disruption.nobody_heard {
                mark_pods_not_ready(view, &key.name, &mut plan);
            }
            if mark_unknown(view, node, &mut plan) {
                // The taints follow when the view has seen this: they are a write to the same object.
                return plan;
            }
        }
        let wanted = wanted_taints(node, silent, &disruption);
        if silent && !disruption.may_evict() {
            plan.requeue(RECHECK);
        }
        write_taints(view, node, wanted, &mut plan);
        plan
    }
}

/// Sets every heartbeat condition of a silent node to Unknown. Answers whether that is a write.
fn mark_unknown(view: &View, node: &Arc<Node>, plan: &mut Plan) -> bool {
    let now = Time(second(view.now()));
    let mut updated = Node::clone(node);
    let name = node.metadata.name.clone().unwrap_or_default();
    let was_ready = ready_status(node) == Some("True");
    let conditions = updated
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let mut changed = false;
    for type_ in HEARTBEAT_CONDITIONS {
        match conditions.iter_mut().find(|it| it.type_ == type_) {
            Some(known) if known.status == "Unknown" => continue,
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(now.clone());
            }
            None => conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(now.clone()),
            }),
        }
        changed = true;
    }
    if !changed {
        return false;
    }
    let mut intent = Intent::new(
        NAME,
        format!(
            "node {name} gave no sign of life for {} s",
            SILENCE_LIMIT.as_secs()
        ),
        Action::UpdateStatus {
            kind: kinds::NODE,
            object: object_value(&updated),
        },
    );
    if was_ready {
        intent = intent.with_event(EventRecord::normal(
            kinds::NODE,
            &node.metadata,
            "NodeNotReady",
            format!("Node {name} status is now: NodeNotReady"),
        ));
    }
    plan.push(intent);
    true
}

/// The pods of a lost node leave their Services' endpoints.
fn mark_pods_not_ready(view: &View, node: &str, plan: &mut Plan) {
    for pod in view
        .pods_on(node)
        .filter(|pod| is_ready(pod) && !is_finished(pod))
    {
        let mut updated = Pod::clone(pod);
        let conditions = updated
            .status
            .iter_mut()
            .flat_map(|it| it.conditions.iter_mut().flatten());
        for condition in conditions.filter(|condition| condition.type_ == "Ready") {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(Time(second(view.now())));
        }
        plan.push(
            Intent::new(
                NAME,
                format!("node {node} is lost"),
                Action::UpdateStatus {
                    kind: kinds::POD,
                    object: object_value(&updated),
                },
            )
            .with_event(EventRecord::warning(
                kinds::POD,
                &pod.metadata,
                "NodeNotReady",
                "Node is not ready",
            )),
        );
    }
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        NO_EXECUTE => taint.key == NOT_READY || taint.key == UNREACHABLE,
        NO_SCHEDULE => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        }
        _ => false,
    }
}

/// The taints this controller wants on a node, as (key, effect).
fn wanted_taints(
    node: &Node,
    silent: bool,
    disruption: &Disruption,
) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let unwell = match (silent, ready_status(node)) {
        (false, Some("True")) => None,
        (false, Some("False") | None) => Some(NOT_READY),
        // Back, but what it says of itself is not here yet.
        (false, Some(_)) => Some(UNREACHABLE),
        (true, _) => Some(UNREACHABLE),
    };
    if let Some(key) = unwell {
        wanted.push((key, NO_SCHEDULE));
        let has = has_taint(node, key, NO_EXECUTE);
        // A node that was never ready has nothing to evict.
        let known = ready_status(node).is_some();
        let evict = if has {
            !disruption.nobody_heard
        } else {
            disruption.may_evict()
        };
        if known && evict {
            wanted.push((key, NO_EXECUTE));
        }
    }
    for (condition_type, key) in PRESSURES {
        if condition(node, condition_type) == Some("True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted
}

fn has_taint(node: &Node, key: &str, effect: &str) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints
        .into_iter()
        .any(|taint| taint.key == key && taint.effect == effect)
}

fn write_taints(
    view: &View,
    node: &Node,
    wanted: Vec<(&'static str, &'static str)>,
    plan: &mut Plan,
) {
    let now = Time(second(view.now()));
    let old: Vec<Taint> = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let is_wanted = |taint: &Taint| {
        wanted
            .iter()
            .any(|(key, effect)| taint.key == *key && taint.effect == *effect)
    };
    let mut taints: Vec<Taint> = old
        .iter()
        .filter(|taint| !is_ours(taint) || is_wanted(taint))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !has_taint(node, key, effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                value: None,
                time_added: (*effect == NO_EXECUTE).then(|| now.clone()),
            });
        }
    }
    if taints == old {
        return;
    }
    let keys: Vec<String> = wanted
        .iter()
        .map(|(key, effect)| format!("{key}:{effect}"))
        .collect();
    let reason = if keys.is_empty() {
        "nothing is wrong with it any more".to_owned()
    } else {
        format!("its state calls for {}", keys.join(", "))
    };
    let taints = if taints.is_empty() {
        json!(null)
    } else {
        json!(taints)
    };
    plan.push(Intent::new(
        NAME,
        reason,
        Action::Patch {
            kind: kinds::NODE,
            namespace: String::new(),
            name: node.metadata.name.clone().unwrap_or_default(),
            subresource: Subresource::Main,
            // A list is replaced whole, so it must be the list that was read.
            patch: json!({
                "metadata": {
                    "uid": node.metadata.uid,
                    "resourceVersion": node.metadata.resource_version,
                },
                "spec": {"taints": taints},
            }),
        },
    ));
}
