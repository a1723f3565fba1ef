//! Compaction: the leader forgets what is older than five minutes, as kube-apiserver asks of etcd.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use trireme_raft::Replica;
use trireme_state::Command;

/// How long a revision stays readable: watches that were cut off and lists in pages go on within it.
const RETENTION: Duration = Duration::from_secs(300);
/// Revisions are noted this often, so retention is exact to this.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until cancelled, while this server leads.
pub async fn run(replica: Arc<Replica>, ended: CancellationToken) {
    let mut samples = VecDeque::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SAMPLE_INTERVAL) => {}
            () = ended.cancelled() => return,
        }
        samples.push_back((tokio::time::Instant::now(), replica.revision()));
        let mut due = None;
        while let Some((noted, revision)) = samples.front().copied() {
            if noted.elapsed() < RETENTION {
                break;
            }
            due = Some(revision);
            samples.pop_front();
        }
        let Some(revision) = due.filter(|revision| *revision > replica.compacted()) else {
            continue;
        };
        if let Err(error) = replica.propose(Command::Compact { revision }).await {
            tracing::warn!(revision, %error, "compaction");
        }
    }
}
