//! What came of an action, or happened by itself.

use crate::action::{HookKind, ProbeKind};
use jiff::Timestamp;

/// How a start failed.
#[derive(Clone, Debug, PartialEq)]
pub enum StartFailure {
    /// What the pod asks for cannot be resolved (`CreateContainerConfigError`).
    Config(String),
    /// The container could not be made (`CreateContainerError`).
    Create(String),
    /// It was made, and its process could not be started (`RunContainerError`, exit code 128).
    Run {
        /// The runtime's identifier.
        id: String,
        /// Its words.
        message: String,
    },
}

/// How looking for an image ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageOutcome {
    /// A pull began. More follows.
    Pulling,
    /// It was there.
    Present {
        /// Name as resolved.
        reference: String,
        /// As `imageID` shows it.
        id: String,
    },
    /// It was pulled.
    Pulled {
        /// Name as resolved.
        reference: String,
        /// As `imageID` shows it.
        id: String,
        /// For the event: how long it took, as Go prints a duration.
        took: String,
        /// Bytes.
        size_bytes: u64,
    },
    /// It cannot be had.
    Failed {
        /// `ErrImagePull`, `ErrImageNeverPull` or `InvalidImageName`.
        reason: String,
        /// The registry's words.
        message: String,
    },
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeOutcome {
    /// It passed.
    Success,
    /// It failed, with what it said.
    Failure(String),
    /// It could not be carried out; counts neither way.
    Unknown(String),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Every volume is ready.
    VolumesReady,
    /// One or more could not be set up: one sentence each.
    VolumesFailed(Vec<String>),
    /// All are removed.
    VolumesRemoved,
    /// The namespaces are there.
    SandboxReady {
        /// The pod's address.
        ip: String,
    },
    /// They could not be made.
    SandboxFailed(String),
    /// They were taken down.
    SandboxRemoved,
    /// They are gone though nobody took them down (the machine was restarted).
    SandboxLost,
    /// About a container's image.
    Image {
        /// The container.
        container: String,
        /// The image as the pod names it.
        image: String,
        /// What came of it.
        outcome: ImageOutcome,
    },
    /// Its process runs.
    Started {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// The runtime's identifier.
        id: String,
        /// When.
        at: Timestamp,
    },
    /// It did not start.
    StartFailed {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Why.
        failure: StartFailure,
    },
    /// Its process ended.
    Exited {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Exit code; 128 + signal where a signal ended it.
        exit_code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The kernel killed it for memory.
        oom_killed: bool,
        /// From its termination message path.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// A hook ended.
    HookDone {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// A probe ended.
    Probe {
        /// The container.
        container: String,
        /// The instance.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// What it said.
        outcome: ProbeOutcome,
    },
    /// What a start or a volume waited for may be there now (a ConfigMap appeared).
    TryAgain,
    /// The API object was deleted, by us or by somebody else.
    Deleted,
    /// It could not be deleted.
    DeleteFailed,
}
