//! What can be asked of the state machine, and what it answers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The store's logical clock, as etcd's: one per transaction that changes something, from 1.
/// A Kubernetes `resourceVersion` is the decimal form of the object's `mod_revision`.
pub type Revision = u64;

/// One replicated command: an entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Compare, then do one of two lists of operations atomically, at one revision.
    Txn(Txn),
    /// Forget everything that only revisions before this one can see.
    Compact { revision: Revision },
}

/// etcd's transaction: `success` when every comparison holds, `failure` otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The key's last modification happened at this revision; 0 means the key does not exist.
    ModRevision { key: Bytes, equals: Revision },
    /// The key exists.
    Exists { key: Bytes },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
    Get { key: Bytes },
}

/// What [`Command`]s answer, in the same order of variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Txn(TxnReply),
    Compacted {
        revision: Revision,
    },
    /// The command could not be applied as asked; nothing changed.
    Refused {
        reason: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnReply {
    /// The store's revision after this transaction. When it changed something, this is the
    /// `mod_revision` of every key that it put.
    pub revision: Revision,
    /// Whether every comparison held.
    pub succeeded: bool,
    /// One result for each operation that ran.
    pub results: Vec<OperationResult>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationResult {
    /// The value that the put replaced.
    Put {
        previous: Option<KeyValue>,
    },
    /// The value that was deleted; `None` when there was nothing.
    Delete {
        previous: Option<KeyValue>,
    },
    Get {
        found: Option<KeyValue>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision at which the key last came into being.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Changes since it came into being, from 1.
    pub version: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change to one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    /// After a put: the new value. After a delete: the key, an empty value and the deletion's
    /// revision as `mod_revision`.
    pub kv: KeyValue,
    /// The value before, while that is not compacted.
    pub previous: Option<KeyValue>,
}

/// Keys from `start` (included) to `end` (excluded), as they were at `revision`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    pub start: Bytes,
    /// Empty: the single key `start`.
    pub end: Bytes,
    /// `None`: the newest applied revision.
    pub revision: Option<Revision>,
    /// 0: no limit.
    pub limit: usize,
    /// Count and revisions only.
    pub keys_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The newest revision of the store when the range was read.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// More keys lie behind the last one returned.
    pub more: bool,
    /// Keys in the range beyond those returned; 0 when `more` is false.
    pub remaining: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("revision {requested} has been compacted; the oldest readable one is {oldest}")]
    Compacted {
        requested: Revision,
        oldest: Revision,
    },
    #[error("revision {requested} is in the future; the store is at {newest}")]
    Future {
        requested: Revision,
        newest: Revision,
    },
    #[error("reading the store: {0}")]
    Storage(String),
}
