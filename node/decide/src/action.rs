//! What the agent is asked to begin, and what it tells the user.

use k8s_openapi::api::core::v1::LifecycleHandler;
use serde::{Deserialize, Serialize};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Has it come up?
    Startup,
    /// Is it alive?
    Liveness,
    /// May it get traffic?
    Readiness,
}

impl ProbeKind {
    /// `Startup`, `Liveness`, `Readiness`: as events spell it.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// Which lifecycle hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookKind {
    /// After the container's start.
    PostStart,
    /// Before it is asked to end.
    PreStop,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The pod ends.
    PodEnds,
    /// Its liveness probe failed too often.
    Liveness,
    /// Its startup probe failed too often.
    Startup,
    /// Its postStart hook failed.
    PostStart,
    /// It runs in namespaces that are gone.
    SandboxLost,
    /// The pod names another image than the one it runs.
    ImageChanged,
}

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// An event about the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Normal or Warning.
    pub event_type: EventType,
    /// For instance `BackOff`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// The container that it is about, by name.
    pub container: Option<String>,
}

impl EventRecord {
    pub(crate) fn normal(reason: &str, message: String, container: Option<&str>) -> Self {
        EventRecord {
            event_type: EventType::Normal,
            reason: reason.to_owned(),
            message,
            container: container.map(str::to_owned),
        }
    }

    pub(crate) fn warning(reason: &str, message: String, container: Option<&str>) -> Self {
        EventRecord {
            event_type: EventType::Warning,
            ..EventRecord::normal(reason, message, container)
        }
    }
}

/// One thing to begin. The answer to each, where there is one, is a [`crate::Report`].
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Set up every volume. Answer: `VolumesReady` or `VolumesFailed`.
    PrepareVolumes,
    /// Make the shared namespaces and the pod's network. Answer: `SandboxReady` or `SandboxFailed`.
    CreateSandbox,
    /// See that a container's image is present, by its pull policy. Answer: `Image`.
    EnsureImage {
        /// The container.
        container: String,
        /// The image as the pod names it.
        image: String,
        /// `Always`, `IfNotPresent` or `Never`.
        policy: String,
    },
    /// Create and start a container. Answer: `Started` or `StartFailed`, later `Exited`.
    Start {
        /// The container.
        container: String,
        /// Which instance, from 0. Instances below `attempt - 1` may be removed.
        attempt: u32,
        /// The image as the pod names it.
        image: String,
        /// Identifier of the image, as `EnsureImage` answered.
        image_id: String,
    },
    /// Run a lifecycle hook. Answer: `HookDone`.
    Hook {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
        /// What to do.
        handler: Box<LifecycleHandler>,
        /// Seconds after which it is given up; none: no limit.
        timeout_s: Option<u64>,
    },
    /// Probe once. Answer: `Probe`.
    Probe {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Bookkeeping: the container is to end. What follows is in later plans.
    Stop {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Why.
        reason: StopReason,
        /// Seconds until it is killed.
        grace_s: u64,
    },
    /// Send a signal to the container's first process. The answer is its exit.
    Signal {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Its name, `SIGTERM` or what the pod or image says instead; `SIGKILL` is for everything
        /// in the container.
        signal: String,
        /// Seconds until `SIGKILL` follows.
        grace_s: u64,
    },
    /// Bookkeeping: the pod is to end, with a decision about its phase or without.
    Terminate {
        /// Seconds until everything is killed.
        grace_s: u64,
        /// A decision for the whole pod.
        outcome: Option<Outcome>,
    },
    /// Take down the namespaces and the network. Answer: `SandboxRemoved`.
    RemoveSandbox,
    /// Remove every volume of the pod. Answer: `VolumesRemoved`.
    RemoveVolumes,
    /// Report the status, then delete the API object (grace 0, this uid). Answer: `Deleted` or
    /// `DeleteFailed`.
    DeleteObject,
    /// Remove every trace of the pod from this node: the last action.
    Forget,
    /// Tell the user. No answer.
    Event(EventRecord),
    /// Bookkeeping: the wait between restarts was told of.
    BackOffTold {
        /// The container.
        container: String,
    },
}

use crate::runtime::Outcome;
