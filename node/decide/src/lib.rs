//! What a node does with one pod: a pure state machine, as the kubelet behaves.
//!
//! **In:** the pod as the API has it, [`PodRuntime`] (what is known of its volumes, network,
//! images, containers and probes) and the time. **Out:** a [`PodPlan`]: the actions to begin
//! now, the status to report, and when to ask again. What happened comes back as a [`Report`]
//! through [`PodRuntime::observe`]; what was begun is recorded by [`PodRuntime::begin`]. The
//! agent (`trireme-node`) is the only driver, and one task drives one pod.
//!
//! **Invariants**
//! - A container never has two live instances: a new one is begun only when none is starting,
//!   running or stopping.
//! - Restarts wait as the kubelet's do: at once, then 10 s doubling to 5 min, forgotten after
//!   10 min without a crash ([`backoff`]).
//! - A pod that is being deleted, has reached a terminal phase or lost its object starts nothing.
//! - The API object is deleted only when every container is gone.
//! - Asked twice about the same state at the same time, the answer is the same; a plan whose
//!   actions were begun does not repeat them.
//!
//! Deliberately not here: how anything is done (mounts, namespaces, HTTP), who else runs on the
//! node (but for [`admit`]), and any clock.

mod action;
pub mod admit;
mod adopt;
pub mod backoff;
mod conditions;
mod observe;
mod phase;
mod plan;
mod probes;
pub mod qos;
mod report;
mod runtime;
mod spec;
mod status;
mod termination;

pub use action::{Action, EventRecord, EventType, HookKind, ProbeKind, StopReason};
pub use plan::{PodPlan, decide};
pub use report::{ImageOutcome, ProbeOutcome, Report, StartFailure};
pub use runtime::{
    ContainerRuntime, DeletionState, Exit, Failure, ImageState, Instance, Outcome, PodRuntime,
    ProbeTrack, Probes, SandboxState, StopStage, Stopping, Termination, VolumeState,
};
pub use spec::{ContainerClass, SpecContainer, containers, field_path};

#[cfg(test)]
mod tests;
