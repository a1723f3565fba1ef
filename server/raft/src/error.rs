//! What can go wrong, by operation.

use trireme_state::{RangeError, Revision};

/// Why a proposal was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not proposed: no leader was found in time.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// Surely not proposed: the disk of the leader, or of so many members that no quorum is left,
    /// has less free space than the reserve.
    #[error("disk full: {0}")]
    DiskFull(String),
    /// Surely not proposed: the command is larger than a log entry may be.
    #[error("command of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// Proposed, or perhaps proposed, but its outcome is not known: it may still be applied.
    /// Only a caller whose command carries its own precondition may repeat it.
    #[error("the outcome of the command is unknown: {0}")]
    Unknown(String),
    /// This server has stopped, or its storage has failed.
    #[error("this server has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// Whether it is certain that the command was not, and will not be, applied.
    pub fn surely_not_applied(&self) -> bool {
        !matches!(self, ProposeError::Unknown(_))
    }
}

/// Why a linearizable read could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader confirmed the read: {0}")]
    NoLeader(String),
    #[error("this server did not catch up with log index {index} in time")]
    Behind { index: u64 },
    #[error("this server has stopped: {0}")]
    Stopped(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was so slow that events it had not read were compacted.
    #[error("revision {after} has been compacted; the oldest that can be watched from is {oldest}")]
    Compacted { after: Revision, oldest: Revision },
    #[error("reading the store: {0}")]
    Storage(String),
}

impl From<RangeError> for WatchError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Compacted { requested, oldest } => WatchError::Compacted {
                after: requested,
                oldest,
            },
            other => WatchError::Storage(other.to_string()),
        }
    }
}

/// Why a change of the membership was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Ask the leader instead.
    #[error("not the leader; the leader is {leader:?}")]
    NotLeader { leader: Option<u64> },
    #[error("the cluster is initialized already")]
    Initialized,
    #[error("{0}")]
    Refused(String),
    #[error("the change did not finish within {0} ms; it may still do so")]
    Unfinished(u64),
    #[error("this server has stopped: {0}")]
    Stopped(String),
}

/// Why a replica could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("opening the store: {0}")]
    Storage(#[from] std::io::Error),
    #[error("configuration: {0}")]
    Config(String),
    #[error("starting Raft: {0}")]
    Raft(String),
}
