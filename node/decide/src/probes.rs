//! When probes run and what their results mean: the kubelet's prober, as values.

use crate::action::ProbeKind;
use crate::backoff::after_s;
use crate::report::ProbeOutcome;
use crate::runtime::{ProbeTrack, Probes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};

/// The spec of one of a container's probes.
pub(crate) fn spec_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The state of one of an instance's probes.
pub(crate) fn track(probes: &Probes, kind: ProbeKind) -> &ProbeTrack {
    match kind {
        ProbeKind::Startup => &probes.startup,
        ProbeKind::Liveness => &probes.liveness,
        ProbeKind::Readiness => &probes.readiness,
    }
}

/// The same, to change.
pub(crate) fn track_mut(probes: &mut Probes, kind: ProbeKind) -> &mut ProbeTrack {
    match kind {
        ProbeKind::Startup => &mut probes.startup,
        ProbeKind::Liveness => &mut probes.liveness,
        ProbeKind::Readiness => &mut probes.readiness,
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|v| u32::try_from(v).ok())
        .filter(|v| *v > 0)
        .unwrap_or(default)
}

/// Seconds between two runs.
fn period_s(probe: &Probe) -> i64 {
    i64::from(at_least_one(probe.period_seconds, 10))
}

/// Failures in a row that count as failed.
pub(crate) fn failure_threshold(probe: &Probe) -> u32 {
    at_least_one(probe.failure_threshold, 3)
}

/// When the probe is due, for an instance started at `started_at`; none while one is under way.
pub(crate) fn due(track: &ProbeTrack, probe: &Probe, started_at: Timestamp) -> Option<Timestamp> {
    if track.in_flight {
        return None;
    }
    let delay = i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0));
    let first = after_s(started_at, delay);
    Some(track.next_at.map_or(first, |next| next.max(first)))
}

/// Takes in the result of a run.
pub(crate) fn observe(
    track: &mut ProbeTrack,
    probe: &Probe,
    outcome: &ProbeOutcome,
    now: Timestamp,
) {
    let began = track.next_at.unwrap_or(now);
    track.in_flight = false;
    track.next_at = Some(after_s(began, period_s(probe)).max(now));
    match outcome {
        ProbeOutcome::Success => {
            track.failures = 0;
            track.successes = track.successes.saturating_add(1);
            if track.successes >= at_least_one(probe.success_threshold, 1) {
                track.passing = true;
            }
        }
        ProbeOutcome::Failure(_) => {
            track.successes = 0;
            track.failures = track.failures.saturating_add(1);
            if track.failures >= failure_threshold(probe) {
                track.passing = false;
            }
        }
        ProbeOutcome::Unknown(_) => {}
    }
}

/// Whether the probe has failed often enough to act.
pub(crate) fn failed(track: &ProbeTrack, probe: &Probe) -> bool {
    track.failures >= failure_threshold(probe)
}

/// Whether the instance has started: postStart done, startup probe passed.
pub(crate) fn started(container: &Container, post_start: Option<bool>, probes: &Probes) -> bool {
    let has_hook = container
        .lifecycle
        .as_ref()
        .is_some_and(|lifecycle| lifecycle.post_start.is_some());
    let hook_done = !has_hook || post_start == Some(true);
    hook_done && (container.startup_probe.is_none() || probes.startup.passing)
}
