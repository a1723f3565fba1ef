//! The replicated state machine, as plain functions.
//!
//! In: a committed [`Command`] and a readable [`view`](View) of everything applied before it.
//! Out: a [`Reply`], the [`Event`]s that watchers see, and the mutations that bring the view forward.
//!
//! Keeps invariants I2 (apply is total, deterministic, reads no clock) and the MVCC part of I3
//! (a revision, once read, never changes until it is compacted).
//! Deliberately not here: disks, threads, sockets, time, Raft.

mod command;

pub use command::{
    Command, Compare, Event, EventKind, KeyValue, Operation, OperationResult, RangeError,
    RangeReply, RangeRequest, Reply, Revision, Txn, TxnReply,
};
