//! The engine for real disks: one RocksDB with one write-ahead log.
//!
//! What is to be persisted is queued for one thread, which writes all that waits in one batch and
//! syncs the write-ahead log once. Applying writes where it runs, unsynced: a sync does not hold it
//! up, so it goes on while the next entries become durable. A second thread makes checkpoints and
//! imports.

mod checkpoint;
mod threads;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, DBWithThreadMode, MultiThreaded, Options, ReadOptions, WriteBatch,
};
use trireme_state::{Pairs, StateError, View};

use crate::engine::{Checkpoint, Column, Done, Engine, Incoming, Write};
use checkpoint::RocksCheckpoint;
use threads::{Worker, Writer};

type Database = DBWithThreadMode<MultiThreaded>;
type Family<'a> = Arc<rocksdb::BoundColumnFamily<'a>>;

const LOG: &str = "log";
const META: &str = "meta";
/// The state column's family is replaced when a snapshot is installed; its name is kept here.
const STATE_FAMILY_KEY: &[u8] = b"state_family";
const STATE_PREFIX: &str = "state-";

/// Smaller ones would be flushed, and compacted, all the time under load.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Of each column family. A write waits when all are full, and with it a task: only a disk that
/// cannot keep up for long may cause that.
const WRITE_BUFFERS: i32 = 4;
/// Of all families together; more than this is flushed.
const ALL_WRITE_BUFFERS_BYTES: usize = 16 << 20;
/// Hot blocks; the operating system's page cache holds the rest.
const BLOCK_CACHE_BYTES: usize = 16 << 20;
/// A compaction would read its files by the block otherwise, each with a call.
const COMPACTION_READ_BYTES: usize = 256 << 10;
/// Flushes column families that are behind, so that old logs go and restarts stay short.
const WAL_LIMIT_BYTES: u64 = 64 << 20;

/// RocksDB in a directory.
#[derive(Clone)]
pub struct RocksEngine {
    inner: Arc<Inner>,
    writer: Arc<Writer>,
    worker: Arc<Worker>,
}

pub(crate) struct Inner {
    directory: PathBuf,
    database: Database,
    state_family: RwLock<String>,
    current: Mutex<Option<Arc<RocksCheckpoint>>>,
}

impl RocksEngine {
    /// Opens or makes the store in `directory`.
    pub fn open(directory: &Path) -> io::Result<RocksEngine> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("db");
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let mut names: Vec<String> = match Database::list_cf(&options, &path) {
            Ok(names) => names,
            Err(_) if !path.join("CURRENT").exists() => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        for name in ["default", LOG, META] {
            if !names.iter().any(|present| present == name) {
                names.push(name.to_owned());
            }
        }
        let families = names
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(column_of(name))));
        let database = Database::open_cf_descriptors(&options, &path, families).map_err(failed)?;
        let state_family = choose_state_family(&database, &names)?;
        let current = RocksCheckpoint::newest(directory)?;
        let inner = Arc::new(Inner {
            directory: directory.to_owned(),
            database,
            state_family: RwLock::new(state_family),
            current: Mutex::new(current),
        });
        Ok(RocksEngine {
            writer: Arc::new(Writer::start(inner.clone())?),
            worker: Arc::new(Worker::start()?),
            inner,
        })
    }
}

/// The family that the meta column names; others are what an interrupted install left.
fn choose_state_family(database: &Database, names: &[String]) -> io::Result<String> {
    let meta = database.cf_handle(META).ok_or_else(|| missing(META))?;
    let named = database.get_cf(&meta, STATE_FAMILY_KEY).map_err(failed)?;
    let chosen = match named {
        Some(name) => String::from_utf8(name)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "name of the state family"))?,
        None => format!("{STATE_PREFIX}0"),
    };
    for name in names {
        if name.starts_with(STATE_PREFIX) && *name != chosen {
            database.drop_cf(name).map_err(failed)?;
        }
    }
    if !names.contains(&chosen) {
        database
            .create_cf(&chosen, &family_options(Column::State))
            .map_err(failed)?;
    }
    Ok(chosen)
}

fn options() -> Options {
    let mut options = Options::default();
    // One for flushes and one for compactions.
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(WAL_LIMIT_BYTES);
    options.set_db_write_buffer_size(ALL_WRITE_BUFFERS_BYTES);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // What is written goes to the file with the next sync, all of it in one call. Until then it would
    // only have been in the page cache: a crash of the machine loses it either way, and one of the
    // process loses what the log replays.
    options.set_manual_wal_flush(true);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_max_open_files(256);
    options.set_compaction_readahead_size(COMPACTION_READ_BYTES);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// The options of a column's family.
fn family_options(column: Column) -> Options {
    use std::sync::OnceLock;
    static CACHE: OnceLock<Cache> = OnceLock::new();
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    options.set_target_file_size_base(16 << 20);
    options.set_max_bytes_for_level_base(64 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    let mut table = BlockBasedOptions::default();
    if let Ok(cache) = Cache::new_lru_cache(BLOCK_CACHE_BYTES) {
        table.set_block_cache(CACHE.get_or_init(|| cache));
    }
    table.set_cache_index_and_filter_blocks(true);
    match column {
        // New keys are the common case: most of what is looked for is not there.
        Column::State => {
            options.set_memtable_prefix_bloom_ratio(0.05);
            options.set_memtable_whole_key_filtering(true);
            table.set_bloom_filter(10.0, false);
            // A whole file's filter is larger than what a shard of the cache may hold, and would be
            // read from the file, and its checksum verified, for every key that is looked for.
            table.set_partition_filters(true);
            table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            table.set_pin_top_level_index_and_filter(true);
        }
        // Read in order, if at all, and soon purged.
        Column::Log => options.set_compression_type(DBCompressionType::None),
        Column::Meta => {}
    }
    options.set_block_based_table_factory(&table);
    options
}

/// Which column a family holds; unknown ones are what is left of replaced states.
fn column_of(family: &str) -> Column {
    match family {
        LOG => Column::Log,
        META => Column::Meta,
        _ => Column::State,
    }
}

pub(crate) fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error.into_string())
}

fn missing(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("column family {name} is missing"),
    )
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Inner {
    fn state_family(&self) -> String {
        self.state_family
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    fn named(&self, name: &str) -> io::Result<Family<'_>> {
        self.database.cf_handle(name).ok_or_else(|| missing(name))
    }

    fn family(&self, column: Column) -> io::Result<Family<'_>> {
        match column {
            Column::Log => self.named(LOG),
            Column::Meta => self.named(META),
            Column::State => {
                let name = self.state_family.read().unwrap_or_else(|p| p.into_inner());
                self.named(&name)
            }
        }
    }

    fn batch(&self, writes: Vec<Write>) -> io::Result<WriteBatch> {
        let log = self.family(Column::Log)?;
        let meta = self.family(Column::Meta)?;
        let state = self.family(Column::State)?;
        let of = |column| match column {
            Column::Log => &log,
            Column::Meta => &meta,
            Column::State => &state,
        };
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put { column, key, value } => batch.put_cf(of(column), key, value),
                Write::Delete { column, key } => batch.delete_cf(of(column), key),
                Write::DeleteRange { column, start, end } => {
                    batch.delete_range_cf(of(column), start, end)
                }
            }
        }
        Ok(batch)
    }

    pub(crate) fn write(&self, writes: Vec<Write>) -> io::Result<()> {
        self.database.write(self.batch(writes)?).map_err(failed)
    }

    pub(crate) fn sync_now(&self) -> io::Result<()> {
        self.database.flush_wal(true).map_err(failed)
    }

    fn checkpoint(&self) -> io::Result<Arc<RocksCheckpoint>> {
        let made = RocksCheckpoint::make(&self.directory, &self.database)?;
        self.keep(made.clone())?;
        Ok(made)
    }

    fn keep(&self, checkpoint: Arc<RocksCheckpoint>) -> io::Result<()> {
        checkpoint.keep(&self.directory)?;
        let replaced = locked(&self.current).replace(checkpoint.clone());
        if let Some(replaced) = replaced
            && !Arc::ptr_eq(&replaced, &checkpoint)
        {
            replaced.discard();
        }
        Ok(())
    }

    fn install(&self, checkpoint: Arc<RocksCheckpoint>, with: Vec<Write>) -> io::Result<()> {
        let old = self.state_family();
        let number: u64 = old
            .strip_prefix(STATE_PREFIX)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| missing(&old))?;
        let new = format!("{STATE_PREFIX}{}", number + 1);
        if self.database.cf_handle(&new).is_some() {
            // An install that failed half way.
            self.database.drop_cf(&new).map_err(failed)?;
        }
        self.database
            .create_cf(&new, &family_options(Column::State))
            .map_err(failed)?;
        checkpoint.import(&self.directory, &self.database, &self.named(&new)?)?;
        {
            // Nobody may write to the old family once the batch is under way.
            let mut name = self.state_family.write().unwrap_or_else(|p| p.into_inner());
            let meta = self.named(META)?;
            let log = self.named(LOG)?;
            let mut batch = WriteBatch::default();
            for write in with {
                match write {
                    Write::Put {
                        column: Column::Meta,
                        key,
                        value,
                    } => batch.put_cf(&meta, key, value),
                    Write::Put {
                        column: Column::Log,
                        key,
                        value,
                    } => batch.put_cf(&log, key, value),
                    other => {
                        let message = format!("not to be written with a snapshot: {other:?}");
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                    }
                }
            }
            batch.put_cf(&meta, STATE_FAMILY_KEY, &new);
            self.database.write(batch).map_err(failed)?;
            self.sync_now()?;
            *name = new;
        }
        self.database.drop_cf(&old).map_err(failed)?;
        self.keep(checkpoint)
    }
}

impl Engine for RocksEngine {
    fn get(&self, column: Column, key: &[u8]) -> io::Result<Option<Bytes>> {
        let family = self.inner.family(column)?;
        let found = self
            .inner
            .database
            .get_pinned_cf(&family, key)
            .map_err(failed)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        let family = self.inner.family(column)?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.inner.database.raw_iterator_cf_opt(&family, options);
        iterator.seek(start);
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            if !visit(key, value) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(failed)
    }

    fn last(&self, column: Column) -> io::Result<Option<(Bytes, Bytes)>> {
        let family = self.inner.family(column)?;
        let mut iterator = self.inner.database.raw_iterator_cf(&family);
        iterator.seek_to_last();
        let last = iterator
            .item()
            .map(|(key, value)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        iterator.status().map_err(failed)?;
        Ok(last)
    }

    fn write(&self, batch: Vec<Write>) -> io::Result<()> {
        self.inner.write(batch)
    }

    fn persist(&self, batch: Vec<Write>, done: Done) {
        self.writer.enqueue(batch, done);
    }

    fn with_state(&self, read: &mut dyn FnMut(&dyn View)) {
        match self.inner.family(Column::State) {
            Ok(family) => {
                let database = &self.inner.database;
                let snapshot = database.snapshot();
                let mut options = ReadOptions::default();
                options.set_snapshot(&snapshot);
                read(&RocksView {
                    database,
                    snapshot: &snapshot,
                    options,
                    family,
                });
            }
            Err(error) => read(&Unreadable(error.to_string())),
        }
    }

    fn checkpoint(&self, done: Done<Arc<dyn Checkpoint>>) {
        let inner = self.inner.clone();
        self.worker.run(Box::new(move || {
            done(inner.checkpoint().map(|made| made as Arc<dyn Checkpoint>));
        }));
    }

    fn current_checkpoint(&self) -> Option<Arc<dyn Checkpoint>> {
        locked(&self.inner.current)
            .clone()
            .map(|current| current as Arc<dyn Checkpoint>)
    }

    fn receive(&self) -> io::Result<Box<dyn Incoming>> {
        Ok(Box::new(checkpoint::Receiving::begin(
            &self.inner.directory,
        )?))
    }

    fn install(&self, checkpoint: Arc<dyn Checkpoint>, with: Vec<Write>, done: Done) {
        let inner = self.inner.clone();
        self.worker.run(Box::new(move || {
            let ours = checkpoint
                .as_any()
                .downcast_ref::<RocksCheckpoint>()
                .and_then(|it| it.share());
            done(match ours {
                Some(ours) => inner.install(ours, with),
                None => Err(io::Error::other("a checkpoint of another engine")),
            });
        }));
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.inner.directory)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

struct RocksView<'a> {
    database: &'a Database,
    snapshot: &'a rocksdb::SnapshotWithThreadMode<'a, Database>,
    /// Names the snapshot; made once, for point reads are many.
    options: ReadOptions,
    family: Family<'a>,
}

fn unreadable(error: rocksdb::Error) -> StateError {
    StateError::Storage(error.into_string())
}

impl View for RocksView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self
            .database
            .get_pinned_cf_opt(&self.family, key, &self.options)
            .map_err(unreadable)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Pairs<'a> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.snapshot.raw_iterator_cf_opt(&self.family, options);
        iterator.seek(start);
        let mut over = false;
        Box::new(std::iter::from_fn(move || {
            if over {
                return None;
            }
            if let Some((key, value)) = iterator.item() {
                let pair = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                iterator.next();
                return Some(Ok(pair));
            }
            over = true;
            iterator.status().err().map(|error| Err(unreadable(error)))
        }))
    }
}

/// Stands in for a state column that is gone, so that the reader hears of it.
struct Unreadable(String);

impl View for Unreadable {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Err(StateError::Storage(self.0.clone()))
    }

    fn scan<'a>(&'a self, _start: &[u8], _end: &[u8]) -> Pairs<'a> {
        Box::new(std::iter::once(Err(StateError::Storage(self.0.clone()))))
    }
}
