//! A server's disk: volatile until synced, and a crash leaves a prefix of what was not.
//!
//! It keeps, besides the contents, an incremental hash of the state column: cheap enough to compare
//! servers after every batch that they apply.

use std::any::Any;
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

/// Nothing in a world fills its disks.
const FREE_BYTES: u64 = 1 << 40;

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
    installed: u64,
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
                installed: 0,
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
        Loss {
            kept,
            lost: unsynced.len() - kept,
        }
    }

    pub fn stall(&self, until_ns: u64) {
        let mut inner = self.inner();
        inner.stalled_until_ns = inner.stalled_until_ns.max(until_ns);
    }

    pub fn unstall(&self) {
        self.inner().stalled_until_ns = 0;
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
        Duration::from_micros(inner.random.random_range(sync_min_us..=sync_max_us))
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

    fn write(&self, batch: Vec<Write>) {
        let inner = &mut *self.inner();
        inner.current.apply(&batch);
        inner.unsynced.push(batch);
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
    /// Needs the server's runtime.
    pub fn open(disk: Arc<Disk>) -> SimulatedEngine {
        let queue = Arc::new(Queue::default());
        tokio::spawn(keep_writing(disk.clone(), queue.clone()));
        SimulatedEngine { disk, queue }
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
        disk.write(batches.concat());
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
        self.disk.write(batch);
        Ok(())
    }

    fn persist(&self, batch: Vec<Write>, done: Done) {
        self.queue.waiting().push((batch, done));
        self.queue.wake.notify_one();
    }

    fn with_state(&self, read: &mut dyn FnMut(&dyn View)) {
        self.disk.with_state(read);
    }

    fn checkpoint(&self, done: Done<Arc<dyn Checkpoint>>) {
        let copy = {
            let inner = self.disk.inner();
            Arc::new(Image {
                meta: inner.current.meta.clone(),
                state: inner.current.state.clone(),
            })
        };
        let disk = self.disk.clone();
        tokio::spawn(async move {
            disk.trip().await;
            disk.inner().checkpoint = Some(copy.clone());
            done(Ok(copy));
        });
    }

    fn current_checkpoint(&self) -> Option<Arc<dyn Checkpoint>> {
        let current = self.disk.inner().checkpoint.clone();
        current.map(|copy| copy as Arc<dyn Checkpoint>)
    }

    fn receive(&self) -> io::Result<Box<dyn Incoming>> {
        Ok(Box::new(Receiving::default()))
    }

    fn install(&self, checkpoint: Arc<dyn Checkpoint>, with: Vec<Write>, done: Done) {
        let Some(copy) = checkpoint.as_any().downcast_ref::<Image>().cloned() else {
            return done(Err(io::Error::other("a checkpoint of another engine")));
        };
        let disk = self.disk.clone();
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
            done(Ok(()));
        });
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(FREE_BYTES)
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

/// A checkpoint.
#[derive(Clone, Default)]
struct Image {
    meta: Pairing,
    state: Pairing,
}

const FILES: [&str; 2] = ["meta", "state"];

fn write_file(pairs: &Pairing) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn read_file(mut bytes: &[u8]) -> io::Result<Pairing> {
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "a part of a checkpoint");
    let mut part = || -> io::Result<Option<Bytes>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (part, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        bytes = rest;
        Ok(Some(Bytes::copy_from_slice(part)))
    };
    let mut pairs = Pairing::new();
    while let Some(key) = part()? {
        pairs.insert(key, part()?.ok_or_else(cut)?);
    }
    Ok(pairs)
}

impl Image {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        match name {
            "meta" => Ok(write_file(&self.meta)),
            "state" => Ok(write_file(&self.state)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Checkpoint for Image {
    fn meta(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.meta.get(key).cloned())
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        FILES
            .iter()
            .map(|name| Ok((name.to_string(), self.file(name)?.len() as u64)))
            .collect()
    }

    fn read(&self, file: &str, offset: u64, limit: usize) -> io::Result<Bytes> {
        let bytes = self.file(file)?;
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + limit);
        Ok(Bytes::from(bytes).slice(start..end))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Default)]
struct Receiving {
    files: BTreeMap<String, Vec<u8>>,
}

impl Incoming for Receiving {
    fn write(&mut self, file: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let bytes = self.files.entry(file.to_owned()).or_default();
        if bytes.len() as u64 != offset {
            return Err(io::Error::other("parts of a checkpoint out of order"));
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<Arc<dyn Checkpoint>> {
        let mut file = |name: &str| {
            let missing = || io::Error::new(io::ErrorKind::NotFound, name.to_owned());
            read_file(&self.files.remove(name).ok_or_else(missing)?)
        };
        Ok(Arc::new(Image {
            meta: file("meta")?,
            state: file("state")?,
        }))
    }
}
