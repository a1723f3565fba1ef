//! Taking in what was begun and what happened.

use crate::action::{Action, EventRecord, HookKind, StopReason};
use crate::backoff::{self, BackOff};
use crate::report::{ImageOutcome, ProbeOutcome, Report, StartFailure};
use crate::runtime::{
    ContainerRuntime, DeletionState, Exit, Failure, ImageState, Instance, PodRuntime, Probes,
    SandboxState, StopStage, Stopping, Termination, VolumeState,
};
use crate::{plan, probes, spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

fn failure(before: u32, reason: &str, message: String, at: Timestamp) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message,
        at,
        failures: before.saturating_add(1),
    }
}

impl PodRuntime {
    /// Records that an action of a plan is being carried out.
    pub fn begin(&mut self, action: &Action, now: Timestamp) {
        match action {
            Action::PrepareVolumes => self.volumes = VolumeState::Preparing,
            Action::CreateSandbox => self.sandbox = SandboxState::Creating,
            Action::RemoveSandbox => self.sandbox = SandboxState::Removing,
            Action::RemoveVolumes => self.volumes = VolumeState::Removing,
            Action::DeleteObject => self.deletion = DeletionState::Asked,
            Action::EnsureImage { container, .. } => {
                let record = self.record(container);
                let failures = match &record.image {
                    ImageState::Failed(failure) => failure.failures,
                    _ => 0,
                };
                record.image = ImageState::Pulling { failures };
            }
            Action::Start {
                container,
                attempt,
                image,
                ..
            } => {
                let record = self.record(container);
                record.replace = false;
                record.started_image = Some(image.clone());
                if let Some(exit) = &record.last_exit {
                    record.back_off =
                        Some(BackOff::next(record.back_off.as_ref(), exit.finished_at));
                }
                record.back_off_told = false;
                if let ImageState::Ready { reference, id } = &record.image {
                    record.running_image = Some((reference.clone(), id.clone()));
                }
                record.instance = Instance::Starting { attempt: *attempt };
            }
            Action::Hook {
                container, kind, ..
            } => {
                if let Instance::Running {
                    post_start,
                    stopping,
                    ..
                } = &mut self.record(container).instance
                {
                    match kind {
                        HookKind::PostStart => *post_start = Some(false),
                        HookKind::PreStop => {
                            if let Some(stopping) = stopping {
                                stopping.stage = StopStage::Hook;
                            }
                        }
                    }
                }
            }
            Action::Probe {
                container, kind, ..
            } => {
                if let Instance::Running { probes, .. } = &mut self.record(container).instance {
                    let track = probes::track_mut(probes, *kind);
                    track.in_flight = true;
                    // The next one is due a period after this one began; the period is added
                    // when this one has ended, so remember the beginning.
                    track.next_at = Some(now);
                }
            }
            Action::Stop {
                container,
                reason,
                grace_s,
                ..
            } => {
                let record = self.record(container);
                record.replace |= *reason == StopReason::ImageChanged;
                if let Instance::Running { stopping, .. } = &mut record.instance {
                    match stopping {
                        None => {
                            *stopping = Some(Stopping {
                                reason: *reason,
                                since: now,
                                grace_s: *grace_s,
                                stage: StopStage::Begun,
                            });
                        }
                        Some(stopping) => shorten(stopping, *grace_s, now),
                    }
                }
            }
            Action::Signal {
                container,
                signal,
                grace_s,
                ..
            } => {
                if let Instance::Running {
                    stopping: Some(stopping),
                    ..
                } = &mut self.record(container).instance
                {
                    stopping.stage = if signal == plan::KILL {
                        StopStage::Killed { at: now }
                    } else {
                        StopStage::Signalled {
                            kill_at: backoff::after_s(
                                now,
                                i64::try_from(*grace_s).unwrap_or(i64::MAX / 1000),
                            ),
                        }
                    };
                }
            }
            Action::Terminate { grace_s, outcome } => {
                match &mut self.termination {
                    None => {
                        self.termination = Some(Termination {
                            since: now,
                            grace_s: *grace_s,
                        });
                    }
                    Some(termination) => {
                        let passed = seconds_between(termination.since, now);
                        termination.grace_s =
                            termination.grace_s.min(passed.saturating_add(*grace_s));
                    }
                }
                if self.outcome.is_none() {
                    self.outcome.clone_from(outcome);
                }
            }
            Action::BackOffTold { container } => self.record(container).back_off_told = true,
            Action::Event(_) | Action::Forget => {}
        }
    }

    /// Takes in what happened; returns what the user is told of it.
    pub fn observe(&mut self, pod: &Pod, report: Report, now: Timestamp) -> Vec<EventRecord> {
        let mut events = Vec::new();
        match report {
            Report::VolumesReady => self.volumes = VolumeState::Ready,
            Report::VolumesFailed(problems) => {
                let before = self.failed_mounts;
                for problem in &problems {
                    events.push(EventRecord::warning("FailedMount", problem.clone(), None));
                }
                let message = problems.join("; ");
                self.volumes = VolumeState::Failed(failure(before, "FailedMount", message, now));
                self.failed_mounts = before.saturating_add(1);
            }
            Report::VolumesRemoved => {
                self.volumes = VolumeState::Absent;
                self.failed_mounts = 0;
            }
            Report::SandboxReady { ip } => {
                self.ip = Some(ip.clone());
                self.sandbox = SandboxState::Ready { ip };
                self.sandbox_attempt = self.sandbox_attempt.saturating_add(1);
                self.failed_sandboxes = 0;
                for record in self.containers.values_mut() {
                    record.was_started = false;
                }
            }
            Report::SandboxFailed(message) => {
                let title = format!("Failed to create pod sandbox: {message}");
                events.push(EventRecord::warning("FailedCreatePodSandBox", title, None));
                let before = self.failed_sandboxes;
                self.failed_sandboxes = before.saturating_add(1);
                self.sandbox =
                    SandboxState::Failed(failure(before, "FailedCreatePodSandBox", message, now));
            }
            Report::SandboxRemoved => self.sandbox = SandboxState::Absent,
            Report::SandboxLost => {
                if matches!(self.sandbox, SandboxState::Ready { .. }) {
                    self.sandbox = SandboxState::Absent;
                    events.push(EventRecord::normal(
                        "SandboxChanged",
                        "Pod sandbox changed, it will be killed and re-created.".to_owned(),
                        None,
                    ));
                }
            }
            Report::Image {
                container,
                image,
                outcome,
            } => self.observe_image(&container, &image, outcome, now, &mut events),
            Report::Started {
                container,
                attempt,
                id,
                at,
            } => self.observe_started(&container, attempt, id, at, &mut events),
            Report::StartFailed {
                container,
                attempt,
                failure,
            } => self.observe_start_failed(&container, attempt, failure, now, &mut events),
            Report::Exited {
                container,
                attempt,
                exit_code,
                signal,
                oom_killed,
                message,
                at,
            } => {
                let sandbox_now = self.sandbox_attempt;
                let record = self.record(&container);
                let (id, started_at, sandbox) = match &record.instance {
                    Instance::Running {
                        attempt: running,
                        id,
                        started_at,
                        sandbox,
                        ..
                    } if *running == attempt => (id.clone(), Some(*started_at), *sandbox),
                    // It ended before its start was reported.
                    Instance::Starting { attempt: starting } if *starting == attempt => {
                        (String::new(), None, sandbox_now)
                    }
                    _ => return events,
                };
                let reason = match (oom_killed, exit_code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                };
                record.attempts = record.attempts.max(attempt.saturating_add(1));
                record.end(Exit {
                    attempt,
                    id,
                    exit_code,
                    signal,
                    reason: reason.to_owned(),
                    message,
                    started_at,
                    finished_at: at,
                    sandbox,
                });
            }
            Report::HookDone {
                container,
                attempt,
                kind,
                error,
            } => self.observe_hook(pod, &container, attempt, kind, error, now, &mut events),
            Report::Probe {
                container,
                attempt,
                kind,
                outcome,
            } => {
                let probe = spec::containers(pod)
                    .into_iter()
                    .find(|found| found.container.name == container)
                    .and_then(|found| probes::spec_of(&found.container, kind).cloned());
                let Instance::Running {
                    attempt: running,
                    probes,
                    stopping,
                    ..
                } = &mut self.record(&container).instance
                else {
                    return events;
                };
                let Some(probe) = probe else { return events };
                if *running != attempt {
                    return events;
                }
                let passed_before = probes::track(probes, kind).passing;
                let track = probes::track_mut(probes, kind);
                probes::observe(track, &probe, &outcome, now);
                if kind == crate::ProbeKind::Startup && track.passing && !passed_before {
                    // Readiness need not wait for a period once the container has started.
                    probes.readiness.next_at = None;
                }
                if stopping.is_none() || kind == crate::ProbeKind::Readiness {
                    let told = match outcome {
                        ProbeOutcome::Success => None,
                        ProbeOutcome::Failure(output) => {
                            Some(format!("{} probe failed: {output}", kind.title()))
                        }
                        ProbeOutcome::Unknown(output) => Some(format!(
                            "{} probe errored and resulted in unknown state: {output}",
                            kind.title()
                        )),
                    };
                    if let Some(message) = told {
                        events.push(EventRecord::warning("Unhealthy", message, Some(&container)));
                    }
                }
            }
            Report::TryAgain => {
                if let VolumeState::Failed(failure) = &mut self.volumes {
                    failure.at = Timestamp::MIN;
                }
                for record in self.containers.values_mut() {
                    if let Some(failure) = &mut record.start_failure
                        && failure.reason == plan::CONFIG_ERROR
                    {
                        failure.at = Timestamp::MIN;
                    }
                }
            }
            Report::Deleted => {
                self.gone = true;
                self.deletion = DeletionState::Asked;
            }
            Report::DeleteFailed => {
                if !self.gone {
                    self.deletion = DeletionState::Failed(now);
                }
            }
        }
        events
    }

    fn record(&mut self, container: &str) -> &mut ContainerRuntime {
        self.containers.entry(container.to_owned()).or_default()
    }

    fn observe_image(
        &mut self,
        container: &str,
        image: &str,
        outcome: ImageOutcome,
        now: Timestamp,
        events: &mut Vec<EventRecord>,
    ) {
        let record = self.record(container);
        let ImageState::Pulling { failures } = record.image else {
            return;
        };
        let name = Some(container);
        match outcome {
            ImageOutcome::Pulling => {
                let message = format!("Pulling image \"{image}\"");
                events.push(EventRecord::normal("Pulling", message, name));
            }
            ImageOutcome::Present { reference, id } => {
                let message = format!("Container image \"{image}\" already present on machine");
                events.push(EventRecord::normal("Pulled", message, name));
                record.image = ImageState::Ready { reference, id };
            }
            ImageOutcome::Pulled {
                reference,
                id,
                took,
                size_bytes,
            } => {
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size_bytes} bytes."
                );
                events.push(EventRecord::normal("Pulled", message, name));
                record.image = ImageState::Ready { reference, id };
            }
            ImageOutcome::Failed { reason, message } => {
                let told = match reason.as_str() {
                    "ErrImageNeverPull" => message.clone(),
                    "InvalidImageName" => {
                        format!("Failed to apply default image tag \"{image}\": {message}")
                    }
                    _ => format!("Failed to pull image \"{image}\": {message}"),
                };
                let told_reason = match reason.as_str() {
                    "ErrImageNeverPull" => "ErrImageNeverPull",
                    "InvalidImageName" => "InspectFailed",
                    _ => "Failed",
                };
                events.push(EventRecord::warning(told_reason, told, name));
                events.push(EventRecord::warning(
                    "Failed",
                    format!("Error: {reason}"),
                    name,
                ));
                record.back_off_told = false;
                record.image = ImageState::Failed(failure(failures, &reason, message, now));
            }
        }
    }

    fn observe_started(
        &mut self,
        container: &str,
        attempt: u32,
        id: String,
        at: Timestamp,
        events: &mut Vec<EventRecord>,
    ) {
        let sandbox = self.sandbox_attempt;
        let record = self.record(container);
        if record.instance != (Instance::Starting { attempt }) {
            return;
        }
        record.attempts = record.attempts.max(attempt.saturating_add(1));
        record.start_failure = None;
        record.instance = Instance::Running {
            attempt,
            id,
            started_at: at,
            sandbox,
            post_start: None,
            probes: Probes::default(),
            stopping: None,
        };
        let name = Some(container);
        events.push(EventRecord::normal(
            "Created",
            format!("Created container: {container}"),
            name,
        ));
        events.push(EventRecord::normal(
            "Started",
            format!("Started container {container}"),
            name,
        ));
    }

    fn observe_start_failed(
        &mut self,
        container: &str,
        attempt: u32,
        cause: StartFailure,
        now: Timestamp,
        events: &mut Vec<EventRecord>,
    ) {
        let sandbox = self.sandbox_attempt;
        let record = self.record(container);
        if record.instance != (Instance::Starting { attempt }) {
            return;
        }
        let before = record.start_failure.as_ref().map_or(0, |f| f.failures);
        record.instance = Instance::None;
        let (reason, message) = match cause {
            StartFailure::Config(message) => (plan::CONFIG_ERROR, message),
            StartFailure::Create(message) => ("CreateContainerError", message),
            StartFailure::Run { id, message } => {
                record.attempts = record.attempts.max(attempt.saturating_add(1));
                record.end(Exit {
                    attempt,
                    id,
                    exit_code: 128,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message: message.clone(),
                    started_at: None,
                    finished_at: now,
                    sandbox,
                });
                (plan::RUN_ERROR, message)
            }
        };
        events.push(EventRecord::warning(
            "Failed",
            format!("Error: {message}"),
            Some(container),
        ));
        record.start_failure = Some(failure(before, reason, message, now));
    }

    fn observe_hook(
        &mut self,
        pod: &Pod,
        container: &str,
        attempt: u32,
        kind: HookKind,
        error: Option<String>,
        now: Timestamp,
        events: &mut Vec<EventRecord>,
    ) {
        let Instance::Running {
            attempt: running,
            post_start,
            stopping,
            ..
        } = &mut self.record(container).instance
        else {
            return;
        };
        if *running != attempt {
            return;
        }
        match kind {
            HookKind::PostStart => {
                *post_start = Some(true);
                if let Some(error) = error {
                    let message = format!("PostStartHook failed: {error}");
                    events.push(EventRecord::warning(
                        "FailedPostStartHook",
                        message,
                        Some(container),
                    ));
                    let message = format!("FailedPostStartHook: {error}");
                    events.push(EventRecord::normal("Killing", message, Some(container)));
                    if stopping.is_none() {
                        *stopping = Some(Stopping {
                            reason: StopReason::PostStart,
                            since: now,
                            grace_s: spec::grace_s(pod),
                            // What did not come up properly gets no farewell hook.
                            stage: StopStage::HookDone,
                        });
                    }
                }
            }
            HookKind::PreStop => {
                if let Some(error) = error {
                    let message = format!("PreStopHook failed: {error}");
                    events.push(EventRecord::warning(
                        "FailedPreStopHook",
                        message,
                        Some(container),
                    ));
                }
                if let Some(stopping) = stopping
                    && stopping.stage == StopStage::Hook
                {
                    stopping.stage = StopStage::HookDone;
                }
            }
        }
    }
}

impl ContainerRuntime {
    fn end(&mut self, exit: Exit) {
        self.previous_exit = self.last_exit.take();
        self.last_exit = Some(exit);
        self.instance = Instance::None;
        self.image = ImageState::Unknown;
        self.back_off_told = false;
    }
}

/// A shorter grace period than the one under way, counted from now.
fn shorten(stopping: &mut Stopping, grace_s: u64, now: Timestamp) {
    let passed = seconds_between(stopping.since, now);
    stopping.grace_s = stopping.grace_s.min(passed.saturating_add(grace_s));
    if let StopStage::Signalled { kill_at } = &mut stopping.stage {
        let sooner = backoff::after_s(now, i64::try_from(grace_s).unwrap_or(i64::MAX / 1000));
        *kill_at = (*kill_at).min(sooner);
    }
}

/// Whole seconds from one time to a later one.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0)
}
