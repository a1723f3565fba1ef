//! Tells the authors of Istio's objects what is wrong with them: the leader writes the conditions
//! that server/mesh finds.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trireme_client::{Client, EventRecorder};
use trireme_mesh::conditions::plan;
use trireme_xds_server::MeshSource;

use crate::execute::execute;

/// The least time between two looks at all objects. A burst of changes (`kubectl apply` of a
/// directory) is looked at once, when what refers to what is there.
const INTERVAL: Duration = Duration::from_millis(500);

/// Runs until `ended`, while this server leads. `changes` is marked when something has changed
/// that conditions depend on.
pub async fn run(
    client: Client,
    recorder: EventRecorder,
    source: MeshSource,
    mut changes: watch::Receiver<u64>,
    ended: CancellationToken,
) {
    let mut settled = false;
    loop {
        tokio::select! {
            changed = changes.changed(), if settled => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL), if !settled => {}
            () = ended.cancelled() => return,
        }
        if settled {
            // Let a burst come in.
            settled = false;
            continue;
        }
        changes.mark_unchanged();
        let now = jiff::Timestamp::now();
        let Some(plan) = source.with(|mesh| plan(mesh, now)) else {
            continue;
        };
        if plan.is_empty() {
            settled = true;
            continue;
        }
        // Looked at again after a pause: by then the view has seen what was written, and a write
        // from a stale view was refused by its precondition.
        let outcome = execute(&client, &recorder, plan).await;
        if let Some(refusal) = outcome.refusal {
            tracing::warn!(refusal, "writing conditions of the mesh's objects");
        }
    }
}
