//! What the cluster should do next: the scheduler and the controllers as pure functions.
//!
//! **In:** a [`View`] of the cluster (typed objects and the indexes over them, fed by watches, with
//! its own `now`), a key to look at, and a seed. **Out:** a [`Plan`]: [`Intent`]s, each with the
//! action, its precondition (uid and resource version), the reason, and the event to record.
//! Somebody else ([`trireme-server`]) carries intents out through the API, like any other client.
//!
//! Kept here:
//! - the same view, key and seed give the same plan (no clock, no random source, ordered maps);
//! - at a fixpoint a plan holds no intents: statuses are compared before they are written;
//! - a write made from a stale view is refused by its precondition, so it costs a retry and never
//!   a wrong state;
//! - the scheduler never gives a node more than it has, counting every earlier bind of the same plan;
//! - a rollout never leaves the bounds of `maxSurge` and `maxUnavailable`.
//!
//! Not here, on purpose: watching, queues, back-off, retries, aggregation of repeated events and
//! the wait for one's own writes to come back. They belong to the loop that drives this crate.

pub mod control;
mod digest;
mod intent;
mod key;
mod labels;
mod pod;
pub mod schedule;
pub mod view;

pub use control::{Configuration, Controller, controllers};
pub use intent::{
    Absent, Action, EventKind, EventRecord, Intent, Plan, Propagation, Regarding, Subresource,
};
pub use key::ObjectKey;
pub use view::{Change, Object, Outline, Transition, View, ViewError};
