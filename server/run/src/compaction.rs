//! Compaction: the leader forgets what is older than the history that is kept, five minutes unless told
//! otherwise, as kube-apiserver asks of etcd.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use trireme_raft::Replica;
use trireme_state::Command;

/// Revisions are noted this many times in the length of the history, so that it is exact to a tenth.
const SAMPLES: u32 = 10;

/// Runs until cancelled, on every server, so that one that becomes the leader knows what is old.
pub async fn run(replica: Arc<Replica>, history: Duration, ended: CancellationToken) {
    let mut samples = VecDeque::new();
    let leadership = replica.leadership();
    loop {
        tokio::select! {
            () = tokio::time::sleep(history / SAMPLES) => {}
            () = ended.cancelled() => return,
        }
        samples.push_back((tokio::time::Instant::now(), replica.revision()));
        let mut due = None;
        while let Some((noted, revision)) = samples.front().copied() {
            if noted.elapsed() < history {
                break;
            }
            due = Some(revision);
            samples.pop_front();
        }
        let leads = leadership.borrow().is_leader;
        let Some(revision) = due.filter(|revision| leads && *revision > replica.compacted()) else {
            continue;
        };
        if let Err(error) = replica.propose(Command::Compact { revision }).await {
            tracing::warn!(revision, %error, "compaction");
        }
    }
}
