//! The disk, as a replica sees it.
//!
//! A replica calls an engine from asynchronous tasks, so nothing here may block on the disk for
//! long: reads and writes are expected to meet memory, and what must wait (durability, a checkpoint,
//! an import) takes a callback. [`rocks`](crate::rocks) is the engine for real disks; a simulator
//! brings its own and decides what a crash leaves.
//!
//! What a crash may do: of the writes that are not yet durable, it keeps some prefix, in the order
//! in which they were written, and loses the rest. A batch survives whole or not at all. A queued
//! batch is written when its turn comes, so a later `write` may survive it.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use trireme_state::View;

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Big-endian index → log entry.
    Log,
    /// Vote, purged log id, applied log id and membership.
    Meta,
    /// The state machine's keys.
    State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put {
        column: Column,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        column: Column,
        key: Bytes,
    },
    /// From `start` (included) to `end` (excluded).
    DeleteRange {
        column: Column,
        start: Bytes,
        end: Bytes,
    },
}

/// Told once, from any thread, how it went.
pub type Done<T = ()> = Box<dyn FnOnce(io::Result<T>) + Send>;

pub trait Engine: Send + Sync + 'static {
    fn get(&self, column: Column, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Visits from `start` (included) to `end` (excluded), ascending, until told to stop by false.
    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()>;

    /// The greatest key and its value.
    fn last(&self, column: Column) -> io::Result<Option<(Bytes, Bytes)>>;

    /// Writes all or nothing, at once: readable when this returns, durable only when something that
    /// was persisted later is.
    fn write(&self, batch: Vec<Write>) -> io::Result<()>;

    /// Queues a batch behind those queued before it, and calls back when it is durable; it is readable
    /// by then. Batches that meet share one trip to the disk.
    fn persist(&self, batch: Vec<Write>, done: Done);

    /// Lends an unchanging view of the state column.
    fn with_state(&self, read: &mut dyn FnMut(&dyn View));

    /// Makes a durable copy of the meta and state columns as they are at one moment, and makes it
    /// the current one.
    fn checkpoint(&self, done: Done<Arc<dyn Checkpoint>>);

    /// The newest durable copy, also after a restart.
    fn current_checkpoint(&self) -> Option<Arc<dyn Checkpoint>>;

    /// A place to receive a copy made by another replica.
    fn receive(&self) -> io::Result<Box<dyn Incoming>>;

    /// Replaces the state column by the checkpoint's and writes `with` (to other columns), at once
    /// or not at all, durably; then makes the checkpoint the current one.
    fn install(&self, checkpoint: Arc<dyn Checkpoint>, with: Vec<Write>, done: Done);

    /// Bytes that may still be written to the disk.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A durable, unchanging copy, for sending to another replica.
pub trait Checkpoint: Send + Sync + 'static {
    /// What the meta column held.
    fn meta(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Names and sizes in bytes, in the order in which they are to be sent.
    fn files(&self) -> io::Result<Vec<(String, u64)>>;

    /// At most `limit` bytes; empty at the end of the file.
    fn read(&self, file: &str, offset: u64, limit: usize) -> io::Result<Bytes>;

    /// For the engine that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A copy being received. Dropped before it is finished, it leaves nothing.
pub trait Incoming: Send {
    fn write(&mut self, file: &str, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Everything has been written: make it readable. An error says that it is not a whole copy.
    fn finish(self: Box<Self>) -> io::Result<Arc<dyn Checkpoint>>;
}
