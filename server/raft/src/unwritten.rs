//! The log over a disk that takes its time: what memory holds, and when appending waits.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::{EntryPayload, RaftLogReader};
use tempfile::TempDir;
use trireme_state::View;

use crate::engine::{Checkpoint, Column, Done, Engine, Incoming, Write};
use crate::entry::{Entry, LogId, Proposal, Types};
use crate::log::LogStore;
use crate::rocks::RocksEngine;

/// RocksDB that persists when it is told to.
struct SlowEngine {
    disk: RocksEngine,
    waiting: Mutex<Vec<(Vec<Write>, Done)>>,
}

impl SlowEngine {
    /// Ends the oldest wait, with this error or with success.
    fn end_one(&self, error: Option<io::Error>) {
        let (batch, done) = self.waiting.lock().unwrap().remove(0);
        match error {
            Some(error) => done(Err(error)),
            None => {
                self.disk.write(batch).unwrap();
                done(Ok(()));
            }
        }
    }
}

impl Engine for SlowEngine {
    fn get(&self, column: Column, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.disk.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        self.disk.scan(column, start, end, visit)
    }

    fn last(&self, column: Column) -> io::Result<Option<(Bytes, Bytes)>> {
        self.disk.last(column)
    }

    fn write(&self, batch: Vec<Write>) -> io::Result<()> {
        self.disk.write(batch)
    }

    fn persist(&self, batch: Vec<Write>, done: Done) {
        self.waiting.lock().unwrap().push((batch, done));
    }

    fn with_state(&self, read: &mut dyn FnMut(&dyn View)) {
        self.disk.with_state(read);
    }

    fn checkpoint(&self, done: Done<Arc<dyn Checkpoint>>) {
        self.disk.checkpoint(done);
    }

    fn current_checkpoint(&self) -> Option<Arc<dyn Checkpoint>> {
        self.disk.current_checkpoint()
    }

    fn receive(&self) -> io::Result<Box<dyn Incoming>> {
        self.disk.receive()
    }

    fn install(&self, checkpoint: Arc<dyn Checkpoint>, with: Vec<Write>, done: Done) {
        self.disk.install(checkpoint, with, done);
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

struct Fixture {
    _directory: TempDir,
    engine: Arc<SlowEngine>,
    log: LogStore,
}

fn fixture() -> Fixture {
    let directory = TempDir::new().unwrap();
    let engine = Arc::new(SlowEngine {
        disk: RocksEngine::open(directory.path()).unwrap(),
        waiting: Mutex::default(),
    });
    Fixture {
        _directory: directory,
        log: LogStore::open(engine.clone(), 1 << 30).unwrap(),
        engine,
    }
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry {
        log_id: LogId::new(
            openraft::vote::leader_id_std::CommittedLeaderId::new(1),
            index,
        ),
        payload: EntryPayload::Normal(Proposal(Bytes::from(vec![b'e'; bytes]))),
    }
}

/// Appends entries of 1 MiB; the receiver hears of their durability.
async fn append(
    log: &mut LogStore,
    indexes: std::ops::Range<u64>,
) -> OneshotReceiverOf<Types, io::Result<()>> {
    let (told, durable) = Types::oneshot();
    let entries: Vec<Entry> = indexes.map(|index| entry(index, 1 << 20)).collect();
    log.append(entries, IOFlushed::<Types>::signal(told))
        .await
        .unwrap();
    durable
}

async fn indexes(log: &mut LogStore, end: u64) -> Vec<u64> {
    let entries = log.try_get_log_entries(0..end).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn entries_are_readable_before_they_are_written() {
    let Fixture {
        _directory,
        engine,
        mut log,
    } = fixture();
    // More than is kept of what is written.
    let durable = append(&mut log, 0..20).await;
    assert_eq!(engine.last(Column::Log).unwrap(), None);
    assert_eq!(indexes(&mut log, 20).await, (0..20).collect::<Vec<_>>());
    engine.end_one(None);
    durable.await.unwrap().unwrap();
    assert_eq!(indexes(&mut log, 20).await, (0..20).collect::<Vec<_>>());
    assert!(engine.last(Column::Log).unwrap().is_some());
}

#[tokio::test]
async fn appending_waits_while_too_much_is_unwritten() {
    let Fixture {
        _directory,
        engine,
        mut log,
    } = fixture();
    let first = append(&mut log, 0..64).await;
    let mut other = log.clone();
    let second = tokio::spawn(async move { append(&mut other, 64..65).await.await });
    // It does all it can before this task runs again.
    tokio::task::yield_now().await;
    assert_eq!(engine.waiting.lock().unwrap().len(), 1);
    engine.end_one(None);
    first.await.unwrap().unwrap();
    while engine.waiting.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    engine.end_one(None);
    second.await.unwrap().unwrap().unwrap();
    assert_eq!(indexes(&mut log, 65).await.len(), 65);
}

#[tokio::test]
async fn a_failed_write_is_told_and_holds_nobody_up() {
    let Fixture {
        _directory,
        engine,
        mut log,
    } = fixture();
    let first = append(&mut log, 0..64).await;
    engine.end_one(Some(io::Error::other("the disk is broken")));
    let told = first.await.unwrap().unwrap_err();
    assert!(told.to_string().contains("the disk is broken"), "{told}");
    append(&mut log, 64..65).await;
}
