//! How keys, revisions and events lie in the store.
//!
//! | store key | value | what |
//! |---|---|---|
//! | `m` | [`Meta`] | the revision and how far the store is compacted |
//! | `l` key | [`Record`] | the newest version of every live key: a point read, and a prefix list in one scan |
//! | `h` escaped key, revision | [`Record`] | a version that a later one replaced; version 0 is a deletion |
//! | `r` revision | [`Change`]s | what happened at that revision: the source of watches, and of compaction's work list |
//!
//! A put moves the version it replaces from `l` to `h`, so creating an object writes its value once.
//! The state at a revision is the `l` record when that is old enough, else the last `h` record at or
//! before it. Revisions are big-endian. In `h`, a zero byte within the key is `00 FF` and its end
//! is `00 01`, so that the order of store keys is the order of keys and then of revisions.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{EventKind, KeyValue, Revision};
use crate::view::{StateError, View};

pub const META_KEY: &[u8] = b"m";
const LIVE: u8 = b'l';
const HISTORY: u8 = b'h';
const CHANGES: u8 = b'r';

const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const END_OF_KEY: [u8; 2] = [0x00, 0x01];

/// Where the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub revision: Revision,
    /// Revisions before this one cannot be read.
    pub compacted: Revision,
    /// What only revisions up to this one needed has been deleted; runs after `compacted`.
    pub swept: Revision,
}

impl Default for Meta {
    /// An empty store is at revision 1, as etcd's: to clients of Kubernetes a version of 0 means none.
    fn default() -> Meta {
        Meta {
            revision: 1,
            compacted: 0,
            swept: 0,
        }
    }
}

impl Meta {
    pub fn read(view: &dyn View) -> Result<Meta, StateError> {
        match view.get(META_KEY)? {
            None => Ok(Meta::default()),
            Some(value) => Meta::decode(&value).ok_or(StateError::Corrupt {
                what: "meta",
                key: Bytes::from_static(META_KEY),
            }),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(24);
        out.put_u64(self.revision);
        out.put_u64(self.compacted);
        out.put_u64(self.swept);
        out.freeze()
    }

    fn decode(value: &[u8]) -> Option<Meta> {
        if value.len() != 24 {
            return None;
        }
        Some(Meta {
            revision: u64_at(value, 0)?,
            compacted: u64_at(value, 8)?,
            swept: u64_at(value, 16)?,
        })
    }
}

/// One version of a key. Version 0 says that the key was deleted at `mod_revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
    pub value: Bytes,
}

const RECORD_HEADER: usize = 24;

impl Record {
    pub fn deletion(revision: Revision) -> Record {
        Record {
            create_revision: 0,
            mod_revision: revision,
            version: 0,
            value: Bytes::new(),
        }
    }

    pub fn is_deletion(&self) -> bool {
        self.version == 0
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(RECORD_HEADER + self.value.len());
        out.put_u64(self.create_revision);
        out.put_u64(self.mod_revision);
        out.put_u64(self.version);
        out.put_slice(&self.value);
        out.freeze()
    }

    pub fn decode(key: &Bytes, value: &Bytes) -> Result<Record, StateError> {
        let corrupt = || StateError::Corrupt {
            what: "record",
            key: key.clone(),
        };
        if value.len() < RECORD_HEADER {
            return Err(corrupt());
        }
        Ok(Record {
            create_revision: u64_at(value, 0).ok_or_else(corrupt)?,
            mod_revision: u64_at(value, 8).ok_or_else(corrupt)?,
            version: u64_at(value, 16).ok_or_else(corrupt)?,
            value: value.slice(RECORD_HEADER..),
        })
    }

    pub fn into_key_value(self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }
}

/// One change at a revision, without values: those are in the records it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: EventKind,
    pub key: Bytes,
    /// Revision of the version that this change replaced; 0 when there was none.
    pub replaced: Revision,
}

pub fn encode_changes(changes: &[Change]) -> Bytes {
    let size = changes.iter().map(|change| 13 + change.key.len()).sum();
    let mut out = BytesMut::with_capacity(size);
    for change in changes {
        out.put_u8(match change.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        });
        out.put_u64(change.replaced);
        out.put_u32(change.key.len() as u32);
        out.put_slice(&change.key);
    }
    out.freeze()
}

pub fn decode_changes(key: &Bytes, value: &Bytes) -> Result<Vec<Change>, StateError> {
    let corrupt = || StateError::Corrupt {
        what: "changes",
        key: key.clone(),
    };
    let mut changes = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let kind = match value[at] {
            0 => EventKind::Put,
            1 => EventKind::Delete,
            _ => return Err(corrupt()),
        };
        let replaced = u64_at(value, at + 1).ok_or_else(corrupt)?;
        let length = value
            .get(at + 9..at + 13)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
            .ok_or_else(corrupt)? as usize;
        if value.len() < at + 13 + length {
            return Err(corrupt());
        }
        changes.push(Change {
            kind,
            replaced,
            key: value.slice(at + 13..at + 13 + length),
        });
        at += 13 + length;
    }
    Ok(changes)
}

pub fn live_key(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + key.len());
    out.put_u8(LIVE);
    out.put_slice(key);
    out.freeze()
}

/// The key behind a store key made by [`live_key`].
pub fn key_of_live(store_key: &Bytes) -> Bytes {
    store_key.slice(1..)
}

/// Store key of a replaced version, or where its key's history begins (revision 0).
pub fn history_key(key: &[u8], revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(key.len() + 16);
    escape(key, &mut out);
    out.put_slice(&END_OF_KEY);
    out.put_u64(revision);
    out.freeze()
}

/// Before the history of `key` and of every key after it, behind that of every key before it.
pub fn history_bound(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(key.len() + 8);
    escape(key, &mut out);
    out.freeze()
}

fn escape(key: &[u8], out: &mut BytesMut) {
    out.put_u8(HISTORY);
    for &byte in key {
        if byte == 0 {
            out.put_slice(&ESCAPED_ZERO);
        } else {
            out.put_u8(byte);
        }
    }
}

/// The key and revision behind a store key made by [`history_key`].
pub fn parse_history_key(store_key: &Bytes) -> Result<(Bytes, Revision), StateError> {
    let corrupt = || StateError::Corrupt {
        what: "history key",
        key: store_key.clone(),
    };
    let body = store_key
        .len()
        .checked_sub(8)
        .filter(|&end| end >= 3)
        .ok_or_else(corrupt)?;
    let revision = u64_at(store_key, body).ok_or_else(corrupt)?;
    if store_key[body - 2..body] != END_OF_KEY {
        return Err(corrupt());
    }
    let escaped = store_key.slice(1..body - 2);
    if !escaped.contains(&0) {
        return Ok((escaped, revision));
    }
    let mut key = BytesMut::with_capacity(escaped.len());
    let mut at = 0;
    while at < escaped.len() {
        key.put_u8(escaped[at]);
        at += if escaped[at] == 0 { 2 } else { 1 };
    }
    Ok((key.freeze(), revision))
}

pub fn changes_key(revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(CHANGES);
    out.put_u64(revision);
    out.freeze()
}

/// Behind every store key made by [`changes_key`].
pub fn changes_end() -> Bytes {
    Bytes::from_static(&[CHANGES + 1])
}

pub fn parse_changes_key(store_key: &Bytes) -> Result<Revision, StateError> {
    match store_key.len() {
        9 => u64_at(store_key, 1),
        _ => None,
    }
    .ok_or_else(|| StateError::Corrupt {
        what: "changes key",
        key: store_key.clone(),
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keys_sort_as_keys_and_then_revisions() {
        let keys: Vec<&[u8]> = vec![
            b"a", b"a\0", b"a\0\0", b"a\0b", b"a\x01", b"aa", b"b", b"b\xff", b"c",
        ];
        let mut previous = Bytes::new();
        for key in keys {
            let bound = history_bound(key);
            assert!(previous < bound, "{previous:?} before {bound:?}");
            for revision in [0, 1, 255, 256, u64::MAX] {
                let store_key = history_key(key, revision);
                assert!(previous < store_key && bound < store_key);
                assert_eq!(
                    parse_history_key(&store_key),
                    Ok((Bytes::copy_from_slice(key), revision))
                );
                previous = store_key;
            }
        }
    }

    #[test]
    fn changes_come_back_and_cut_ones_are_refused() {
        let changes = vec![
            Change {
                kind: EventKind::Put,
                key: Bytes::from_static(b"/a"),
                replaced: 0,
            },
            Change {
                kind: EventKind::Delete,
                key: Bytes::from_static(b"/b/c"),
                replaced: 7,
            },
        ];
        let key = changes_key(9);
        let encoded = encode_changes(&changes);
        assert_eq!(decode_changes(&key, &encoded), Ok(changes));
        assert!(decode_changes(&key, &encoded.slice(..encoded.len() - 1)).is_err());
        assert_eq!(parse_changes_key(&key), Ok(9));
    }
}
