//! The state machine on its disk: applies committed entries, makes and installs snapshots.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::oneshot;
use trireme_state::{Meta, Mutation, Reply, StateError, Transition, View};

use crate::applied::{Applied, Happened};
use crate::engine::{Checkpoint, Column, Done, Engine, Write};
use crate::entry::{Entry, LogId, SnapshotMeta, StoredMembership, Types, decode, encode};

const APPLIED: &[u8] = b"applied";

/// Entries applied by one write. Those who wait for the first are answered while the next are
/// applied: with 256 clients, a quarter more puts than with 256 entries a write.
const APPLY_ENTRIES: usize = 64;

/// A snapshot is a checkpoint, wherever it came from.
pub type SnapshotData = Arc<dyn Checkpoint>;
pub type Snapshot = openraft::alias::SnapshotOf<Types, SnapshotData>;

/// Written together with what the entries did.
type AppliedState = (Option<LogId>, StoredMembership);

#[derive(Clone)]
pub struct Machine {
    engine: Arc<dyn Engine>,
    applied: Arc<Applied>,
    state: AppliedState,
}

fn applied_state(bytes: Option<Bytes>) -> io::Result<AppliedState> {
    Ok(bytes
        .map(|bytes| decode(&bytes))
        .transpose()?
        .unwrap_or_default())
}

fn meta(engine: &dyn Engine) -> io::Result<Meta> {
    let mut found = Ok(Meta::default());
    engine.with_state(&mut |view| found = trireme_state::meta(view));
    found.map_err(io::Error::other)
}

impl Machine {
    pub fn open(engine: Arc<dyn Engine>) -> io::Result<Machine> {
        let state = applied_state(engine.get(Column::Meta, APPLIED)?)?;
        let index = state.0.map_or(0, |id| id.index);
        let applied = Arc::new(Applied::new(index, meta(&*engine)?));
        Ok(Machine {
            engine,
            applied,
            state,
        })
    }

    pub fn applied(&self) -> Arc<Applied> {
        self.applied.clone()
    }

    fn apply_entries(
        &mut self,
        entries: Vec<(Entry, Option<ApplyResponder<Types>>)>,
    ) -> io::Result<()> {
        let mut outcome = None;
        self.engine
            .with_state(&mut |view| outcome = Some(transition(view, &entries)));
        let outcome = outcome.ok_or_else(|| io::Error::other("the state was not lent"))??;

        let mut state = self.state.clone();
        for (entry, _) in &entries {
            state.0 = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                state.1 = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        let mut batch: Vec<Write> = Vec::with_capacity(outcome.mutations.len() + 1);
        batch.extend(
            outcome
                .mutations
                .into_iter()
                .map(|Mutation { key, value }| match value {
                    Some(value) => Write::Put {
                        column: Column::State,
                        key,
                        value,
                    },
                    None => Write::Delete {
                        column: Column::State,
                        key,
                    },
                }),
        );
        let key = Bytes::from_static(APPLIED);
        batch.push(Write::Put {
            column: Column::Meta,
            key,
            value: encode(&state)?,
        });
        self.engine.write(batch)?;

        self.state = state;
        let index = self.state.0.map_or(0, |id| id.index);
        self.applied.publish(index, outcome.meta, outcome.happened);
        for ((_, responder), reply) in entries.into_iter().zip(outcome.replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }
}

struct Outcome {
    replies: Vec<Option<Reply>>,
    happened: Vec<Happened>,
    mutations: Vec<Mutation>,
    meta: Meta,
}

fn transition(
    view: &dyn View,
    entries: &[(Entry, Option<ApplyResponder<Types>>)],
) -> io::Result<Outcome> {
    let broken = |error: StateError| io::Error::other(error);
    let mut transition = Transition::new(view).map_err(broken)?;
    let mut replies = Vec::with_capacity(entries.len());
    let mut happened = Vec::new();
    for (entry, _) in entries {
        let EntryPayload::Normal(proposal) = &entry.payload else {
            replies.push(None);
            continue;
        };
        let step = transition.apply(&proposal.decode()?).map_err(broken)?;
        if !step.events.is_empty() {
            happened.push(Happened::new(transition.meta().revision, step.events));
        }
        replies.push(Some(step.reply));
    }
    let meta = transition.meta();
    Ok(Outcome {
        replies,
        happened,
        mutations: transition.finish(),
        meta,
    })
}

/// Waits for an engine's callback.
async fn called_back<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    start(Box::new(move |result| {
        done.send(result).ok();
    }));
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the disk was closed")))
}

/// The snapshot that a checkpoint is: it says itself what it covers.
fn snapshot(checkpoint: Arc<dyn Checkpoint>) -> io::Result<Snapshot> {
    let (last_log_id, last_membership) = applied_state(checkpoint.meta(APPLIED)?)?;
    let meta = SnapshotMeta {
        last_log_id,
        last_membership,
    };
    Ok(Snapshot {
        meta,
        snapshot: checkpoint,
    })
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let engine = self.engine.clone();
        snapshot(called_back(|done| engine.checkpoint(done)).await?)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.state.clone())
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            self.apply_entries(chunk.into_iter().collect::<io::Result<_>>()?)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        checkpoint: SnapshotData,
    ) -> io::Result<()> {
        let state: AppliedState = (meta.last_log_id, meta.last_membership.clone());
        let key = Bytes::from_static(APPLIED);
        let with = vec![Write::Put {
            column: Column::Meta,
            key,
            value: encode(&state)?,
        }];
        let engine = self.engine.clone();
        called_back(|done| engine.install(checkpoint, with, done)).await?;
        self.state = state;
        let index = self.state.0.map_or(0, |id| id.index);
        self.applied.replace(index, self::meta(&*self.engine)?);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.engine.current_checkpoint().map(snapshot).transpose()
    }
}
