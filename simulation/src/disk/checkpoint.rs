//! A checkpoint: two columns as they were at one moment, sent in several files.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use trireme_raft::engine::{Checkpoint, Incoming};

use super::{Disk, Pairing};

/// A checkpoint's file.
const PART_BYTES: usize = 8 << 10;

/// A checkpoint.
#[derive(Clone)]
pub struct Image {
    pub meta: Pairing,
    pub state: Pairing,
    files: Arc<Vec<(String, Bytes)>>,
}

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
    /// In several files, so that it takes several messages to send.
    pub fn new(meta: Pairing, state: Pairing) -> Image {
        let bytes = Bytes::from(write_file(&state));
        let parts = bytes.len().div_ceil(PART_BYTES);
        let mut files = vec![("meta".to_owned(), Bytes::from(write_file(&meta)))];
        files.extend((0..parts).map(|part| {
            let (start, end) = (part * PART_BYTES, bytes.len().min((part + 1) * PART_BYTES));
            (part_name(part, parts), bytes.slice(start..end))
        }));
        let files = Arc::new(files);
        Image { meta, state, files }
    }
}

fn part_name(part: usize, parts: usize) -> String {
    format!("state-{part:04}-of-{parts}")
}

impl Checkpoint for Image {
    fn meta(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.meta.get(key).cloned())
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let sizes = self.files.iter();
        Ok(sizes
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .collect())
    }

    fn read(&self, file: &str, offset: u64, limit: usize) -> io::Result<Bytes> {
        let found = self.files.iter().find(|(name, _)| name == file);
        let (_, bytes) = found.ok_or(io::ErrorKind::NotFound)?;
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + limit);
        Ok(bytes.slice(start..end))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub struct Receiving {
    disk: Arc<Disk>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Receiving {
    pub fn new(disk: Arc<Disk>) -> Receiving {
        Receiving {
            disk,
            files: BTreeMap::new(),
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut inner = self.disk.inner();
        // None is counted any more after a crash.
        inner.receiving = inner.receiving.saturating_sub(1);
    }
}

impl Incoming for Receiving {
    fn write(&mut self, file: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.inner().take(data.len() as u64)?;
        let bytes = self.files.entry(file.to_owned()).or_default();
        if bytes.len() as u64 != offset {
            return Err(io::Error::other("parts of a checkpoint out of order"));
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<Arc<dyn Checkpoint>> {
        let missing = |name: &str| io::Error::new(io::ErrorKind::NotFound, name.to_owned());
        let meta = self.files.remove("meta").ok_or_else(|| missing("meta"))?;
        let parts = self.files.len();
        let mut state = Vec::new();
        for part in 0..parts {
            let name = part_name(part, parts);
            let bytes = self.files.remove(&name).ok_or_else(|| missing(&name))?;
            state.extend_from_slice(&bytes);
        }
        Ok(Arc::new(Image::new(read_file(&meta)?, read_file(&state)?)))
    }
}
