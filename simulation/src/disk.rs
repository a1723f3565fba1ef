//! A server's disk: volatile until synced, and a crash leaves a prefix of what was not. It stalls, is slow, and
//! runs full: then a write that does not fit fails.
//!
//! It keeps, besides the contents, an incremental hash of the state column: cheap enough to compare
//! servers after every batch that they apply.

mod checkpoint;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use trireme_raft::engine::{Checkpoint, Column, Done, Engine, Incoming, Write};
use trireme_state::{Pairs, StateError, View};

use crate::determinism;
use checkpoint::{Image, Receiving};

/// Free on a disk that nobody fills.
const FREE_BYTES: u64 = 1 << 40;
/// A store that is opened makes files of its own first.
const OPEN_BYTES: u64 = 64 << 10;

type Pairing = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Default)]
struct Contents {
    log: Pairing,
    meta: Pairing,
    state: Pairing,
    state_hash: u64,
}

fn pair_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(value);
    let hash = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
}

fn state_hash(state: &Pairing) -> u64 {
    state
        .iter()
        .fold(0, |sum, (key, value)| sum ^ pair_hash(key, value))
}

impl Contents {
    fn column(&self, column: Column) -> &Pairing {
        match column {
            Column::Log => &self.log,
            Column::Meta => &self.meta,
            Column::State => &self.state,
        }
    }

    fn put(&mut self, column: Column, key: Bytes, value: Bytes) {
        match column {
            Column::Log => self.log.insert(key, value),
            Column::Meta => self.meta.insert(key, value),
            Column::State => {
                self.state_hash ^= pair_hash(&key, &value);
                let old = self.state.insert(key.clone(), value);
                if let Some(old) = &old {
                    self.state_hash ^= pair_hash(&key, old);
                }
                old
            }
        };
    }

    fn delete(&mut self, column: Column, key: &[u8]) {
        match column {
            Column::Log => self.log.remove(key),
            Column::Meta => self.meta.remove(key),
            Column::State => {
                let old = self.state.remove(key);
                if let Some(old) = &old {
                    self.state_hash ^= pair_hash(key, old);
                }
                old
            }
        };
    }

    fn apply(&mut self, batch: &[Write]) {
        for write in batch {
            match write {
                Write::Put { column, key, value } => self.put(*column, key.clone(), value.clone()),
                Write::Delete { column, key } => self.delete(*column, key),
                Write::DeleteRange { column, start, end } => {
                    let doomed: Vec<Bytes> = between(self.column(*column), start, end)
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in doomed {
                        self.delete(*column, &key);
                    }
                }
            }
        }
    }
}

fn between<'a>(
    pairs: &'a Pairing,
    start: &[u8],
    end: &[u8],
) -> Box<dyn Iterator<Item = (&'a Bytes, &'a Bytes)> + 'a> {
    if start >= end {
        return Box::new(std::iter::empty());
    }
    Box::new(pairs.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))))
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// A sync takes between these.
    pub sync_min_us: u64,
    pub sync_max_us: u64,
}

/// Outlives the server's processes.
pub struct Disk {
    inner: Mutex<Inner>,
}

struct Inner {
    current: Contents,
    durable: Contents,
    /// Written since `durable`, in order.
    unsynced: Vec<Vec<Write>>,
    /// Batches that are in `durable`, since ever.
    synced: u64,
    checkpoint: Option<Arc<Image>>,
    character: Character,
    random: ChaCha8Rng,
    /// Syncs that are under way at this moment of the world, or begin before it, end after it.
    stalled_until_ns: u64,
    /// Until then syncs take so many times as long.
    slow_until_ns: u64,
    slow_factor: u32,
    /// Filled by somebody else until then, so that only so much can be written.
    filled_until_ns: u64,
    room_bytes: u64,
    /// Writes that failed for want of room.
    refused: u64,
    installed: u64,
    /// Checkpoints of other servers that are being received.
    receiving: u64,
    /// Of those that are there in whole, being installed.
    installing: u64,
}

impl Inner {
    fn free_bytes(&self) -> u64 {
        if determinism::elapsed_ns() < self.filled_until_ns {
            self.room_bytes
        } else {
            FREE_BYTES
        }
    }

    /// Takes room for so many bytes.
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        if determinism::elapsed_ns() >= self.filled_until_ns {
            return Ok(());
        }
        match self.room_bytes.checked_sub(bytes) {
            Some(left) => {
                self.room_bytes = left;
                Ok(())
            }
            None => {
                self.refused += 1;
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
        }
    }
}

fn bytes_of(batch: &[Write]) -> u64 {
    let bytes = batch.iter().map(|write| match write {
        Write::Put { key, value, .. } => key.len() + value.len(),
        Write::Delete { key, .. } => key.len(),
        Write::DeleteRange { start, end, .. } => start.len() + end.len(),
    });
    bytes.sum::<usize>() as u64
}

fn bytes_in(pairs: &Pairing) -> u64 {
    let bytes = pairs.iter().map(|(key, value)| key.len() + value.len());
    bytes.sum::<usize>() as u64
}

/// What a crash did.
pub struct Loss {
    pub kept: usize,
    pub lost: usize,
}

impl Disk {
    pub fn new(seed: u64, character: Character) -> Arc<Disk> {
        Arc::new(Disk {
            inner: Mutex::new(Inner {
                current: Contents::default(),
                durable: Contents::default(),
                unsynced: Vec::new(),
                synced: 0,
                checkpoint: None,
                character,
                random: ChaCha8Rng::seed_from_u64(seed),
                stalled_until_ns: 0,
                slow_until_ns: 0,
                slow_factor: 1,
                filled_until_ns: 0,
                room_bytes: 0,
                refused: 0,
                installed: 0,
                receiving: 0,
                installing: 0,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The server's process is gone: of its unsynced batches a prefix is kept.
    pub fn crash(&self) -> Loss {
        let mut inner = self.inner();
        let unsynced = std::mem::take(&mut inner.unsynced);
        let kept = match inner.random.random_range(0..3) {
            0 => 0,
            1 => unsynced.len(),
            _ => inner.random.random_range(0..=unsynced.len()),
        };
        for batch in &unsynced[..kept] {
            inner.durable.apply(batch);
        }
        inner.synced += unsynced.len() as u64;
        inner.current = inner.durable.clone();
        inner.receiving = 0;
        inner.installing = 0;
        Loss {
            kept,
            lost: unsynced.len() - kept,
        }
    }

    pub fn stall(&self, until_ns: u64) {
        let mut inner = self.inner();
        inner.stalled_until_ns = inner.stalled_until_ns.max(until_ns);
    }

    /// Syncs take `factor` times as long.
    pub fn slow(&self, until_ns: u64, factor: u32) {
        let mut inner = self.inner();
        inner.slow_until_ns = until_ns;
        inner.slow_factor = factor;
    }

    /// Somebody else fills the disk, so that `room_bytes` are left.
    pub fn fill(&self, until_ns: u64, room_bytes: u64) {
        let mut inner = self.inner();
        inner.filled_until_ns = until_ns;
        inner.room_bytes = room_bytes;
    }

    /// Ends what is wrong with it.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.stalled_until_ns = 0;
        inner.slow_until_ns = 0;
        inner.filled_until_ns = 0;
    }

    /// Writes that failed for want of room.
    pub fn refused(&self) -> u64 {
        self.inner().refused
    }

    /// A checkpoint of another server is on its way to it.
    pub fn is_receiving(&self) -> bool {
        self.inner().receiving > 0
    }

    /// A checkpoint of another server is becoming its state.
    pub fn is_installing(&self) -> bool {
        self.inner().installing > 0
    }

    /// Snapshots of other servers that were installed here.
    pub fn installed(&self) -> u64 {
        self.inner().installed
    }

    /// Hash of the state as it is readable now.
    pub fn state_hash(&self) -> u64 {
        self.inner().current.state_hash
    }

    /// For the last check, without the server.
    pub fn with_state(&self, read: &mut dyn FnMut(&dyn View)) {
        read(&StateView(&self.inner().current.state));
    }

    fn latency(&self) -> Duration {
        let inner = &mut *self.inner();
        let Character {
            sync_min_us,
            sync_max_us,
        } = inner.character;
        let latency = Duration::from_micros(inner.random.random_range(sync_min_us..=sync_max_us));
        if determinism::elapsed_ns() < inner.slow_until_ns {
            latency * inner.slow_factor
        } else {
            latency
        }
    }

    /// Waits as long as the disk takes for one trip.
    async fn trip(&self) {
        tokio::time::sleep(self.latency()).await;
        loop {
            let left = self
                .inner()
                .stalled_until_ns
                .saturating_sub(determinism::elapsed_ns());
            if left == 0 {
                return;
            }
            // A stall may be ended early, when the world heals.
            tokio::time::sleep(Duration::from_nanos(left.min(20_000_000))).await;
        }
    }

    fn write(&self, batch: Vec<Write>) -> io::Result<()> {
        let inner = &mut *self.inner();
        inner.take(bytes_of(&batch))?;
        inner.current.apply(&batch);
        inner.unsynced.push(batch);
        Ok(())
    }

    fn written(&self) -> u64 {
        let inner = self.inner();
        inner.synced + inner.unsynced.len() as u64
    }

    /// The first `batches` since ever are durable.
    fn synced_through(&self, batches: u64) {
        let inner = &mut *self.inner();
        let news = batches.saturating_sub(inner.synced) as usize;
        for batch in inner.unsynced.drain(..news) {
            inner.durable.apply(&batch);
        }
        inner.synced += news as u64;
    }
}

/// The disk as one process of the server sees it. Lives in that process' runtime.
pub struct SimulatedEngine {
    disk: Arc<Disk>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<(Vec<Write>, Done)>>,
    wake: Notify,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Vec<(Vec<Write>, Done)>> {
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl SimulatedEngine {
    /// Needs the server's runtime. What an earlier process wrote and did not sync is made durable first,
    /// as RocksDB does.
    pub fn open(disk: Arc<Disk>) -> io::Result<SimulatedEngine> {
        {
            let inner = &mut *disk.inner();
            inner.take(OPEN_BYTES)?;
            for batch in inner.unsynced.drain(..) {
                inner.durable.apply(&batch);
                inner.synced += 1;
            }
        }
        let queue = Arc::new(Queue::default());
        tokio::spawn(keep_writing(disk.clone(), queue.clone()));
        Ok(SimulatedEngine { disk, queue })
    }
}

/// One trip at a time, for everybody who waits when it begins; what is queued meanwhile is not
/// written before the next.
async fn keep_writing(disk: Arc<Disk>, queue: Arc<Queue>) {
    loop {
        let waiting = std::mem::take(&mut *queue.waiting());
        if waiting.is_empty() {
            queue.wake.notified().await;
            continue;
        }
        let (batches, done): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        if let Err(full) = disk.write(batches.concat()) {
            for done in done {
                done(Err(io::Error::new(full.kind(), full.to_string())));
            }
            continue;
        }
        let written = disk.written();
        disk.trip().await;
        disk.synced_through(written);
        for done in done {
            done(Ok(()));
        }
    }
}

impl Engine for SimulatedEngine {
    fn get(&self, column: Column, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.disk.inner().current.column(column).get(key).cloned())
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        let inner = self.disk.inner();
        for (key, value) in between(inner.current.column(column), start, end) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, column: Column) -> io::Result<Option<(Bytes, Bytes)>> {
        let inner = self.disk.inner();
        let last = inner.current.column(column).last_key_value();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: Vec<Write>) -> io::Result<()> {
        self.disk.write(batch)
    }

    fn persist(&self, batch: Vec<Write>, done: Done) {
        self.queue.waiting().push((batch, done));
        self.queue.wake.notify_one();
    }

    fn with_state(&self, read: &mut dyn FnMut(&dyn View)) {
        self.disk.with_state(read);
    }

    fn checkpoint(&self, done: Done<Arc<dyn Checkpoint>>) {
        let (copy, room) = {
            let inner = &mut *self.disk.inner();
            let (meta, state) = (inner.current.meta.clone(), inner.current.state.clone());
            let room = inner.take(bytes_in(&state));
            (Arc::new(Image::new(meta, state)), room)
        };
        if let Err(full) = room {
            return done(Err(full));
        }
        let disk = self.disk.clone();
        tokio::spawn(async move {
            disk.trip().await;
            disk.inner().checkpoint = Some(copy.clone());
            // Durable before anybody is told: a crash may come in between.
            disk.trip().await;
            done(Ok(copy));
        });
    }

    fn current_checkpoint(&self) -> Option<Arc<dyn Checkpoint>> {
        let current = self.disk.inner().checkpoint.clone();
        current.map(|copy| copy as Arc<dyn Checkpoint>)
    }

    fn receive(&self) -> io::Result<Box<dyn Incoming>> {
        self.disk.inner().receiving += 1;
        Ok(Box::new(Receiving::new(self.disk.clone())))
    }

    fn install(&self, checkpoint: Arc<dyn Checkpoint>, with: Vec<Write>, done: Done) {
        let Some(copy) = checkpoint.as_any().downcast_ref::<Image>().cloned() else {
            return done(Err(io::Error::other("a checkpoint of another engine")));
        };
        let disk = self.disk.clone();
        disk.inner().installing += 1;
        tokio::spawn(async move {
            disk.trip().await;
            {
                let inner = &mut *disk.inner();
                inner.current.state_hash = state_hash(&copy.state);
                inner.current.state = copy.state.clone();
                inner.current.apply(&with);
                inner.durable = inner.current.clone();
                inner.synced += inner.unsynced.len() as u64;
                inner.unsynced.clear();
                inner.checkpoint = Some(Arc::new(copy));
                inner.installed += 1;
            }
            disk.trip().await;
            disk.inner().installing -= 1;
            done(Ok(()));
        });
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.inner().free_bytes())
    }
}

struct StateView<'a>(&'a Pairing);

impl View for StateView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Pairs<'a> {
        Box::new(between(self.0, start, end).map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}
