//! Ending a pod: deleted, over its deadline, decided against, or finished.

use crate::action::{Action, EventRecord, ProbeKind, StopReason};
use crate::backoff;
use crate::observe::seconds_between;
use crate::plan::{self, Draft};
use crate::runtime::{
    DeletionState, Instance, Outcome, PodRuntime, SandboxState, Termination, VolumeState,
};
use crate::spec::{self, ContainerClass, SpecContainer};
use k8s_openapi::api::core::v1::Pod;

/// Seconds for containers whose API object was removed by force: the kubelet's least.
const FORCED_GRACE_S: u64 = 1;
/// Seconds that a sidecar has to end although it waited for the application through the pod's whole
/// time: the kubelet's least, so that it can close its connections.
const SIDECAR_LEAST_S: u64 = 2;
/// Seconds between two tries to delete the API object.
const DELETE_AGAIN_S: i64 = 1;

/// Whether the pod is to end; begins it (or shortens it) if so.
pub(crate) fn wanted(pod: &Pod, runtime: &PodRuntime, draft: &mut Draft) -> bool {
    if runtime.gone {
        // Whoever removed the object by force wants the name free; a pod that was ending keeps
        // the time it had.
        let grace = if runtime.termination.is_some() {
            return true;
        } else if pod.metadata.deletion_timestamp.is_some() {
            deletion_grace_s(pod)
        } else {
            FORCED_GRACE_S
        };
        begin(runtime, grace, None, draft);
        return true;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        begin(runtime, deletion_grace_s(pod), None, draft);
        return true;
    }
    if runtime.termination.is_some() {
        return true;
    }
    if let Some(outcome) = &runtime.outcome {
        begin(runtime, spec::grace_s(pod), Some(outcome.clone()), draft);
        return true;
    }
    // Somebody else (the eviction or garbage collection of pods) has declared it over.
    let status = pod.status.as_ref();
    if let Some(phase @ ("Failed" | "Succeeded")) = status.and_then(|s| s.phase.as_deref()) {
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let outcome = Outcome {
            phase: phase.to_owned(),
            reason: text(status.and_then(|s| s.reason.as_ref())),
            message: text(status.and_then(|s| s.message.as_ref())),
        };
        // Our own report of a pod that ended by itself comes back like this, too.
        if !crate::phase::finished(pod, &spec::containers(pod), runtime) {
            begin(runtime, spec::grace_s(pod), Some(outcome), draft);
            return true;
        }
        return false;
    }
    let deadline = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.active_deadline_seconds);
    if let (Some(seconds), Some(started)) = (deadline, runtime.start_time)
        && !crate::phase::finished(pod, &spec::containers(pod), runtime)
        && draft.due(backoff::after_s(started, seconds))
    {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        draft.event(EventRecord::normal(
            "DeadlineExceeded",
            message.clone(),
            None,
        ));
        let outcome = Outcome {
            phase: "Failed".to_owned(),
            reason: "DeadlineExceeded".to_owned(),
            message,
        };
        begin(runtime, spec::grace_s(pod), Some(outcome), draft);
        return true;
    }
    false
}

fn deletion_grace_s(pod: &Pod) -> u64 {
    pod.metadata
        .deletion_grace_period_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or_else(|| spec::grace_s(pod))
        .max(FORCED_GRACE_S)
}

/// Begins ending the pod, or shortens the time it has.
fn begin(runtime: &PodRuntime, grace_s: u64, outcome: Option<Outcome>, draft: &mut Draft) {
    match &runtime.termination {
        Some(termination) => {
            let passed = seconds_between(termination.since, draft.now);
            // The same grace as before, counted from the same beginning, is no news.
            if grace_s < termination.grace_s && passed.saturating_add(grace_s) < termination.grace_s
            {
                draft.push(Action::Terminate { grace_s, outcome });
            }
        }
        None => draft.push(Action::Terminate { grace_s, outcome }),
    }
}

/// A pod that is to end.
pub(crate) fn plan(
    pod: &Pod,
    containers: &[SpecContainer],
    runtime: &PodRuntime,
    draft: &mut Draft,
) {
    let Some(termination) = &runtime.termination else {
        return; // just begun: the next plan continues
    };
    stop_all(
        containers,
        runtime,
        Some(termination),
        spec::grace_s(pod),
        draft,
    );
    if !release(runtime, draft) {
        return;
    }
    if runtime.gone {
        draft.push(Action::Forget);
        return;
    }
    if pod.metadata.deletion_timestamp.is_none() {
        return;
    }
    match &runtime.deletion {
        DeletionState::NotAsked => draft.push(Action::DeleteObject),
        DeletionState::Asked => {}
        DeletionState::Failed(at) => {
            if draft.due(backoff::after_s(*at, DELETE_AGAIN_S)) {
                draft.push(Action::DeleteObject);
            }
        }
    }
}

/// A pod whose containers have ended for good: sidecars stop, everything but logs is released.
pub(crate) fn finish(
    pod: &Pod,
    containers: &[SpecContainer],
    runtime: &PodRuntime,
    draft: &mut Draft,
) {
    stop_all(containers, runtime, None, spec::grace_s(pod), draft);
    release(runtime, draft);
}

/// Stops the application's containers together, then sidecars from the last to the first.
fn stop_all(
    containers: &[SpecContainer],
    runtime: &PodRuntime,
    termination: Option<&Termination>,
    grace_s: u64,
    draft: &mut Draft,
) {
    let alive = |found: &SpecContainer| runtime.container(&found.container.name).alive();
    let others = containers
        .iter()
        .any(|found| found.class != ContainerClass::Sidecar && alive(found));
    let last_sidecar = containers
        .iter()
        .rposition(|found| found.class == ContainerClass::Sidecar && alive(found));
    for (index, found) in containers.iter().enumerate() {
        let record = runtime.container(&found.container.name);
        let Instance::Running {
            attempt, stopping, ..
        } = &record.instance
        else {
            continue;
        };
        let waits =
            found.class == ContainerClass::Sidecar && (others || Some(index) != last_sidecar);
        // When the pod's time is over nobody waits for anybody.
        let mut left_s = termination.map_or(grace_s, |t| {
            t.grace_s
                .saturating_sub(seconds_between(t.since, draft.now))
        });
        let forced = termination.is_some_and(|t| t.grace_s <= FORCED_GRACE_S);
        if found.class == ContainerClass::Sidecar && !forced {
            left_s = left_s.max(SIDECAR_LEAST_S);
        }
        if waits && let Some(t) = termination {
            let over =
                backoff::after_s(t.since, i64::try_from(t.grace_s).unwrap_or(i64::MAX / 1000));
            if !draft.due(over) {
                continue;
            }
        } else if waits {
            continue;
        }
        match stopping {
            None => {
                let message = format!("Stopping container {}", found.container.name);
                draft.event(EventRecord::normal(
                    "Killing",
                    message,
                    Some(&found.container.name),
                ));
                draft.push(Action::Stop {
                    container: found.container.name.clone(),
                    attempt: *attempt,
                    reason: StopReason::PodEnds,
                    grace_s: left_s,
                });
            }
            Some(stopping) => {
                // A second of tolerance: both sides are rounded down.
                let passed = seconds_between(stopping.since, draft.now);
                if passed.saturating_add(left_s).saturating_add(1) < stopping.grace_s {
                    draft.push(Action::Stop {
                        container: found.container.name.clone(),
                        attempt: *attempt,
                        reason: StopReason::PodEnds,
                        grace_s: left_s,
                    });
                } else {
                    plan::advance_stop(found, *attempt, stopping, draft);
                }
            }
        }
        plan::probe(found, &record, &[ProbeKind::Readiness], draft);
    }
}

/// Takes down the sandbox, then the volumes, once nothing is alive. True when all is released.
fn release(runtime: &PodRuntime, draft: &mut Draft) -> bool {
    if runtime.any_alive() {
        return false;
    }
    match &runtime.sandbox {
        SandboxState::Absent => {}
        SandboxState::Creating | SandboxState::Removing => return false,
        SandboxState::Ready { .. } | SandboxState::Failed(_) => {
            draft.push(Action::RemoveSandbox);
            return false;
        }
    }
    match &runtime.volumes {
        VolumeState::Absent => true,
        VolumeState::Preparing | VolumeState::Removing => false,
        VolumeState::Ready | VolumeState::Failed(_) => {
            draft.push(Action::RemoveVolumes);
            false
        }
    }
}
