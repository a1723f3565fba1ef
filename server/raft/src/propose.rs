//! Proposals and linearizable reads, on the leader and on its way to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use tokio::time::Instant;
use trireme_proto::raft::Payload;
use trireme_state::{Command, Reply, Revision};

use crate::entry::Proposal;
use crate::error::{ProposeError, ReadError};
use crate::link::{Purpose, not_sent};
use crate::message::{ProposeAnswer, ProposeMessage, ReadAnswer, parse, payload};
use crate::replica::Core;

/// A log entry. Kubernetes' largest object is 1.5 MiB; a transaction of many smaller ones fits.
pub const MAX_COMMAND_BYTES: usize = 8 << 20;
/// Between attempts while there is no leader and nothing is heard of one.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How one attempt ended.
enum Attempt<T> {
    Done(T),
    /// Nothing was done; try again.
    Retry(String),
}

impl Core {
    pub async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        if self.stop.is_cancelled() {
            return Err(ProposeError::Stopped("shutting down".into()));
        }
        let encoded = Proposal::encode(&command);
        let bytes = encoded.0.len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge {
                bytes,
                limit: MAX_COMMAND_BYTES,
            });
        }
        let deadline = Instant::now() + self.timing.propose();
        loop {
            match self.try_propose(&encoded.0, deadline).await? {
                Attempt::Done((index, reply)) => {
                    // The command has its outcome; being late here only delays reading it here.
                    self.wait_applied(index, deadline).await;
                    return Ok(reply);
                }
                Attempt::Retry(why) => {
                    if !self.pause_before(deadline).await {
                        return Err(self.no_leader(why));
                    }
                }
            }
        }
    }

    fn no_leader(&self, why: String) -> ProposeError {
        match self.ended() {
            Some(why) => ProposeError::Stopped(why.into()),
            None => ProposeError::NoLeader(why),
        }
    }

    /// Why there will be no leader any more, as far as this replica is concerned.
    fn ended(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("shutting down");
        }
        // Nobody tells of leaders any more.
        let raft_ended = self.leadership.has_changed().is_err();
        raft_ended.then_some("Raft has ended, as after a failed write to the disk")
    }

    /// Waits for news of a leader, or a little; false when there is no time left, or nothing to wait for.
    async fn pause_before(&self, deadline: Instant) -> bool {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        tokio::select! {
            () = self.stop.cancelled() => return false,
            news = tokio::time::timeout(RETRY_PAUSE, leadership.changed()) => {
                // An end is no news to come back with at once, again and again.
                if matches!(news, Ok(Err(_))) {
                    return false;
                }
            }
        }
        Instant::now() < deadline
    }

    async fn try_propose(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Attempt<(u64, Reply)>, ProposeError> {
        let leadership = *self.leadership.borrow();
        let answer = match leadership.leader {
            None => return Ok(Attempt::Retry("none is known".into())),
            Some(leader) if leader == self.id => self.propose_as_leader(command.clone()).await,
            Some(leader) => match self.forward(leader, command, deadline).await? {
                Attempt::Done(answer) => answer,
                Attempt::Retry(why) => return Ok(Attempt::Retry(why)),
            },
        };
        match answer {
            ProposeAnswer::Applied { index, reply } => Ok(Attempt::Done((index, reply))),
            ProposeAnswer::NotLeader { leader } => Ok(Attempt::Retry(match leader {
                Some(leader) => format!("it is moving to server {leader}"),
                None => "it is being elected".into(),
            })),
            ProposeAnswer::DiskFull { why } => Err(ProposeError::DiskFull(why)),
            ProposeAnswer::Unknown { why } => Err(ProposeError::Unknown(why)),
        }
    }

    async fn forward(
        &self,
        leader: u64,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Attempt<ProposeAnswer>, ProposeError> {
        let Some(member) = self.member(leader) else {
            return Ok(Attempt::Retry(format!(
                "server {leader} is not in the membership"
            )));
        };
        let message = payload(&ProposeMessage {
            command: command.clone(),
        })
        .map_err(|status| ProposeError::Stopped(status.to_string()))?;
        let mut client = self.links.get(leader, &member, Purpose::Log).client();
        let asked = tokio::time::timeout_at(deadline, client.propose(message));
        let answer = tokio::select! {
            () = self.stop.cancelled() => {
                return Err(ProposeError::Unknown("shutting down".into()));
            }
            answer = asked => answer,
        };
        match answer {
            Ok(Ok(answer)) => match parse(answer.get_ref()) {
                Ok(answer) => Ok(Attempt::Done(answer)),
                Err(status) => Err(ProposeError::Unknown(status.to_string())),
            },
            Ok(Err(status)) if not_sent(&status) => {
                Ok(Attempt::Retry(format!("server {leader} cannot be reached")))
            }
            Ok(Err(status)) => {
                let why = format!("server {leader}, the leader, did not answer: {status}");
                Err(ProposeError::Unknown(why))
            }
            Err(_) => Err(ProposeError::Unknown(format!(
                "server {leader} did not answer in time"
            ))),
        }
    }

    pub async fn propose_as_leader(&self, command: Bytes) -> ProposeAnswer {
        if let Some(why) = self.short_of_space() {
            return ProposeAnswer::DiskFull { why };
        }
        let written = async { self.intake.hand_in(Proposal(command)).await.await };
        let written = match tokio::time::timeout(self.timing.propose(), written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => {
                let why = "Raft has stopped".into();
                return ProposeAnswer::Unknown { why };
            }
            Err(_) => {
                let why = format!("not committed within {} ms", self.timing.propose_ms);
                return ProposeAnswer::Unknown { why };
            }
        };
        match written {
            Ok(response) => match response.data {
                Some(reply) => ProposeAnswer::Applied {
                    index: response.log_id.index,
                    reply,
                },
                None => ProposeAnswer::Unknown {
                    why: "applied without an answer".into(),
                },
            },
            Err(ClientWriteError::ForwardToLeader(to)) => ProposeAnswer::NotLeader {
                leader: to.leader_id,
            },
            Err(error) => ProposeAnswer::Unknown {
                why: error.to_string(),
            },
        }
    }

    /// Why proposals are refused for want of disk space, if they are.
    fn short_of_space(&self) -> Option<String> {
        if self.space.low() {
            let reserve = crate::space::RESERVE_BYTES >> 20;
            let id = self.id;
            return Some(format!(
                "less than {reserve} MiB are free on server {id}, the leader"
            ));
        }
        let full = self.links.full();
        if full.is_empty() {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        for voters in metrics.membership_config.membership().get_joint_config() {
            let with_space = voters.iter().filter(|id| !full.contains(id)).count();
            if with_space <= voters.len() / 2 {
                return Some(format!("servers {full:?} are full, which leaves no quorum"));
            }
        }
        None
    }

    pub async fn read_barrier(self: &Arc<Self>) -> Result<Revision, ReadError> {
        let deadline = Instant::now() + self.timing.read();
        let index = loop {
            let core = self.clone();
            let confirm = move || {
                let core = core.clone();
                async move { core.confirm(deadline).await }
            };
            match self.barrier.wait(&self.tasks, confirm).await {
                Ok(index) => break index,
                // The round belonged to an earlier caller whose time was up.
                Err(ReadError::NoLeader(_)) if Instant::now() < deadline => continue,
                Err(error) => return Err(error),
            }
        };
        if self.wait_applied(index, deadline).await {
            Ok(self.applied.progress().revision)
        } else if self.stop.is_cancelled() {
            Err(ReadError::Stopped("shutting down".into()))
        } else {
            Err(ReadError::Behind { index })
        }
    }

    /// Asks the leader, wherever it is, until the deadline.
    async fn confirm(&self, deadline: Instant) -> Result<u64, ReadError> {
        loop {
            let leader = self.leadership.borrow().leader;
            let why = match leader {
                None => "none is known".to_owned(),
                Some(leader) => {
                    let answer = if leader == self.id {
                        self.read_index_as_leader().await
                    } else {
                        self.ask_read_index(leader, deadline).await
                    };
                    match answer {
                        ReadAnswer::Index(index) => return Ok(index),
                        ReadAnswer::NotLeader { .. } => "it is being elected".to_owned(),
                        ReadAnswer::Failed { why } => why,
                    }
                }
            };
            if !self.pause_before(deadline).await {
                return Err(match self.ended() {
                    Some(why) => ReadError::Stopped(why.into()),
                    None => ReadError::NoLeader(why),
                });
            }
        }
    }

    async fn ask_read_index(&self, leader: u64, deadline: Instant) -> ReadAnswer {
        let Some(member) = self.member(leader) else {
            return ReadAnswer::NotLeader { leader: None };
        };
        let mut client = self.links.get(leader, &member, Purpose::Log).client();
        // A leader that died is replaced long before this.
        let limit = deadline.min(Instant::now() + 2 * self.timing.election());
        match tokio::time::timeout_at(limit, client.read_index(Payload::default())).await {
            Ok(Ok(answer)) => parse(answer.get_ref()).unwrap_or_else(|status| ReadAnswer::Failed {
                why: status.to_string(),
            }),
            Ok(Err(status)) => ReadAnswer::Failed {
                why: status.to_string(),
            },
            Err(_) => ReadAnswer::Failed {
                why: format!("server {leader} did not answer in time"),
            },
        }
    }

    pub async fn read_index_as_leader(&self) -> ReadAnswer {
        // A leader that has lost its quorum, or its leadership, will not be confirmed any more.
        let limit = self.timing.election();
        let confirmed = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(limit, confirmed).await {
            Ok(Ok((read, _))) => ReadAnswer::Index(read.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                ReadAnswer::NotLeader {
                    leader: to.leader_id,
                }
            }
            Ok(Err(error)) => ReadAnswer::Failed {
                why: error.to_string(),
            },
            Err(_) => {
                let why = format!("no quorum answered within {} ms", limit.as_millis());
                ReadAnswer::Failed { why }
            }
        }
    }
}
