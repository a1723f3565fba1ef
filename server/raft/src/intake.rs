//! Proposals on their way into Raft, several at a time.
//!
//! A task that wakes another hands it its thread at once. Were every proposal given to openraft by
//! its own task, openraft would run after each of them, and write, send and sync it by itself,
//! however many others are ready. So one task takes them in: it lets everybody else run first, and
//! then gives openraft all that have come, which it merges.

use openraft::Raft;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::entry::{Proposal, Types};
use crate::machine::Machine;

/// Proposals that wait to be taken in; more wait in their callers. As many as openraft merges.
const MAX_WAITING: usize = 4096;

/// Tells the outcome; broken when Raft has stopped.
pub type Written = OneshotReceiverOf<Types, ClientWriteResult<Types>>;

struct Waiting {
    proposal: Proposal,
    responder: ProgressResponder<Types, ClientWriteResult<Types>>,
}

/// Where proposals are handed in.
pub struct Intake {
    queue: mpsc::Sender<Waiting>,
}

/// The other end, for the task that takes them in.
pub struct Proposals {
    queue: mpsc::Receiver<Waiting>,
}

impl Intake {
    pub fn new() -> (Intake, Proposals) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Intake { queue: sender }, Proposals { queue: receiver })
    }

    /// Queues a proposal, waiting while there are too many.
    pub async fn hand_in(&self, proposal: Proposal) -> Written {
        let (responder, written) = ProgressResponder::complete_only();
        let waiting = Waiting {
            proposal,
            responder,
        };
        // Nobody takes it in after a stop: the dropped responder says so.
        self.queue.send(waiting).await.ok();
        written
    }
}

impl Proposals {
    /// Hands over what arrives until `stop`, or until Raft itself has stopped.
    pub async fn take_in(mut self, raft: Raft<Types, Machine>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                first = self.queue.recv() => match first {
                    Some(first) => batch.push(first),
                    None => return,
                }
            }
            tokio::task::yield_now().await;
            while batch.len() < MAX_WAITING
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            for Waiting {
                proposal,
                responder,
            } in batch.drain(..)
            {
                let handed = raft.client_write_ff(proposal, Some(responder)).await;
                if let Err(fatal) = handed {
                    tracing::debug!(%fatal, "proposing");
                    return;
                }
            }
        }
    }
}
