//! Layers on disk: each once, named by the digest of its plain archive, shared
//! by every image and container.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::digest::{self, Hashing};
use crate::error::ImageError;
use crate::unpack;

const CONTENT: &str = "content";
const RECORD: &str = "layer.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    size_bytes: u64,
}

/// The directory of layers.
pub(crate) struct Layers {
    root: PathBuf,
    temporary: PathBuf,
    /// One at a time per layer: the second waits and finds it there.
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Layers of pulls under way, which no collection may take.
    pinned: Mutex<BTreeMap<String, usize>>,
}

/// Keeps layers from being collected while it lives.
pub(crate) struct Pin<'a> {
    layers: &'a Layers,
    digests: Vec<String>,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pinned = lock(&self.layers.pinned);
        for digest in &self.digests {
            if let Some(count) = pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(digest);
                }
            }
        }
    }
}

/// A panic elsewhere leaves these maps whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Layers {
    pub fn open(root: PathBuf, temporary: PathBuf) -> Result<Self, ImageError> {
        fs::create_dir_all(&root).map_err(|e| ImageError::io("create", &root, e))?;
        Ok(Layers {
            root,
            temporary,
            locks: Mutex::new(BTreeMap::new()),
            pinned: Mutex::new(BTreeMap::new()),
        })
    }

    pub fn pin(&self, digests: &[String]) -> Pin<'_> {
        let mut pinned = lock(&self.pinned);
        for digest in digests {
            *pinned.entry(digest.clone()).or_insert(0) += 1;
        }
        Pin {
            layers: self,
            digests: digests.to_vec(),
        }
    }

    fn directory(&self, digest: &str) -> PathBuf {
        self.root.join(digest.trim_start_matches("sha256:"))
    }

    /// Where a layer's files are, whether or not it is there.
    pub fn content(&self, digest: &str) -> PathBuf {
        self.directory(digest).join(CONTENT)
    }

    /// Its size, if it is there.
    pub fn size_bytes(&self, digest: &str) -> Option<u64> {
        let bytes = fs::read(self.directory(digest).join(RECORD)).ok()?;
        serde_json::from_slice::<Record>(&bytes)
            .ok()
            .map(|r| r.size_bytes)
    }

    pub fn lock_for(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.locks);
        // Nobody holds or awaits those only this map knows.
        locks.retain(|_, l| Arc::strong_count(l) > 1);
        locks.entry(digest.to_string()).or_default().clone()
    }

    /// A name of our own for something unfinished.
    pub fn temporary(&self, kind: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.temporary.join(format!(
            "{kind}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Unpacks an archive (plain, gzip or zstd) whose plain form must have
    /// `digest`. The caller holds the layer's lock.
    pub fn unpack(&self, archive: impl Read, digest: &str) -> Result<u64, ImageError> {
        let building = self.temporary("layer");
        let result = self.unpack_into(archive, digest, &building);
        if result.is_err() {
            let _ = fs::remove_dir_all(&building);
        }
        result
    }

    fn unpack_into(
        &self,
        archive: impl Read,
        digest: &str,
        building: &Path,
    ) -> Result<u64, ImageError> {
        let content = building.join(CONTENT);
        fs::create_dir_all(&content).map_err(|e| ImageError::io("create", &content, e))?;
        let short = digest
            .trim_start_matches("sha256:")
            .get(..12)
            .unwrap_or(digest);
        let damaged = |e: std::io::Error| ImageError::Layer {
            layer: short.to_string(),
            path: String::new(),
            cause: format!("damaged archive: {e}"),
        };
        let mut plain = Hashing::new(decompress(archive).map_err(damaged)?);
        let size_bytes = unpack::unpack(&mut plain, &content, short)?;
        // What follows the archive's end belongs to its digest too.
        std::io::copy(&mut plain, &mut std::io::sink()).map_err(damaged)?;
        digest::compare(&format!("layer {short}"), &plain.digest(), digest)?;

        let record = building.join(RECORD);
        let text = serde_json::to_vec(&Record { size_bytes })
            .map_err(|e| ImageError::io("encode", &record, e))?;
        fs::write(&record, text).map_err(|e| ImageError::io("write", &record, e))?;
        // One sync for all its files, then the name that makes it count.
        let handle = File::open(building).map_err(|e| ImageError::io("open", building, e))?;
        rustix::fs::syncfs(&handle).map_err(|e| ImageError::io("sync", building, e))?;
        let target = self.directory(digest);
        fs::rename(building, &target).map_err(|e| ImageError::io("rename to", &target, e))?;
        File::open(&self.root)
            .and_then(|d| d.sync_all())
            .map_err(|e| ImageError::io("sync", &self.root, e))?;
        Ok(size_bytes)
    }

    /// Every layer here.
    pub fn list(&self) -> Result<Vec<String>, ImageError> {
        let entries =
            fs::read_dir(&self.root).map_err(|e| ImageError::io("list", &self.root, e))?;
        Ok(entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .map(|hex| format!("sha256:{hex}"))
            .collect())
    }

    /// Removes it, unless a pull needs it; returns the bytes freed.
    pub fn remove(&self, digest: &str) -> Result<u64, ImageError> {
        let doomed = self.temporary("removed");
        let size_bytes = self.size_bytes(digest).unwrap_or(0);
        {
            // Held over the rename, so that no pull pins it in between.
            let pinned = lock(&self.pinned);
            if pinned.contains_key(digest) {
                return Ok(0);
            }
            let directory = self.directory(digest);
            fs::rename(&directory, &doomed).map_err(|e| ImageError::io("remove", &directory, e))?;
        }
        fs::remove_dir_all(&doomed).map_err(|e| ImageError::io("remove", &doomed, e))?;
        Ok(size_bytes)
    }
}

/// By the first bytes: media types lie.
pub(crate) fn decompress<'a>(archive: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, archive);
    let start = std::io::BufRead::fill_buf(&mut reader)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?))
    } else {
        Ok(Box::new(reader))
    }
}

const READ_BUFFER_BYTES: usize = 128 * 1024;
