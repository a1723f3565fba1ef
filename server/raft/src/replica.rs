//! The replica: everything put together, and what the rest of a server sees of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_proto::raft::raft_server::RaftServer;
use trireme_state::{Command, RangeError, RangeReply, RangeRequest, Reply, Revision};

use crate::applied::Applied;
use crate::barrier::Barrier;
use crate::dial::{Dial, NoDial};
use crate::engine::Engine;
use crate::entry::Types;
use crate::error::{MembershipError, OpenError, ProposeError, ReadError};
use crate::intake::Intake;
use crate::link::Links;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::member::{Leadership, Member, ReplicaStatus, Role};
use crate::network::Network;
use crate::rocks::RocksEngine;
use crate::service::RaftService;
use crate::space::{FreeSpace, Space};
use crate::timing::Timing;
use crate::watch::Watch;

/// Where the replica keeps its data.
pub enum Storage {
    /// RocksDB in this directory, made when absent.
    Directory(PathBuf),
    /// Another engine, as the simulator's.
    Engine(Arc<dyn Engine>),
}

pub struct ReplicaConfig {
    /// Never used again for another or a wiped disk.
    pub id: u64,
    pub storage: Storage,
    pub dial: Arc<dyn Dial>,
    pub timing: Timing,
    /// Asked for free disk space instead of the engine.
    pub free_space: Option<FreeSpace>,
}

impl ReplicaConfig {
    /// A replica without peers: for a single server, and for tests.
    pub fn single(id: u64, directory: impl Into<PathBuf>) -> Self {
        ReplicaConfig {
            id,
            storage: Storage::Directory(directory.into()),
            dial: Arc::new(NoDial),
            timing: Timing::default(),
            free_space: None,
        }
    }
}

/// One member's copy of the cluster's state.
pub struct Replica {
    core: Arc<Core>,
}

/// Shared with the service and with background tasks.
pub(crate) struct Core {
    pub id: u64,
    pub raft: Raft<Types, Machine>,
    pub engine: Arc<dyn Engine>,
    pub applied: Arc<Applied>,
    pub intake: Intake,
    pub links: Arc<Links>,
    pub space: Arc<Space>,
    pub timing: Timing,
    pub barrier: Arc<Barrier>,
    pub leadership: watch::Receiver<Leadership>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

fn raft_config(timing: &Timing) -> Result<Config, OpenError> {
    let config = Config {
        cluster_name: "trireme".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        // A leader that restarted must win an election: in its old term it could append a second
        // entry at an index where its unsynced first one is already committed by the others.
        enable_leader_restore: Some(timing.restores_leader()),
        max_payload_entries: 512,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_entries),
        max_in_snapshot_log_to_keep: timing.keep_entries,
        // A follower is sent a snapshot only when the entries it needs are gone.
        replication_lag_threshold: u64::MAX / 2,
        // Deletions in the store come cheaper by the range.
        purge_batch_size: (timing.snapshot_entries / 4).clamp(1, 256),
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| OpenError::Config(error.to_string()))
}

impl Replica {
    /// Opens or makes the store and starts Raft. A new store does nothing until
    /// [`initialize`](Self::initialize) or until a leader adds this server.
    pub async fn open(config: ReplicaConfig) -> Result<Arc<Replica>, OpenError> {
        let ReplicaConfig {
            id,
            storage,
            dial,
            timing,
            free_space,
        } = config;
        let engine: Arc<dyn Engine> = match storage {
            Storage::Directory(directory) => Arc::new(RocksEngine::open(&directory)?),
            Storage::Engine(engine) => engine,
        };
        let log = LogStore::open(engine.clone(), timing.log_bytes)?;
        let machine = Machine::open(engine.clone())?;
        let applied = machine.applied();
        let links = Arc::new(Links::new(dial, timing.clone()));
        let network = Network::new(links.clone(), timing.clone());
        let raft_config = Arc::new(raft_config(&timing)?);
        let raft = Raft::new(id, raft_config, network, log.clone(), machine)
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))?;

        let free_space = free_space.unwrap_or_else(|| {
            let engine = engine.clone();
            Arc::new(move || engine.free_bytes())
        });
        let space = Arc::new(Space::default());
        space.look(&free_space);
        let (tell, leadership) = watch::channel(Leadership::default());
        let (intake, proposals) = Intake::new();
        let core = Arc::new(Core {
            id,
            raft,
            engine,
            applied,
            intake,
            links,
            space,
            timing,
            barrier: Arc::default(),
            leadership,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let watching = core.space.clone();
        let stop = core.stop.clone();
        core.tasks
            .spawn(async move { watching.keep_looking(free_space, stop).await });
        core.tasks.spawn(core.clone().follow_leadership(tell));
        let taking_in = proposals.take_in(core.raft.clone(), core.stop.clone());
        core.tasks.spawn(taking_in);
        core.tasks.spawn(core.clone().bound_log(log));
        Ok(Arc::new(Replica { core }))
    }

    /// The Raft service for this server's peers, to be mounted on the peer listener.
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftService::server(self.core.clone())
    }

    /// Replicates and applies a command, through the leader wherever that is. When it returns, the
    /// command is also applied here: what is read next from this replica includes it.
    pub async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        self.core.propose(command).await
    }

    /// After this, a read from this replica includes everything that was acknowledged anywhere
    /// before the call. Returns the revision that is then readable.
    pub async fn read_barrier(&self) -> Result<Revision, ReadError> {
        self.core.read_barrier().await
    }

    /// Keys as this replica has them, at a revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, RangeError> {
        let mut reply = Err(RangeError::Storage("the state was not lent".into()));
        self.core
            .engine
            .with_state(&mut |view| reply = trireme_state::range(view, request));
        reply
    }

    /// The newest revision applied here.
    pub fn revision(&self) -> Revision {
        self.core.applied.progress().revision
    }

    /// Waits until this replica has applied a revision; false when it has not within the limit.
    pub async fn wait_for_revision(&self, revision: Revision, limit: Duration) -> bool {
        let mut progress = self.core.applied.follow();
        let reached = progress.wait_for(|progress| progress.revision >= revision);
        tokio::select! {
            reached = tokio::time::timeout(limit, reached) => matches!(reached, Ok(Ok(_))),
            () = self.core.stop.cancelled() => false,
        }
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.core.applied.progress().compacted
    }

    /// Everything that happens to keys from `start` to `end` (empty: the one key) after a
    /// revision, which may also be one that this replica has not reached.
    pub fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> Result<Watch, RangeError> {
        let core = &self.core;
        let progress = Duration::from_millis(core.timing.progress_ms);
        Watch::start(
            core.applied.clone(),
            core.engine.clone(),
            start,
            end,
            after,
            progress,
        )
    }

    /// A hash over the whole state, and the log index it is the state at.
    pub fn digest(&self) -> Result<(u64, [u8; 32]), RangeError> {
        loop {
            let before = self.core.applied.progress();
            let mut digest = Err(RangeError::Storage("the state was not lent".into()));
            self.core.engine.with_state(&mut |view| {
                digest = trireme_state::digest(view).map_err(RangeError::from);
            });
            let digest = digest?;
            if self.core.applied.progress() == before {
                return Ok((before.index, digest));
            }
        }
    }

    pub fn id(&self) -> u64 {
        self.core.id
    }

    pub fn status(&self) -> ReplicaStatus {
        self.core.status()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.clone()
    }

    /// Waits until this replica knows of a leader.
    pub async fn wait_for_leader(&self, limit: Duration) -> Option<u64> {
        let mut leadership = self.core.leadership.clone();
        let known = leadership.wait_for(|leadership| leadership.leader.is_some());
        tokio::time::timeout(limit, known).await.ok()?.ok()?.leader
    }

    /// What the membership says about a server.
    pub fn member(&self, id: u64) -> Option<Member> {
        self.core.member(id)
    }

    /// Whether this store has ever been part of a cluster.
    pub async fn is_initialized(&self) -> Result<bool, OpenError> {
        self.core
            .raft
            .is_initialized()
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))
    }

    /// Makes the cluster out of these members, once, on a new store.
    pub async fn initialize(&self, members: BTreeMap<u64, Member>) -> Result<(), MembershipError> {
        self.core.initialize(members).await
    }

    /// Adds a server that follows without a vote, and waits until it has caught up. The server
    /// must be new: its id never used, its store empty.
    pub async fn add_learner(&self, id: u64, member: Member) -> Result<(), MembershipError> {
        self.core.add_learner(id, member).await
    }

    /// Gives a learner a vote.
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.core.promote(id).await
    }

    /// Takes a member out of the cluster, for good.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.core.remove(id).await
    }

    /// Hands leadership to a voter, and waits until it has it.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), MembershipError> {
        self.core.transfer_leader(to).await
    }

    /// Makes a snapshot now, as happens by itself every so many entries.
    pub async fn snapshot_now(&self) -> Result<(), MembershipError> {
        let stopped =
            |error: openraft::errors::Fatal<Types>| MembershipError::Stopped(error.to_string());
        self.core.raft.trigger().snapshot().await.map_err(stopped)
    }

    /// Resolves when the replica can no longer work, with the reason: its storage has failed.
    pub async fn failed(&self) -> String {
        // The metrics that hold the reason change with every heartbeat; these seldom do, and end
        // with Raft.
        let mut seldom = self.core.raft.server_metrics();
        while seldom.changed().await.is_ok() {
            seldom.borrow_and_update();
        }
        match &self.core.raft.metrics().borrow_watched().running_state {
            Err(fatal) => fatal.to_string(),
            Ok(()) => "stopped".into(),
        }
    }

    /// Stops Raft and all tasks. What was acknowledged is on disk; watches end.
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!(%error, "stopping Raft");
        }
        self.core.applied.close();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.core.stop.cancel();
        self.core.applied.close();
    }
}

impl Core {
    pub fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .get_node(&id)
            .cloned()
    }

    /// Waits until the entry at `index` is applied here; false after `deadline`.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        if self.applied.progress().index >= index {
            return true;
        }
        let mut progress = self.applied.follow();
        let reached = progress.wait_for(|progress| progress.index >= index);
        tokio::select! {
            reached = tokio::time::timeout_at(deadline, reached) => matches!(reached, Ok(Ok(_))),
            () = self.stop.cancelled() => false,
        }
    }

    fn status(&self) -> ReplicaStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let progress = self.applied.progress();
        let membership = metrics.membership_config.membership();
        let index = |id: &Option<crate::entry::LogId>| id.map_or(0, |id| id.index);
        let matched = metrics.replication.iter().flatten();
        ReplicaStatus {
            id: self.id,
            role: role(metrics.state),
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: progress.index,
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            revision: progress.revision,
            compacted: progress.compacted,
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            watchers: self.applied.watchers(),
            disk_full: self.space.low(),
            matched: matched.map(|(id, matched)| (*id, index(matched))).collect(),
        }
    }

    /// Makes snapshots and purges by the bytes of log, as openraft does by entries.
    async fn bound_log(self: Arc<Self>, log: LogStore) {
        let mut snapshotted = 0;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = log.grown() => {}
            }
            let (appended, excess) = log.extent();
            // A truncation takes bytes away.
            snapshotted = snapshotted.min(appended);
            if appended - snapshotted >= self.timing.log_bytes / 2 {
                snapshotted = appended;
                if self.raft.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            // Only what a snapshot has is purged; what it has not yet is, after some more growth.
            if let Some(index) = excess
                && self.raft.trigger().purge_log(index).await.is_err()
            {
                return;
            }
        }
    }

    async fn follow_leadership(self: Arc<Self>, tell: watch::Sender<Leadership>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                Leadership {
                    leader: metrics.current_leader,
                    term: metrics.vote.leader_id.term,
                    is_leader: metrics.state == ServerState::Leader,
                }
            };
            tell.send_if_modified(|told| {
                let changed = *told != now;
                *told = now;
                changed
            });
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = metrics.changed() => if changed.is_err() { break },
            }
        }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}
