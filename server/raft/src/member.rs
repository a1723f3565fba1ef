//! The members of the cluster and what a replica says about itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use trireme_state::Revision;

/// One server, as the membership in the Raft log records it. Never changes for an id: a server
/// whose disk was wiped or whose address changed is removed and added under a new id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The server's name, for people.
    pub name: String,
    /// Where other servers reach its Raft service, `host:port`.
    pub peer_address: String,
    /// Where clients reach its API, `host:port`.
    pub api_address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.peer_address)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    Stopped,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
    }
}

/// A replica's own view of itself and of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub id: u64,
    pub role: Role,
    pub term: u64,
    pub leader: Option<u64>,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    pub revision: Revision,
    pub compacted: Revision,
    /// Every member, voter or learner.
    pub members: BTreeMap<u64, Member>,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Watches that are open here.
    pub watchers: usize,
    /// Proposals are refused here for want of disk space.
    pub disk_full: bool,
    /// On the leader: how far each other member's log is known to match, by id.
    pub matched: BTreeMap<u64, u64>,
}

/// Who leads, as far as this replica knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<u64>,
    pub term: u64,
    pub is_leader: bool,
}
