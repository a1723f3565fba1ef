//! The status that the API shows for the pod.

use crate::backoff::{self, BackOff};
use crate::runtime::{ContainerRuntime, Exit, ImageState, Instance, PodRuntime};
use crate::spec::{self, ContainerClass, SpecContainer};
use crate::{conditions, phase, probes, qos};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The name of the runtime in container identifiers.
pub(crate) const RUNTIME_SCHEME: &str = "trireme://";

/// A time with whole seconds, as the API keeps them.
pub(crate) fn api_time(at: Timestamp) -> Time {
    let whole = at.round(
        TimestampRound::new()
            .smallest(Unit::Second)
            .mode(RoundMode::Floor),
    );
    Time(whole.unwrap_or(at))
}

/// Whether the container has started: what lets the next init container begin, and `started`.
pub(crate) fn has_started(found: &SpecContainer, record: &ContainerRuntime) -> bool {
    match &record.instance {
        Instance::Running {
            post_start, probes, ..
        } => probes::started(&found.container, *post_start, probes),
        _ => false,
    }
}

fn is_ready(found: &SpecContainer, record: &ContainerRuntime, runtime: &PodRuntime) -> bool {
    if found.class == ContainerClass::Init {
        return phase::init_done(record, runtime);
    }
    match &record.instance {
        Instance::Running { probes, .. } => {
            has_started(found, record)
                && (found.container.readiness_probe.is_none() || probes.readiness.passing)
        }
        _ => false,
    }
}

fn terminated(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!exit.id.is_empty()).then(|| format!("{RUNTIME_SCHEME}{}", exit.id)),
            exit_code: exit.exit_code,
            finished_at: Some(api_time(exit.finished_at)),
            message: (!exit.message.is_empty()).then(|| exit.message.clone()),
            reason: Some(exit.reason.clone()),
            signal: exit.signal,
            started_at: exit.started_at.map(api_time),
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            message,
            reason: Some(reason.to_owned()),
        }),
        ..ContainerState::default()
    }
}

/// Why a container that is not running and should be is not, if there is more to say than that
/// it is being created.
fn trouble(
    pod: &Pod,
    found: &SpecContainer,
    record: &ContainerRuntime,
    now: Timestamp,
) -> Option<ContainerState> {
    let container = &found.container;
    if let Some(exit) = &record.last_exit
        && let Some(until) = BackOff::until(record.back_off.as_ref(), exit.finished_at)
        && until > now
        && record.instance == Instance::None
    {
        let delay_s = record.back_off.as_ref().map_or(0, |state| state.delay_s);
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            backoff::go_duration(delay_s),
            container.name,
            spec::pod_title(pod)
        );
        return Some(waiting("CrashLoopBackOff", Some(message)));
    }
    let image = container.image.as_deref().unwrap_or_default();
    match &record.image {
        ImageState::Failed(failure) if failure.reason == "ErrImagePull" => {
            let shown = backoff::after_s(failure.at, backoff::PULL_ERROR_SHOWN_S);
            if shown > now {
                return Some(waiting("ErrImagePull", Some(failure.message.clone())));
            }
            let message = format!(
                "Back-off pulling image \"{image}\": ErrImagePull: {}",
                failure.message
            );
            return Some(waiting("ImagePullBackOff", Some(message)));
        }
        ImageState::Failed(failure) => {
            return Some(waiting(&failure.reason, Some(failure.message.clone())));
        }
        // While it is tried again, the last word on it stays.
        ImageState::Pulling { failures } if *failures > 0 => {
            let message = format!("Back-off pulling image \"{image}\"");
            return Some(waiting("ImagePullBackOff", Some(message)));
        }
        _ => {}
    }
    record
        .start_failure
        .as_ref()
        .map(|failure| waiting(&failure.reason, Some(failure.message.clone())))
}

fn container_status(
    pod: &Pod,
    found: &SpecContainer,
    runtime: &PodRuntime,
    default_reason: &str,
    over: bool,
    now: Timestamp,
) -> ContainerStatus {
    let record = runtime.container(&found.container.name);
    let mut last_state = record.last_exit.as_ref().map(terminated);
    let mut id = record.last_exit.as_ref().map(|exit| exit.id.clone());
    let state = match (&record.instance, &record.last_exit) {
        (
            Instance::Running {
                id: running,
                started_at,
                ..
            },
            _,
        ) => {
            id = Some(running.clone());
            ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(api_time(*started_at)),
                }),
                ..ContainerState::default()
            }
        }
        (_, Some(exit)) => {
            let again = !over && spec::restarts(pod, found, exit.exit_code);
            match trouble(pod, found, &record, now).filter(|_| again) {
                Some(state) => state,
                None => {
                    last_state = record.previous_exit.as_ref().map(terminated);
                    terminated(exit)
                }
            }
        }
        (_, None) => trouble(pod, found, &record, now)
            .filter(|_| !over)
            .unwrap_or_else(|| waiting(default_reason, None)),
    };
    let image = found.container.image.clone().unwrap_or_default();
    let (image, image_id) = record
        .running_image
        .clone()
        .unwrap_or((image, String::new()));
    ContainerStatus {
        name: found.container.name.clone(),
        image,
        image_id,
        container_id: id
            .filter(|id| !id.is_empty())
            .map(|id| format!("{RUNTIME_SCHEME}{id}")),
        ready: is_ready(found, &record, runtime),
        restart_count: i32::try_from(record.restart_count()).unwrap_or(i32::MAX),
        started: Some(has_started(found, &record)),
        last_state: Some(last_state.unwrap_or_default()),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// Computes the pod's whole status.
pub(crate) fn status(
    pod: &Pod,
    containers: &[SpecContainer],
    runtime: &PodRuntime,
    now: Timestamp,
) -> PodStatus {
    let has_init = containers
        .iter()
        .any(|c| matches!(c.class, ContainerClass::Init | ContainerClass::Sidecar));
    let default_reason = if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let over = runtime.termination.is_some();
    let statuses = |classes: &[ContainerClass]| -> Option<Vec<ContainerStatus>> {
        let list: Vec<_> = containers
            .iter()
            .filter(|found| classes.contains(&found.class))
            .map(|found| container_status(pod, found, runtime, default_reason, over, now))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let phase = phase::phase(pod, containers, runtime);
    // A pod that the node refused has no container statuses, as with the kubelet.
    let refused = runtime.outcome.is_some() && runtime.containers.is_empty();
    let (init, app, ephemeral) = if refused {
        (None, None, None)
    } else {
        (
            statuses(&[ContainerClass::Init, ContainerClass::Sidecar]),
            statuses(&[ContainerClass::App]),
            statuses(&[ContainerClass::Ephemeral]),
        )
    };
    let host_ip = (!runtime.host_ip.is_empty()).then(|| runtime.host_ip.clone());
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let ip = runtime.ip.as_ref().and_then(text);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: runtime.outcome.as_ref().and_then(|o| text(&o.reason)),
        message: runtime.outcome.as_ref().and_then(|o| text(&o.message)),
        host_ips: host_ip.clone().map(|ip| vec![HostIP { ip }]),
        host_ip,
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: runtime.start_time.map(api_time),
        qos_class: Some(qos::class(pod).to_owned()),
        observed_generation: pod.metadata.generation,
        init_container_statuses: init,
        container_statuses: app,
        ephemeral_container_statuses: ephemeral,
        ..PodStatus::default()
    };
    if refused {
        status.qos_class = pod.status.as_ref().and_then(|s| s.qos_class.clone());
    }
    status.conditions = Some(conditions::conditions(
        pod, containers, runtime, &status, now,
    ));
    status
}
