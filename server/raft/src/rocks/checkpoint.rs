//! Checkpoints: directories of hard links that another replica can be given.
//!
//! `snapshot-N` is a kept one, the greatest `N` the current one; `making-N` and `incoming-N` are
//! unfinished and removed when the store is opened.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::{Bytes, BytesMut};
use rocksdb::{AsColumnFamilyRef, IngestExternalFileOptions, Options, SstFileWriter};

use super::{Database, META, STATE_FAMILY_KEY, STATE_PREFIX, failed, locked, missing};
use crate::engine::{Checkpoint, Incoming};

const KEPT: &str = "snapshot-";
/// The state is imported in files of this size, as RocksDB's own are.
const IMPORT_FILE_BYTES: u64 = 64 << 20;

static NUMBER: AtomicU64 = AtomicU64::new(0);

pub(crate) struct RocksCheckpoint {
    myself: Weak<RocksCheckpoint>,
    path: Mutex<PathBuf>,
    /// Opened when first asked for: most checkpoints are never sent.
    database: Mutex<Option<Arc<Database>>>,
    kept: AtomicBool,
}

impl RocksCheckpoint {
    fn at(path: PathBuf, kept: bool) -> Arc<RocksCheckpoint> {
        Arc::new_cyclic(|myself| RocksCheckpoint {
            myself: myself.clone(),
            path: Mutex::new(path),
            database: Mutex::default(),
            kept: AtomicBool::new(kept),
        })
    }

    /// The current one of a store that is being opened; removes what is left of all others.
    pub(super) fn newest(directory: &Path) -> io::Result<Option<Arc<RocksCheckpoint>>> {
        let mut kept: Vec<(u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = name
                .strip_prefix(KEPT)
                .and_then(|number| number.parse().ok())
            {
                kept.push((number, entry.path()));
            } else if name.starts_with("making-")
                || name.starts_with("incoming-")
                || name.starts_with("import-")
            {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        kept.sort();
        let newest = kept.pop();
        for (_, path) in kept {
            std::fs::remove_dir_all(path)?;
        }
        Ok(newest.map(|(_, path)| RocksCheckpoint::at(path, true)))
    }

    pub(super) fn make(directory: &Path, database: &Database) -> io::Result<Arc<RocksCheckpoint>> {
        let path = unused(directory, "making-");
        rocksdb::checkpoint::Checkpoint::new(database)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&path))
            .map_err(failed)?;
        Ok(RocksCheckpoint::at(path, false))
    }

    /// Gives it a name that survives a restart.
    pub(super) fn keep(&self, directory: &Path) -> io::Result<()> {
        if self.kept.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut path = locked(&self.path);
        // RocksDB holds files by name: reopen under the new one.
        locked(&self.database).take();
        let next = 1 + kept_numbers(directory)?.into_iter().max().unwrap_or(0);
        let kept = directory.join(format!("{KEPT}{next}"));
        std::fs::rename(&*path, &kept)?;
        File::open(directory)?.sync_all()?;
        *path = kept;
        self.kept.store(true, Ordering::Release);
        Ok(())
    }

    /// A newer one has taken its place: remove it once nobody reads it.
    pub(super) fn discard(&self) {
        self.kept.store(false, Ordering::Release);
    }

    /// Another owner of the same checkpoint.
    pub(super) fn share(&self) -> Option<Arc<RocksCheckpoint>> {
        self.myself.upgrade()
    }

    fn open(&self) -> io::Result<Arc<Database>> {
        let mut database = locked(&self.database);
        if let Some(open) = &*database {
            return Ok(open.clone());
        }
        let path = locked(&self.path).clone();
        let options = Options::default();
        let names = Database::list_cf(&options, &path).map_err(failed)?;
        let opened =
            Database::open_cf_for_read_only(&options, &path, names, false).map_err(failed)?;
        let opened = Arc::new(opened);
        *database = Some(opened.clone());
        Ok(opened)
    }

    /// Writes its state column into an empty family of another database.
    pub(super) fn import(
        &self,
        directory: &Path,
        into: &Database,
        family: &impl AsColumnFamilyRef,
    ) -> io::Result<()> {
        let from = self.open()?;
        let meta = from.cf_handle(META).ok_or_else(|| missing(META))?;
        let name = from.get_cf(&meta, STATE_FAMILY_KEY).map_err(failed)?;
        let name = name
            .and_then(|name| String::from_utf8(name).ok())
            .unwrap_or_else(|| format!("{STATE_PREFIX}0"));
        let state = from.cf_handle(&name).ok_or_else(|| missing(&name))?;
        let scratch = unused(directory, "import-");
        std::fs::create_dir_all(&scratch)?;
        let result = (|| {
            let options = Options::default();
            let mut iterator = from.raw_iterator_cf(&state);
            iterator.seek_to_first();
            let mut files = Vec::new();
            while iterator.valid() {
                let file = scratch.join(format!("{}.sst", files.len()));
                let mut writer = SstFileWriter::create(&options);
                writer.open(&file).map_err(failed)?;
                while let Some((key, value)) = iterator.item() {
                    writer.put(key, value).map_err(failed)?;
                    iterator.next();
                    if writer.file_size() >= IMPORT_FILE_BYTES {
                        break;
                    }
                }
                writer.finish().map_err(failed)?;
                files.push(file);
            }
            iterator.status().map_err(failed)?;
            if files.is_empty() {
                return Ok(());
            }
            let mut ingest = IngestExternalFileOptions::default();
            ingest.set_move_files(true);
            into.ingest_external_file_cf_opts(family, &ingest, files)
                .map_err(failed)
        })();
        std::fs::remove_dir_all(&scratch)?;
        result
    }
}

impl Checkpoint for RocksCheckpoint {
    fn meta(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let database = self.open()?;
        let meta = database.cf_handle(META).ok_or_else(|| missing(META))?;
        Ok(database
            .get_cf(&meta, key)
            .map_err(failed)?
            .map(Bytes::from))
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&*locked(&self.path))? {
            let entry = entry?;
            // RocksDB's own notes on having been opened are no part of the copy.
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with("LO")
            {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn read(&self, file: &str, offset: u64, limit: usize) -> io::Result<Bytes> {
        let path = locked(&self.path).join(plain(file)?);
        let mut buffer = BytesMut::zeroed(limit);
        let length = File::open(path)?.read_at(&mut buffer, offset)?;
        buffer.truncate(length);
        Ok(buffer.freeze())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for RocksCheckpoint {
    fn drop(&mut self) {
        locked(&self.database).take();
        if !self.kept.load(Ordering::Acquire) {
            std::fs::remove_dir_all(&*locked(&self.path)).ok();
        }
    }
}

/// A copy from another replica, file by file.
pub(super) struct Receiving {
    path: PathBuf,
    open: Option<(String, File)>,
    finished: bool,
}

impl Receiving {
    pub(super) fn begin(directory: &Path) -> io::Result<Receiving> {
        let path = unused(directory, "incoming-");
        std::fs::create_dir(&path)?;
        Ok(Receiving {
            path,
            open: None,
            finished: false,
        })
    }
}

impl Incoming for Receiving {
    fn write(&mut self, file: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(name, _)| name != file) {
            if let Some((_, done)) = self.open.take() {
                done.sync_data()?;
            }
            let path = self.path.join(plain(file)?);
            let opened = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            self.open = Some((file.to_owned(), opened));
        }
        match &self.open {
            Some((_, open)) => open.write_all_at(data, offset),
            None => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> io::Result<Arc<dyn Checkpoint>> {
        if let Some((_, done)) = self.open.take() {
            done.sync_data()?;
        }
        File::open(&self.path)?.sync_all()?;
        self.finished = true;
        let checkpoint = RocksCheckpoint::at(self.path.clone(), false);
        // Opening it is the proof that it is whole.
        checkpoint.open()?;
        Ok(checkpoint)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.finished {
            std::fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// A file name from another replica must not lead out of the directory.
fn plain(file: &str) -> io::Result<&str> {
    if file.is_empty() || file.contains('/') || file.contains('\0') || file.starts_with('.') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("file name {file:?}"),
        ));
    }
    Ok(file)
}

fn unused(directory: &Path, prefix: &str) -> PathBuf {
    loop {
        let path = directory.join(format!(
            "{prefix}{}",
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        if !path.exists() {
            return path;
        }
    }
}

fn kept_numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(KEPT))
            .map(str::parse::<u64>);
        numbers.extend(number.and_then(Result::ok));
    }
    Ok(numbers)
}
