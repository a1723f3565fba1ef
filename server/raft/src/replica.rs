//! The replica (being filled in).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use trireme_state::{Command, RangeError, RangeReply, RangeRequest, Reply, Revision};

use crate::error::{MembershipError, OpenError, ProposeError, ReadError};
use crate::member::{Leadership, Member, ReplicaStatus};
use crate::timing::Timing;
use crate::watch::Watch;

/// Where the replica keeps its data.
pub enum Storage {
    /// RocksDB in this directory, made when absent.
    Directory(PathBuf),
}

pub struct ReplicaConfig {
    pub id: u64,
    pub storage: Storage,
    pub timing: Timing,
}

impl ReplicaConfig {
    /// A replica that never has peers: for a single server, and for tests.
    pub fn single(id: u64, directory: impl Into<PathBuf>) -> Self {
        ReplicaConfig { id, storage: Storage::Directory(directory.into()), timing: Timing::default() }
    }
}

pub struct Replica {
    leadership: tokio::sync::watch::Receiver<Leadership>,
}

impl Replica {
    /// Opens or makes the store and starts Raft. A new store does nothing until
    /// [`initialize`](Self::initialize) or until a leader adds this server.
    pub async fn open(_config: ReplicaConfig) -> Result<Arc<Replica>, OpenError> {
        Err(OpenError::Config("not there yet".into()))
    }
    pub async fn propose(&self, _command: Command) -> Result<Reply, ProposeError> {
        Err(ProposeError::NoLeader("not there yet".into()))
    }
    pub async fn read_barrier(&self) -> Result<Revision, ReadError> {
        Err(ReadError::NoLeader("not there yet".into()))
    }
    pub fn range(&self, _request: &RangeRequest) -> Result<RangeReply, RangeError> {
        Err(RangeError::Storage("not there yet".into()))
    }
    pub fn revision(&self) -> Revision {
        0
    }
    pub fn compacted(&self) -> Revision {
        0
    }
    pub fn watch(&self, _start: Bytes, _end: Bytes, _after: Revision) -> Result<Watch, RangeError> {
        Err(RangeError::Storage("not there yet".into()))
    }
    pub fn status(&self) -> ReplicaStatus {
        unreachable!("not opened")
    }
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.leadership.clone()
    }
    pub fn member(&self, _id: u64) -> Option<Member> {
        None
    }
    /// Makes the cluster out of these members, once, on a new store.
    pub async fn initialize(&self, _members: BTreeMap<u64, Member>) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped("not there yet".into()))
    }
    pub async fn add_learner(&self, _id: u64, _member: Member) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped("not there yet".into()))
    }
    pub async fn promote(&self, _id: u64) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped("not there yet".into()))
    }
    pub async fn remove(&self, _id: u64) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped("not there yet".into()))
    }
    pub async fn transfer_leader(&self, _to: u64) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped("not there yet".into()))
    }
    pub async fn shutdown(&self) {}
}
