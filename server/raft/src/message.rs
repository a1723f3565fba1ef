//! What servers say to each other beside openraft's own messages.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;
use trireme_proto::raft::Payload;
use trireme_state::Reply;

use crate::entry::{SnapshotMeta, Types, Vote, decode, encode};
use crate::member::Member;

#[derive(Serialize, Deserialize)]
pub enum VoteMessage {
    Vote(openraft::raft::VoteRequest<Types>),
    PreVote(openraft::raft::VoteRequest<Types>),
}

/// First message of a snapshot.
#[derive(Serialize, Deserialize)]
pub struct SnapshotHeader {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

#[derive(Serialize, Deserialize)]
pub struct ProposeMessage {
    pub command: Bytes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ProposeAnswer {
    Applied {
        index: u64,
        reply: Reply,
    },
    /// Not proposed.
    NotLeader {
        leader: Option<u64>,
    },
    /// Not proposed.
    DiskFull {
        why: String,
    },
    /// Perhaps proposed.
    Unknown {
        why: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ReadAnswer {
    Index(u64),
    NotLeader { leader: Option<u64> },
    Failed { why: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ChangeMessage {
    AddLearner { id: u64, member: Member },
    Promote { id: u64 },
    Remove { id: u64 },
    TransferLeader { to: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ChangeAnswer {
    Done,
    NotLeader { leader: Option<u64> },
    Refused { why: String },
    Unfinished { after_ms: u64 },
    Stopped { why: String },
}

pub fn payload<T: Serialize>(message: &T) -> Result<Payload, Status> {
    match encode(message) {
        Ok(data) => Ok(Payload {
            data,
            ..Payload::default()
        }),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

pub fn parse<T: DeserializeOwned>(payload: &Payload) -> Result<T, Status> {
    decode(&payload.data).map_err(|error| Status::invalid_argument(error.to_string()))
}
