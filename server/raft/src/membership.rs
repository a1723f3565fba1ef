//! Changes of the membership, made by the leader, asked for anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use tokio::time::Instant;

use crate::entry::Types;
use crate::error::MembershipError;
use crate::link::Purpose;
use crate::member::Member;
use crate::message::{ChangeAnswer, ChangeMessage, parse, payload};
use crate::replica::Core;

/// A new server is sent the whole state within this.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);

type ChangeError = RaftError<Types, ClientWriteError<Types>>;

impl Core {
    pub async fn initialize(&self, members: BTreeMap<u64, Member>) -> Result<(), MembershipError> {
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(MembershipError::Initialized)
            }
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(MembershipError::Stopped(error.to_string())),
        }
    }

    pub async fn add_learner(&self, id: u64, member: Member) -> Result<(), MembershipError> {
        self.change(ChangeMessage::AddLearner { id, member }).await
    }

    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.change(ChangeMessage::Promote { id }).await
    }

    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.change(ChangeMessage::Remove { id }).await
    }

    pub async fn transfer_leader(&self, to: u64) -> Result<(), MembershipError> {
        self.change(ChangeMessage::TransferLeader { to }).await
    }

    async fn change(&self, message: ChangeMessage) -> Result<(), MembershipError> {
        let leader = self.leadership.borrow().leader;
        let answer = match leader {
            None => return Err(MembershipError::NotLeader { leader: None }),
            Some(leader) if leader == self.id => self.change_as_leader(message).await,
            Some(leader) => {
                let member = self
                    .member(leader)
                    .ok_or(MembershipError::NotLeader { leader: None })?;
                let message = payload(&message)
                    .map_err(|status| MembershipError::Refused(status.to_string()))?;
                let mut client = self.links.get(leader, &member, Purpose::Log).client();
                let limit = CHANGE_LIMIT + TRANSFER_LIMIT;
                let failed = |status: tonic::Status| MembershipError::Refused(status.to_string());
                match tokio::time::timeout(limit, client.change(message)).await {
                    Ok(answer) => parse(answer.map_err(failed)?.get_ref()).map_err(failed)?,
                    Err(_) => ChangeAnswer::Unfinished {
                        after_ms: limit.as_millis() as u64,
                    },
                }
            }
        };
        match answer {
            ChangeAnswer::Done => Ok(()),
            ChangeAnswer::NotLeader { leader } => Err(MembershipError::NotLeader { leader }),
            ChangeAnswer::Refused { why } => Err(MembershipError::Refused(why)),
            ChangeAnswer::Unfinished { after_ms } => Err(MembershipError::Unfinished(after_ms)),
            ChangeAnswer::Stopped { why } => Err(MembershipError::Stopped(why)),
        }
    }

    pub async fn change_as_leader(&self, message: ChangeMessage) -> ChangeAnswer {
        let leadership = *self.leadership.borrow();
        if !leadership.is_leader {
            return ChangeAnswer::NotLeader {
                leader: leadership.leader,
            };
        }
        let changing = async {
            match message {
                ChangeMessage::AddLearner { id, member } => {
                    let known = self.member(id);
                    if known.as_ref().is_some_and(|known| *known != member) {
                        let why = format!("server {id} is a member already, under another address");
                        return ChangeAnswer::Refused { why };
                    }
                    answer(self.raft.add_learner(id, member, true).await)
                }
                ChangeMessage::Promote { id } => {
                    let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                    answer(self.raft.change_membership(voters, true).await)
                }
                ChangeMessage::Remove { id } => self.remove_as_leader(id).await,
                ChangeMessage::TransferLeader { to } => self.transfer_as_leader(to).await,
            }
        };
        match tokio::time::timeout(CHANGE_LIMIT, changing).await {
            Ok(answer) => answer,
            Err(_) => ChangeAnswer::Unfinished {
                after_ms: CHANGE_LIMIT.as_millis() as u64,
            },
        }
    }

    async fn remove_as_leader(&self, id: u64) -> ChangeAnswer {
        let is_voter = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            if membership.get_node(&id).is_none() {
                return ChangeAnswer::Refused {
                    why: format!("server {id} is not a member"),
                };
            }
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            if voters.len() == 1 && voters.contains(&id) {
                return ChangeAnswer::Refused {
                    why: format!("server {id} is the only voter"),
                };
            }
            voters.contains(&id)
        };
        let members = BTreeSet::from([id]);
        let change = if is_voter {
            ChangeMembers::RemoveVoters(members)
        } else {
            ChangeMembers::RemoveNodes(members)
        };
        answer(self.raft.change_membership(change, false).await)
    }

    async fn transfer_as_leader(&self, to: u64) -> ChangeAnswer {
        if to == self.id {
            return ChangeAnswer::Done;
        }
        let is_voter = {
            let metrics = self.raft.metrics();
            metrics
                .borrow_watched()
                .membership_config
                .membership()
                .voter_ids()
                .any(|id| id == to)
        };
        if !is_voter {
            return ChangeAnswer::Refused {
                why: format!("server {to} is not a voter"),
            };
        }
        if let Err(error) = self.raft.trigger().transfer_leader(to).await {
            return ChangeAnswer::Stopped {
                why: error.to_string(),
            };
        }
        let mut leadership = self.leadership.clone();
        let deadline = Instant::now() + TRANSFER_LIMIT;
        let moved = leadership.wait_for(|now| now.leader == Some(to));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(_)) => ChangeAnswer::Done,
            _ => ChangeAnswer::Unfinished {
                after_ms: TRANSFER_LIMIT.as_millis() as u64,
            },
        }
    }
}

fn answer<T>(result: Result<T, ChangeError>) -> ChangeAnswer {
    match result {
        Ok(_) => ChangeAnswer::Done,
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            ChangeAnswer::NotLeader {
                leader: to.leader_id,
            }
        }
        Err(RaftError::APIError(error)) => ChangeAnswer::Refused {
            why: error.to_string(),
        },
        Err(RaftError::Fatal(error)) => ChangeAnswer::Stopped {
            why: error.to_string(),
        },
    }
}
