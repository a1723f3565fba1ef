//! The decision: what to begin for a pod now.

use crate::action::{Action, EventRecord, HookKind, ProbeKind, StopReason};
use crate::backoff::{self, BackOff};
use crate::probes;
use crate::runtime::{
    ContainerRuntime, ImageState, Instance, PodRuntime, SandboxState, StopStage, Stopping,
    VolumeState,
};
use crate::spec::{self, ContainerClass, SpecContainer};
use crate::{phase, status, termination};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

/// Reason of a container whose configuration cannot be resolved.
pub(crate) const CONFIG_ERROR: &str = "CreateContainerConfigError";
/// Reason of a container whose process could not be started.
pub(crate) const RUN_ERROR: &str = "RunContainerError";
/// The signal that nothing survives.
pub(crate) const KILL: &str = "SIGKILL";
/// A container gets at least this long after a hook that used its grace up: the kubelet's number.
const AFTER_HOOK_S: u64 = 2;
/// A killed container that is still there is killed again after this long: only processes that
/// the kernel holds take longer.
const KILL_AGAIN_S: i64 = 10;

/// What to do for a pod, and what to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    /// To begin now, in this order.
    pub actions: Vec<Action>,
    /// To report.
    pub status: PodStatus,
    /// When to decide again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// A plan in the making.
pub(crate) struct Draft {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
    pub now: Timestamp,
}

impl Draft {
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn event(&mut self, record: EventRecord) {
        self.actions.push(Action::Event(record));
    }

    /// True if the time has come; otherwise the plan is made again then.
    pub fn due(&mut self, at: Timestamp) -> bool {
        if at <= self.now {
            return true;
        }
        self.wake_at = Some(self.wake_at.map_or(at, |wake| wake.min(at)));
        false
    }
}

/// Decides what to begin for the pod now. Pure: the same input gives the same plan.
pub fn decide(pod: &Pod, runtime: &PodRuntime, now: Timestamp) -> PodPlan {
    let mut draft = Draft {
        actions: Vec::new(),
        wake_at: None,
        now,
    };
    let containers = spec::containers(pod);
    if termination::wanted(pod, runtime, &mut draft) {
        termination::plan(pod, &containers, runtime, &mut draft);
    } else if phase::finished(pod, &containers, runtime) {
        termination::finish(pod, &containers, runtime, &mut draft);
    } else {
        run(pod, &containers, runtime, &mut draft);
    }
    let status = status::status(pod, &containers, runtime, now);
    PodPlan {
        actions: draft.actions,
        status,
        wake_at: draft.wake_at,
    }
}

/// A pod that is to run.
fn run(pod: &Pod, containers: &[SpecContainer], runtime: &PodRuntime, draft: &mut Draft) {
    match &runtime.volumes {
        VolumeState::Absent => draft.push(Action::PrepareVolumes),
        VolumeState::Failed(failure) => {
            let again = backoff::after_ms(failure.at, backoff::retry_delay_ms(failure.failures));
            if draft.due(again) {
                draft.push(Action::PrepareVolumes);
            }
        }
        VolumeState::Preparing | VolumeState::Ready | VolumeState::Removing => {}
    }
    let blocked = matches!(runtime.volumes, VolumeState::Failed(_));
    match &runtime.sandbox {
        SandboxState::Absent if !blocked => draft.push(Action::CreateSandbox),
        SandboxState::Failed(failure) => {
            let again = backoff::after_ms(failure.at, backoff::retry_delay_ms(failure.failures));
            if draft.due(again) {
                draft.push(Action::CreateSandbox);
            }
        }
        _ => {}
    }
    for found in containers {
        let record = runtime.container(&found.container.name);
        tend(pod, found, &record, runtime, draft);
    }
    if blocked {
        return;
    }
    // Init containers one after the other; sidecars among them stay.
    for found in containers {
        let record = runtime.container(&found.container.name);
        match found.class {
            ContainerClass::Init => {
                if phase::init_done(&record, runtime) {
                    continue;
                }
                start_if_due(pod, found, &record, runtime, draft);
                return;
            }
            ContainerClass::Sidecar => {
                start_if_due(pod, found, &record, runtime, draft);
                if !status::has_started(found, &record) && !record.was_started {
                    return;
                }
            }
            ContainerClass::App | ContainerClass::Ephemeral => {
                start_if_due(pod, found, &record, runtime, draft);
            }
        }
    }
}

/// Starts a container that is not alive and is to run, once its image is there and its time has come.
fn start_if_due(
    pod: &Pod,
    found: &SpecContainer,
    record: &ContainerRuntime,
    runtime: &PodRuntime,
    draft: &mut Draft,
) {
    let container = &found.container;
    if record.alive() {
        return;
    }
    if let Some(exit) = record.last_exit.as_ref().filter(|_| !record.replace) {
        let again = match found.class {
            // An init container of an earlier sandbox runs again whatever it said.
            ContainerClass::Init if exit.sandbox != runtime.sandbox_attempt => true,
            _ => spec::restarts(pod, found, exit.exit_code),
        };
        if !again {
            return;
        }
        if let Some(until) = BackOff::until(record.back_off.as_ref(), exit.finished_at)
            && !draft.due(until)
        {
            if !record.back_off_told {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}",
                    container.name,
                    spec::pod_title(pod)
                );
                draft.event(EventRecord::warning(
                    "BackOff",
                    message,
                    Some(&container.name),
                ));
                draft.push(Action::BackOffTold {
                    container: container.name.clone(),
                });
            }
            return;
        }
    }
    if let Some(failure) = &record.start_failure
        && failure.reason != RUN_ERROR
    {
        let again = backoff::after_ms(failure.at, backoff::retry_delay_ms(failure.failures));
        if !draft.due(again) {
            return;
        }
    }
    let ready = runtime.volumes == VolumeState::Ready
        && matches!(runtime.sandbox, SandboxState::Ready { .. });
    match &record.image {
        ImageState::Ready { id, .. } if ready => draft.push(Action::Start {
            container: container.name.clone(),
            attempt: record.attempts,
            image: container.image.clone().unwrap_or_default(),
            image_id: id.clone(),
        }),
        ImageState::Ready { .. } | ImageState::Pulling { .. } => {}
        ImageState::Unknown => draft.push(ensure_image(container)),
        ImageState::Failed(failure) => {
            let until = backoff::after_s(failure.at, backoff::pull_delay_s(failure.failures));
            if draft.due(until) {
                draft.push(ensure_image(container));
            } else if failure.reason == "ErrImagePull" {
                let shown = backoff::after_s(failure.at, backoff::PULL_ERROR_SHOWN_S);
                if draft.due(shown) && !record.back_off_told {
                    let image = container.image.as_deref().unwrap_or_default();
                    let message = format!("Back-off pulling image \"{image}\"");
                    draft.event(EventRecord::normal(
                        "BackOff",
                        message,
                        Some(&container.name),
                    ));
                    let message = "Error: ImagePullBackOff".to_owned();
                    draft.event(EventRecord::warning(
                        "Failed",
                        message,
                        Some(&container.name),
                    ));
                    draft.push(Action::BackOffTold {
                        container: container.name.clone(),
                    });
                }
            }
        }
    }
}

fn ensure_image(container: &Container) -> Action {
    let image = container.image.clone().unwrap_or_default();
    let policy = container.image_pull_policy.clone().unwrap_or_else(|| {
        // The API fills this in; the rule for a pod that comes without it is the same.
        let name = image.rsplit('/').next().unwrap_or_default();
        let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        if latest { "Always" } else { "IfNotPresent" }.to_owned()
    });
    Action::EnsureImage {
        container: container.name.clone(),
        image,
        policy,
    }
}

/// Hooks, probes and stopping of a live instance.
fn tend(
    pod: &Pod,
    found: &SpecContainer,
    record: &ContainerRuntime,
    runtime: &PodRuntime,
    draft: &mut Draft,
) {
    let Instance::Running {
        attempt,
        sandbox,
        post_start,
        stopping,
        ..
    } = &record.instance
    else {
        return;
    };
    let container = &found.container;
    if let Some(stopping) = stopping {
        advance_stop(found, *attempt, stopping, draft);
        probe(found, record, &[ProbeKind::Readiness], draft);
        return;
    }
    if *sandbox != runtime.sandbox_attempt || runtime.sandbox == SandboxState::Absent {
        draft.push(Action::Stop {
            container: container.name.clone(),
            attempt: *attempt,
            reason: StopReason::SandboxLost,
            grace_s: spec::grace_s(pod),
        });
        return;
    }
    let changed = |started: &String| container.image.as_ref() != Some(started);
    if record.started_image.as_ref().is_some_and(changed) {
        let message = format!(
            "Container {} definition changed, will be restarted",
            container.name
        );
        draft.event(EventRecord::normal(
            "Killing",
            message,
            Some(&container.name),
        ));
        draft.push(Action::Stop {
            container: container.name.clone(),
            attempt: *attempt,
            reason: StopReason::ImageChanged,
            grace_s: spec::grace_s(pod),
        });
        return;
    }
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.post_start.as_ref());
    if let (Some(hook), None) = (hook, post_start) {
        draft.push(Action::Hook {
            container: container.name.clone(),
            attempt: *attempt,
            kind: HookKind::PostStart,
            handler: Box::new(hook.clone()),
            timeout_s: None,
        });
    }
    if stop_if_failed(pod, found, record, *attempt, draft) {
        return;
    }
    probe(
        found,
        record,
        &[
            ProbeKind::Startup,
            ProbeKind::Liveness,
            ProbeKind::Readiness,
        ],
        draft,
    );
}

/// Stops an instance whose startup or liveness probe failed too often.
fn stop_if_failed(
    pod: &Pod,
    found: &SpecContainer,
    record: &ContainerRuntime,
    attempt: u32,
    draft: &mut Draft,
) -> bool {
    let Instance::Running { probes, .. } = &record.instance else {
        return false;
    };
    let container = &found.container;
    for (kind, reason) in [
        (ProbeKind::Startup, StopReason::Startup),
        (ProbeKind::Liveness, StopReason::Liveness),
    ] {
        let Some(probe) = probes::spec_of(container, kind) else {
            continue;
        };
        if !probes::failed(probes::track(probes, kind), probe) {
            continue;
        }
        let grace_s = probe
            .termination_grace_period_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or_else(|| spec::grace_s(pod));
        let message = format!(
            "Container {} failed {} probe, will be restarted",
            container.name,
            kind.title().to_lowercase()
        );
        draft.event(EventRecord::normal(
            "Killing",
            message,
            Some(&container.name),
        ));
        draft.push(Action::Stop {
            container: container.name.clone(),
            attempt,
            reason,
            grace_s,
        });
        return true;
    }
    false
}

/// Begins the probes of the given kinds that are due.
pub(crate) fn probe(
    found: &SpecContainer,
    record: &ContainerRuntime,
    kinds: &[ProbeKind],
    draft: &mut Draft,
) {
    let Instance::Running {
        attempt,
        started_at,
        post_start,
        probes,
        ..
    } = &record.instance
    else {
        return;
    };
    let container = &found.container;
    let started = probes::started(container, *post_start, probes);
    for kind in kinds {
        let Some(probe) = probes::spec_of(container, *kind) else {
            continue;
        };
        let enabled = match kind {
            ProbeKind::Startup => !probes.startup.passing,
            ProbeKind::Liveness | ProbeKind::Readiness => started,
        };
        if !enabled {
            continue;
        }
        let track = probes::track(probes, *kind);
        if let Some(at) = probes::due(track, probe, *started_at)
            && draft.due(at)
        {
            draft.push(Action::Probe {
                container: container.name.clone(),
                attempt: *attempt,
                kind: *kind,
            });
        }
    }
}

/// The next step of stopping an instance: hook, signal, kill.
pub(crate) fn advance_stop(
    found: &SpecContainer,
    attempt: u32,
    stopping: &Stopping,
    draft: &mut Draft,
) {
    let container = &found.container;
    let deadline = backoff::after_s(
        stopping.since,
        i64::try_from(stopping.grace_s).unwrap_or(i64::MAX / 1000),
    );
    // Up to whole seconds: rounded down, a grace period would end up to a second early.
    let left_ms = deadline.duration_since(draft.now).as_millis();
    let left_s = u64::try_from((left_ms + 999) / 1000).unwrap_or(0);
    let lifecycle = container.lifecycle.as_ref();
    let signal = |draft: &mut Draft, grace_s: u64| {
        let name = lifecycle
            .and_then(|l| l.stop_signal.clone())
            .unwrap_or_else(|| "SIGTERM".to_owned());
        draft.push(Action::Signal {
            container: container.name.clone(),
            attempt,
            signal: if grace_s == 0 { KILL.to_owned() } else { name },
            grace_s,
        });
    };
    match &stopping.stage {
        StopStage::Begun => {
            let hook = lifecycle.and_then(|l| l.pre_stop.as_ref());
            match hook {
                Some(hook) if left_s > 0 => draft.push(Action::Hook {
                    container: container.name.clone(),
                    attempt,
                    kind: HookKind::PreStop,
                    handler: Box::new(hook.clone()),
                    timeout_s: Some(left_s),
                }),
                _ => signal(draft, left_s),
            }
        }
        StopStage::Hook => {
            if draft.due(deadline) {
                signal(draft, AFTER_HOOK_S);
            }
        }
        StopStage::HookDone => {
            let grace_s = if stopping.grace_s == 0 {
                0
            } else {
                left_s.max(AFTER_HOOK_S)
            };
            signal(draft, grace_s);
        }
        StopStage::Signalled { kill_at } => {
            if draft.due(*kill_at) {
                signal(draft, 0);
            }
        }
        StopStage::Killed { at } => {
            if draft.due(backoff::after_s(*at, KILL_AGAIN_S)) {
                signal(draft, 0);
            }
        }
    }
}
