//! The scheduler: which node each waiting pod goes to, or why it has to wait.
//!
//! One plan places many pods, in order of priority and age, and counts each placement before the
//! next. Filters and scores are kube-scheduler's default plugins with its names, weights, rounding
//! and words; of equally good nodes the seed chooses. As there, a large cluster is sampled: a pod
//! looks at nodes until enough of them fit.

mod cluster;
mod diagnosis;
mod explain;
mod filter;
mod interpod;
mod nodeaffinity;
mod place;
mod profile;
mod score;
mod spread;
mod tally;
mod toleration;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trireme_model::kinds;

use crate::control::{object_value, second};
use crate::intent::{Action, EventRecord, Intent, Plan};
use crate::key::ObjectKey;
use crate::pod::condition;
use crate::view::{View, controller_of};

use cluster::Cluster;
use diagnosis::Diagnosis;
pub use explain::{Explanation, NodeExplanation, PluginScore, explain};
use place::place;
pub(crate) use toleration::tolerates;

/// The name pods ask for when they ask for this scheduler; an empty name means it too.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Most pods one plan looks at: the first of them should not wait for the last of a flood. The rest
/// is for the next plan, which is asked for at once.
const MAX_PODS_PER_PLAN: usize = 2000;

fn is_mine(pod: &Pod) -> bool {
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduler_name.as_deref());
    matches!(name, None | Some("") | Some(SCHEDULER_NAME))
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

fn priority(pod: &Pod) -> i32 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .unwrap_or(0)
}

/// Places every pending pod it can.
pub fn plan(view: &View, seed: u64) -> Plan {
    let mut plan = Plan::default();
    let mut queue: Vec<&Arc<Pod>> = Vec::new();
    for key in &view.index.pending_pods {
        let Some(pod) = view.pod(key).filter(|pod| is_mine(pod)) else {
            continue;
        };
        if is_gated(pod) {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            wait(
                view,
                pod,
                "SchedulingGated",
                message.to_owned(),
                false,
                &mut plan,
            );
        } else if let Some(until) = view.backs_off_until(key) {
            plan.requeue(until.duration_since(view.now()));
        } else {
            queue.push(pod);
        }
    }
    if queue.is_empty() {
        return plan;
    }
    queue.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.clone();
        (
            -i64::from(priority(pod)),
            created,
            ObjectKey::of(&pod.metadata),
        )
    });
    let mut cluster = Cluster::new(view, seed);
    let mut failures = Failures::default();
    let mut binds = 0;
    for pod in queue {
        if let Some(message) = failures.of_twin(pod) {
            let message = message.to_owned();
            wait(view, pod, "Unschedulable", message, true, &mut plan);
            continue;
        }
        if binds >= MAX_PODS_PER_PLAN {
            plan.requeue(SignedDuration::ZERO);
            break;
        }
        match place(&mut cluster, pod) {
            Ok(node) => {
                binds += 1;
                plan.push(bind(pod, &cluster, node));
                cluster.commit(pod, node);
            }
            Err(diagnosis) => {
                let message = diagnosis.message();
                wait(view, pod, "Unschedulable", message.clone(), true, &mut plan);
                failures.remember(pod, message, &diagnosis);
            }
        }
    }
    plan
}

fn bind(pod: &Pod, cluster: &Cluster<'_>, node: usize) -> Intent {
    let key = ObjectKey::of(&pod.metadata);
    let node = cluster.nodes[node].name.to_owned();
    let event = EventRecord::normal(
        kinds::POD,
        &pod.metadata,
        "Scheduled",
        format!("Successfully assigned {key} to {node}"),
    );
    Intent::new(
        SCHEDULER_NAME,
        format!("node {node} scores best for it"),
        Action::Bind {
            namespace: key.namespace,
            name: key.name,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node,
        },
    )
    .with_event(event)
}

/// Says in the pod's condition why it waits, unless it says so already.
fn wait(
    view: &View,
    pod: &Arc<Pod>,
    reason: &'static str,
    message: String,
    tell: bool,
    plan: &mut Plan,
) {
    let known = condition(pod, "PodScheduled");
    let same = known.is_some_and(|known| {
        known.status == "False"
            && known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message.as_str())
    });
    if same {
        return;
    }
    let transition = known
        .filter(|known| known.status == "False")
        .and_then(|known| known.last_transition_time.clone())
        .unwrap_or(Time(second(view.now())));
    let mut updated = Pod::clone(pod);
    let status = updated.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.clone()),
        last_transition_time: Some(transition),
        ..PodCondition::default()
    });
    let mut intent = Intent::new(
        SCHEDULER_NAME,
        message.clone(),
        Action::UpdateStatus {
            kind: kinds::POD,
            object: object_value(&updated),
        },
    );
    if tell {
        intent = intent.with_event(EventRecord::warning(
            kinds::POD,
            &pod.metadata,
            "FailedScheduling",
            message,
        ));
    }
    plan.push(intent);
}

/// Pods that found no node in this plan, by controller: their equals need not try again, because a
/// plan only ever takes room away.
#[derive(Default)]
struct Failures<'a> {
    by_controller: BTreeMap<&'a str, Vec<(&'a Arc<Pod>, String)>>,
}

fn are_twins(one: &Pod, other: &Pod) -> bool {
    one.metadata.labels == other.metadata.labels
        && one.metadata.namespace == other.metadata.namespace
        && one.spec == other.spec
}

impl<'a> Failures<'a> {
    fn of_twin(&self, pod: &Pod) -> Option<&str> {
        let owner = controller_of(&pod.metadata)?;
        let known = self.by_controller.get(owner.uid.as_str())?;
        known
            .iter()
            .find(|(twin, _)| are_twins(twin, pod))
            .map(|(_, message)| message.as_str())
    }

    fn remember(&mut self, pod: &'a Arc<Pod>, message: String, diagnosis: &Diagnosis) {
        // Who waits for company may find it later in the same plan.
        if diagnosis.may_be_cured_by_company {
            return;
        }
        if let Some(owner) = controller_of(&pod.metadata) {
            let known = self.by_controller.entry(owner.uid.as_str()).or_default();
            known.push((pod, message));
        }
    }
}
