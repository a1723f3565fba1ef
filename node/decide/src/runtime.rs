//! What is known of a pod on this node. The agent keeps it on disk, so that a restarted agent
//! continues where the last one was.

use crate::action::StopReason;
use crate::backoff::BackOff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A failure that is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason as the status shows it, for instance `ErrImagePull`.
    pub reason: String,
    /// What happened, in the words of whoever refused.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// How many times in a row, from 1.
    pub failures: u32,
}

/// The pod's volumes as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum VolumeState {
    /// Nothing is there.
    #[default]
    Absent,
    /// Being set up.
    Preparing,
    /// Ready to be mounted into containers.
    Ready,
    /// Could not be set up; will be tried again.
    Failed(Failure),
    /// Being removed.
    Removing,
}

/// The namespaces that the pod's containers share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Nothing is there.
    #[default]
    Absent,
    /// Being made.
    Creating,
    /// There, with the pod's address.
    Ready {
        /// The pod's address.
        ip: String,
    },
    /// Could not be made; will be tried again.
    Failed(Failure),
    /// Being taken down.
    Removing,
}

/// An image as far as one container's next start is concerned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ImageState {
    /// Not asked for yet.
    #[default]
    Unknown,
    /// Being looked up or pulled.
    Pulling {
        /// How often it failed before.
        failures: u32,
    },
    /// Present.
    Ready {
        /// Name as resolved, for instance `docker.io/library/nginx:latest`.
        reference: String,
        /// Its digest or repository@digest, as `imageID` shows it.
        id: String,
    },
    /// Could not be had; will be tried again.
    Failed(Failure),
}

/// How an instance of a container ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Which instance, from 0.
    pub attempt: u32,
    /// The runtime's identifier.
    pub id: String,
    /// Exit code; 128 + signal where a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`…
    pub reason: String,
    /// What the container left at its termination message path, or why it could not start.
    pub message: String,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The sandbox that it ran in.
    pub sandbox: u32,
}

/// The state of one probe of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeTrack {
    /// When it is due; none before the first time.
    pub next_at: Option<Timestamp>,
    /// Whether one is under way.
    pub in_flight: bool,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Whether the success threshold was reached and the failure threshold not since.
    pub passing: bool,
}

/// The probes of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// Until it passes, the others wait.
    pub startup: ProbeTrack,
    /// Its failure restarts the container.
    pub liveness: ProbeTrack,
    /// Decides whether services send traffic.
    pub readiness: ProbeTrack,
}

/// How far stopping a container has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StopStage {
    /// Nothing was done yet.
    Begun,
    /// Its preStop hook runs.
    Hook,
    /// The hook is done (or there is none); no signal was sent yet.
    HookDone,
    /// It was asked to end.
    Signalled {
        /// When it will be killed.
        kill_at: Timestamp,
    },
    /// It was killed at the time given; if it is still there, it is killed again.
    Killed {
        /// When.
        at: Timestamp,
    },
}

/// A container that is being stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    /// Why.
    pub reason: StopReason,
    /// When that began.
    pub since: Timestamp,
    /// Seconds from then until it is killed.
    pub grace_s: u64,
    /// How far it has come.
    pub stage: StopStage,
}

/// The live instance of a container, if any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Instance {
    /// None.
    #[default]
    None,
    /// Being created.
    Starting {
        /// Which instance, from 0.
        attempt: u32,
    },
    /// Its process runs.
    Running {
        /// Which instance, from 0.
        attempt: u32,
        /// The runtime's identifier.
        id: String,
        /// When its process was started.
        started_at: Timestamp,
        /// The sandbox that it runs in.
        sandbox: u32,
        /// Whether its postStart hook has run: none = no hook or not begun, some(false) = under way.
        post_start: Option<bool>,
        /// Its probes.
        probes: Probes,
        /// Set when it is to end.
        stopping: Option<Stopping>,
    },
}

/// What is known of one container. What a record of an older agent lacks is as if it never happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRuntime {
    /// Instances begun so far; the restart count is one less.
    pub attempts: u32,
    /// The image for the next start.
    pub image: ImageState,
    /// Name and identifier of the image that the latest instance was made from.
    pub running_image: Option<(String, String)>,
    /// The image, as the pod named it, of the latest instance.
    pub started_image: Option<String>,
    /// It is to be started again at once and whatever the restart policy: its image changed.
    pub replace: bool,
    /// The live instance.
    pub instance: Instance,
    /// Why the latest start did not give a running container.
    pub start_failure: Option<Failure>,
    /// How the latest instance ended, unless it is alive.
    pub last_exit: Option<Exit>,
    /// How the one before ended.
    pub previous_exit: Option<Exit>,
    /// Waiting between restarts.
    pub back_off: Option<BackOff>,
    /// Whether the wait that is under way was told of by an event.
    pub back_off_told: bool,
    /// Whether it was started (startup probe and postStart done) at least once in this sandbox.
    pub was_started: bool,
}

impl ContainerRuntime {
    /// Whether a process exists or may exist.
    pub fn alive(&self) -> bool {
        !matches!(self.instance, Instance::None)
    }

    /// How often it was started again.
    pub fn restart_count(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }
}

/// A phase that the agent decided for the whole pod, with why; it does not change any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `Failed` or `Succeeded`.
    pub phase: String,
    /// For instance `DeadlineExceeded` or `OutOfcpu`.
    pub reason: String,
    /// The same for a person.
    pub message: String,
}

/// The pod is being ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    /// When that began on this node.
    pub since: Timestamp,
    /// Seconds from then until every container is killed.
    pub grace_s: u64,
}

/// Removal of the API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum DeletionState {
    /// Not asked for.
    #[default]
    NotAsked,
    /// Asked for.
    Asked,
    /// Refused or unreachable; will be tried again.
    Failed(Timestamp),
}

/// Everything known of one pod on this node. What a record of an older agent lacks is as if it
/// never happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodRuntime {
    /// The node's address, for `hostIP`.
    pub host_ip: String,
    /// When the node first saw the pod.
    pub start_time: Option<Timestamp>,
    /// The API object is gone: what is left here has no owner.
    pub gone: bool,
    /// A decision for the whole pod.
    pub outcome: Option<Outcome>,
    /// Its volumes.
    pub volumes: VolumeState,
    /// Failures in a row of setting them up.
    pub failed_mounts: u32,
    /// Its namespaces.
    pub sandbox: SandboxState,
    /// Failures in a row of making them.
    pub failed_sandboxes: u32,
    /// Counts the sandboxes that became ready, from 1.
    pub sandbox_attempt: u32,
    /// The latest address; outlives the sandbox.
    pub ip: Option<String>,
    /// Its containers by name (init, application and ephemeral containers share one space).
    pub containers: BTreeMap<String, ContainerRuntime>,
    /// Set when the pod is being ended.
    pub termination: Option<Termination>,
    /// Removal of the API object.
    pub deletion: DeletionState,
    /// The conditions as last computed: transition times come from here.
    pub conditions: Vec<PodCondition>,
}

impl PodRuntime {
    /// Nothing is known yet of a pod that this node sees for the first time.
    pub fn new(host_ip: &str, now: Timestamp) -> Self {
        PodRuntime {
            host_ip: host_ip.to_owned(),
            start_time: Some(now),
            ..PodRuntime::default()
        }
    }

    /// The container's record; an empty one if nothing happened yet.
    pub fn container(&self, name: &str) -> ContainerRuntime {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// Whether any process of the pod exists or may exist.
    pub fn any_alive(&self) -> bool {
        self.containers.values().any(ContainerRuntime::alive)
    }

    /// Keeps what later decisions need of a status that was computed.
    pub fn remember(&mut self, status: &k8s_openapi::api::core::v1::PodStatus) {
        if let Some(conditions) = &status.conditions {
            self.conditions.clone_from(conditions);
        }
    }
}
