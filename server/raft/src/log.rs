//! The Raft log and the vote.
//!
//! Recent entries are also kept in memory, decoded: replication and applying read those, so that
//! the disk is read only for followers that are behind. Entries stay in memory at least until they
//! are on the disk, which is not waited for.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::{Notify, oneshot};

use crate::engine::{Column, Engine, Write};
use crate::entry::{Entry, LogId, Types, Vote, decode, encode};
use crate::extent::Extent;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";

/// Entries kept in memory besides those on disk: a few seconds of writes.
const RECENT_BYTES: usize = 4 << 20;
/// Small entries cost memory beyond their bytes.
const RECENT_ENTRIES: usize = 4096;
/// Entries that wait to be written: appending waits while there are more, for a disk that is slower
/// than what arrives must not cost memory. A second of what the fastest network brings.
const UNWRITTEN_BYTES: usize = 64 << 20;
/// In one message to a follower, unless a single entry is larger.
const READ_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub struct LogStore {
    engine: Arc<dyn Engine>,
    shared: Arc<Mutex<Shared>>,
    /// Bytes of log that are kept at most, about.
    limit_bytes: u64,
    /// The log has grown by a good part of that.
    grown: Arc<Notify>,
    /// Fewer entries wait to be written.
    written: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, consecutive.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    unwritten_bytes: usize,
    extent: Extent,
}

fn size(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        _ => 0,
    }
}

fn key(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_be_bytes())
}

/// Behind every index that can occur.
const END: [u8; 8] = [0xFF; 8];

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    /// True when the log has grown by a good part of its limit.
    fn push(&mut self, entry: Entry) -> bool {
        let bytes = size(&entry) as u64;
        let grown = self.extent.append(entry.log_id.index, bytes);
        self.last = Some(entry.log_id);
        self.recent_bytes += size(&entry);
        self.unwritten_bytes += size(&entry);
        self.recent.push_back(entry);
        grown
    }

    /// Entries up to this one are on the disk: memory keeps only the newest of them.
    fn forget(&mut self, written: LogId) {
        while (self.recent.len() > RECENT_ENTRIES
            || (self.recent_bytes > RECENT_BYTES && self.recent.len() > 1))
            && self
                .first_recent()
                .is_some_and(|first| first <= written.index)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= size(&entry);
        }
    }

    fn pop_back(&mut self) {
        if let Some(entry) = self.recent.pop_back() {
            self.recent_bytes -= size(&entry);
        }
    }

    fn first_recent(&self) -> Option<u64> {
        self.recent.front().map(|entry| entry.log_id.index)
    }

    /// Those in memory from `start` on, before `end`.
    fn recent(&self, start: u64, end: u64) -> impl Iterator<Item = &Entry> {
        let first = self.first_recent().unwrap_or(u64::MAX);
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        self.recent
            .iter()
            .skip(skip)
            .take_while(move |entry| entry.log_id.index < end)
    }
}

impl LogStore {
    /// Bytes of log beyond `limit_bytes` are to be purged as soon as a snapshot has them.
    pub fn open(engine: Arc<dyn Engine>, limit_bytes: u64) -> io::Result<LogStore> {
        let read = |key| engine.get(Column::Meta, key);
        let mut shared = Shared {
            vote: read(VOTE)?.map(|bytes| decode(&bytes)).transpose()?,
            purged: read(PURGED)?.map(|bytes| decode(&bytes)).transpose()?,
            extent: Extent::new(limit_bytes),
            ..Shared::default()
        };
        let purged = shared.purged.map_or(0, |id| id.index + 1);
        engine.scan(Column::Log, &key(purged), &END, &mut |key, value| {
            if let Ok(index) = key.try_into().map(u64::from_be_bytes) {
                shared.extent.append(index, value.len() as u64);
            }
            true
        })?;
        let last = engine.last(Column::Log)?;
        let last = last.map(|(_, bytes)| decode::<Entry>(&bytes)).transpose()?;
        // A purge may have been written and the deletion of the entries lost, or the reverse.
        shared.last = last.map(|entry| entry.log_id).max(shared.purged);
        Ok(LogStore {
            engine,
            shared: Arc::new(Mutex::new(shared)),
            limit_bytes,
            grown: Arc::default(),
            written: Arc::default(),
        })
    }

    /// Waits until the log has grown by a good part of its limit.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Bytes ever appended, and up to where to purge so that the limit is kept.
    pub fn extent(&self) -> (u64, Option<u64>) {
        let shared = self.shared();
        (
            shared.extent.appended(),
            shared.extent.excess(self.limit_bytes),
        )
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        locked(&self.shared)
    }

    /// Entries from `start` before `end`, at least one if there is one, and not many more bytes
    /// than `limit`.
    fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut at = start;
        while at < end && bytes < limit {
            let until = {
                let shared = self.shared();
                let first = shared.first_recent().unwrap_or(u64::MAX);
                if at >= first {
                    for entry in shared.recent(at, end) {
                        if bytes >= limit {
                            break;
                        }
                        bytes += size(entry);
                        found.push(entry.clone());
                    }
                    break;
                }
                // Memory may move on meanwhile; what it drops stays on the disk.
                first.min(end)
            };
            let mut broken = None;
            self.engine.scan(
                Column::Log,
                &key(at),
                &key(until),
                &mut |_, value| match decode::<Entry>(value) {
                    Ok(entry) => {
                        bytes += size(&entry);
                        found.push(entry);
                        bytes < limit
                    }
                    Err(error) => {
                        broken = Some(error);
                        false
                    }
                },
            )?;
            if let Some(error) = broken {
                return Err(error);
            }
            at = until;
        }
        Ok(found)
    }

    /// Writes behind all that is queued, and waits until that is durable.
    async fn persist(&self, batch: Vec<Write>) -> io::Result<()> {
        let (done, persisted) = oneshot::channel();
        self.engine.persist(
            batch,
            Box::new(move |result| {
                done.send(result).ok();
            }),
        );
        persisted
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the disk was closed")))
    }

    /// Waits while too much waits to be written.
    async fn room(&self) {
        loop {
            let written = self.written.notified();
            if self.shared().unwritten_bytes < UNWRITTEN_BYTES {
                return;
            }
            written.await;
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let shared = self.shared();
        Ok(LogState {
            last_purged_log_id: shared.purged,
            last_log_id: shared.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let value = encode(vote)?;
        let key = Bytes::from_static(VOTE);
        self.persist(vec![Write::Put {
            column: Column::Meta,
            key,
            value,
        }])
        .await?;
        self.shared().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut batch = Vec::with_capacity(entries.len());
        for entry in &entries {
            let (key, value) = (key(entry.log_id.index), encode(entry)?);
            batch.push(Write::Put {
                column: Column::Log,
                key,
                value,
            });
        }
        self.room().await;
        let bytes: usize = entries.iter().map(size).sum();
        let last = entries.last().map(|entry| entry.log_id);
        {
            let mut shared = self.shared();
            let mut grown = false;
            for entry in entries {
                grown |= shared.push(entry);
            }
            if grown {
                self.grown.notify_one();
            }
        }
        let (shared, written) = (self.shared.clone(), self.written.clone());
        let done = move |result: io::Result<()>| {
            {
                let mut shared = locked(&shared);
                shared.unwritten_bytes -= bytes;
                if let (Ok(()), Some(last)) = (&result, last) {
                    shared.forget(last);
                }
            }
            written.notify_one();
            callback.io_completed(result);
        };
        self.engine.persist(batch, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let Some(last) = self.shared().last.filter(|last| last.index >= from) else {
            return Ok(());
        };
        let delete = |index| Write::Delete {
            column: Column::Log,
            key: key(index),
        };
        // Waited for, so that nothing is applied in the place of an entry that is still there.
        self.persist((from..=last.index).map(delete).collect())
            .await?;
        let mut shared = self.shared();
        while shared
            .recent
            .back()
            .is_some_and(|entry| entry.log_id.index >= from)
        {
            shared.pop_back();
        }
        shared.extent.truncate(from);
        shared.last = last_log_id.max(shared.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let value = encode(&log_id)?;
        let batch = vec![
            Write::Put {
                column: Column::Meta,
                key: Bytes::from_static(PURGED),
                value,
            },
            Write::DeleteRange {
                column: Column::Log,
                start: key(0),
                end: key(log_id.index + 1),
            },
        ];
        // Not waited for: what a crash brings back is purged again, and a disk that fails stops the
        // replica at its next entry.
        self.engine.persist(
            batch,
            Box::new(|result| {
                if let Err(error) = result {
                    tracing::error!(%error, "purging the log");
                }
            }),
        );
        let mut shared = self.shared();
        shared.extent.purge(log_id.index);
        shared.purged = shared.purged.max(Some(log_id));
        shared.last = shared.last.max(Some(log_id));
        while shared
            .first_recent()
            .is_some_and(|first| first <= log_id.index)
        {
            shared.pop_front();
        }
        Ok(())
    }
}
