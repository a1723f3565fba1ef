//! The pod's conditions, with transition times that move only when the condition does.

use crate::phase;
use crate::runtime::{PodRuntime, SandboxState};
use crate::spec::{ContainerClass, SpecContainer};
use crate::status::{api_time, has_started};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

/// What a condition says: status, reason, message.
struct Verdict(bool, &'static str, String);

impl Verdict {
    fn yes() -> Self {
        Verdict(true, "", String::new())
    }
}

/// Computes every condition that the node owns; `PodScheduled` is kept as the scheduler wrote it.
pub(crate) fn conditions(
    pod: &Pod,
    containers: &[SpecContainer],
    runtime: &PodRuntime,
    status: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandbox = matches!(runtime.sandbox, SandboxState::Ready { .. });
    let containers_ready = containers_ready(phase, containers, status);
    let ready = match &containers_ready {
        Verdict(true, ..) => gates(pod),
        Verdict(_, reason, message) => Verdict(false, reason, message.clone()),
    };
    let computed = [
        (
            "PodReadyToStartContainers",
            Verdict(sandbox, "", String::new()),
        ),
        ("Initialized", initialized(phase, containers, runtime)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let before = |name: &str| -> Option<PodCondition> {
        let find = |list: &[PodCondition]| list.iter().find(|c| c.type_ == name).cloned();
        let reported = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        find(&runtime.conditions).or_else(|| reported.and_then(|list| find(list)))
    };
    let mut list: Vec<PodCondition> = computed
        .into_iter()
        .map(|(name, Verdict(holds, reason, message))| {
            let value = if holds { "True" } else { "False" };
            let since = before(name)
                .filter(|old| old.status == value)
                .and_then(|old| old.last_transition_time)
                .unwrap_or_else(|| api_time(now));
            PodCondition {
                type_: name.to_owned(),
                status: value.to_owned(),
                last_transition_time: Some(since),
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                message: (!message.is_empty()).then_some(message),
                observed_generation: pod.metadata.generation,
                last_probe_time: None,
            }
        })
        .collect();
    let scheduled = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .and_then(|list| list.iter().find(|c| c.type_ == "PodScheduled").cloned())
        .unwrap_or_else(|| PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(
                before("PodScheduled")
                    .and_then(|old| old.last_transition_time)
                    .unwrap_or_else(|| api_time(now)),
            ),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    list.push(scheduled);
    list
}

fn initialized(phase: &str, containers: &[SpecContainer], runtime: &PodRuntime) -> Verdict {
    if phase == "Succeeded" {
        return Verdict(true, "PodCompleted", String::new());
    }
    // Init containers do not run again while the application runs.
    let app_ran = containers.iter().any(|found| {
        let record = runtime.container(&found.container.name);
        found.class == ContainerClass::App
            && (record.alive()
                || record
                    .last_exit
                    .is_some_and(|exit| exit.sandbox == runtime.sandbox_attempt))
    });
    if app_ran {
        return Verdict::yes();
    }
    let incomplete: Vec<&str> = containers
        .iter()
        .filter(|found| {
            let record = runtime.container(&found.container.name);
            match found.class {
                ContainerClass::Init => !phase::init_done(&record, runtime),
                ContainerClass::Sidecar => !has_started(found, &record) && !record.was_started,
                _ => false,
            }
        })
        .map(|found| found.container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::yes();
    }
    let message = format!(
        "containers with incomplete status: [{}]",
        incomplete.join(" ")
    );
    Verdict(false, "ContainersNotInitialized", message)
}

/// Application containers and sidecars count (KEP-753); init containers that end do not.
fn containers_ready(phase: &str, containers: &[SpecContainer], status: &PodStatus) -> Verdict {
    match phase {
        "Succeeded" => return Verdict(false, "PodCompleted", String::new()),
        "Failed" => return Verdict(false, "PodFailed", String::new()),
        _ => {}
    }
    let is_sidecar = |s: &&ContainerStatus| {
        let mut found = containers.iter();
        found.any(|c| c.class == ContainerClass::Sidecar && c.container.name == s.name)
    };
    let sidecars = status.init_container_statuses.iter().flatten();
    let unready: Vec<&str> = sidecars
        .filter(is_sidecar)
        .chain(status.container_statuses.iter().flatten())
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::yes();
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict(false, "ContainersNotReady", message)
}

/// Readiness gates: conditions that others set.
fn gates(pod: &Pod) -> Verdict {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let set = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut problems = Vec::new();
    for gate in gates.into_iter().flatten() {
        let name = &gate.condition_type;
        match set.and_then(|list| list.iter().find(|c| &c.type_ == name)) {
            None => problems.push(format!(
                "corresponding condition of pod readiness gate \"{name}\" does not exist."
            )),
            Some(found) if found.status != "True" => problems.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        return Verdict::yes();
    }
    Verdict(false, "ReadinessGatesNotReady", problems.join(", "))
}
