//! The replicated state machine, as plain functions.
//!
//! In: a committed [`Command`] and a readable [`View`] of everything applied before it.
//! Out: a [`Reply`], the [`Event`]s that watchers see, and the [`Mutation`]s that bring the view
//! forward. [`range()`] and [`events()`] read a view at a revision.
//!
//! Keeps invariants I2 (apply is total, deterministic, reads no clock) and the MVCC part of I3
//! (a revision, once read, never changes until it is compacted). An error from here means that the
//! store is unreadable or not ours; whoever applies the log must stop, not go on.
//!
//! How the store is laid out, and why listing the newest state needs no history, is told in
//! [`layout`]. Deliberately not here: disks, threads, sockets, time, Raft.

mod apply;
mod codec;
mod command;
mod digest;
mod history;
pub mod layout;
mod range;
mod sweep;
mod view;

pub use apply::{Applied, MAX_KEY_BYTES, MAX_TXN_OPERATIONS, Step, Transition, apply};
pub use codec::CodecError;
pub use command::{
    Command, Compare, Event, EventKind, KeyValue, Operation, OperationResult, RangeError,
    RangeReply, RangeRequest, Reply, Revision, Txn, TxnReply,
};
pub use digest::digest;
pub use history::{EventPage, RevisionEvents, events, in_range};
pub use layout::Meta;
pub use range::range;
pub use sweep::{COMPACT_REVISIONS, SWEEP_REVISIONS};
pub use view::{MemoryView, Mutation, Overlay, Pairs, StateError, View};

/// Where the store stands: its revision, and how far it is compacted.
pub fn meta(view: &dyn View) -> Result<Meta, StateError> {
    Meta::read(view)
}
