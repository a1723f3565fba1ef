//! Removing images that nobody uses when the disk fills: the kubelet's thresholds.

use crate::agent::Agent;
use crate::machine;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trireme_node_decide::EventType;

/// Images are looked at this often: the kubelet's ImageGCPeriod.
const PERIOD: Duration = Duration::from_secs(300);
/// Above this part of the disk in use, in percent, unused images are removed.
const HIGH_PERCENT: u64 = 85;

fn used_percent(free: u64, total: u64) -> u64 {
    if total == 0 {
        return 0;
    }
    100 - free.min(total).saturating_mul(100) / total
}

/// Images and layers that containers use or are about to.
fn in_use(agent: &Agent) -> (BTreeSet<String>, BTreeSet<PathBuf>) {
    let mut names = BTreeSet::new();
    let mut layers = BTreeSet::new();
    for handle in agent.pods.all() {
        let seen = handle.seen.borrow().clone();
        for found in trireme_node_decide::containers(&seen.pod) {
            names.extend(found.container.image);
        }
        for record in seen.runtime.containers.values() {
            if let Some((reference, id)) = &record.running_image {
                names.insert(reference.clone());
                names.insert(id.clone());
            }
        }
    }
    for image in &agent.config.builtin_images {
        names.insert(image.reference.clone());
    }
    for container in agent.runtime.list().unwrap_or_default() {
        layers.extend(container.spec.layers);
    }
    (names, layers)
}

/// Looks at the disk now and then until `shutdown`.
pub(crate) async fn collect(agent: Arc<Agent>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        let Some((free, total)) = machine::disk_bytes(&agent.config.data) else {
            continue;
        };
        if used_percent(free, total) < HIGH_PERCENT {
            continue;
        }
        let (names, layers) = in_use(&agent);
        match agent.images.collect(&names, &layers).await {
            Ok(freed) => {
                tracing::info!(freed_bytes = freed, "unused images were removed");
                if freed == 0 {
                    let message = format!(
                        "Disk usage is over {HIGH_PERCENT}% and no image can be removed: all are in use"
                    );
                    agent.events.node(
                        &agent.config.name,
                        EventType::Warning,
                        "FreeDiskSpaceFailed",
                        message,
                    );
                }
            }
            Err(error) => tracing::warn!(error, "unused images could not be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::used_percent;

    #[test]
    fn disk_use_is_a_percentage() {
        assert_eq!(used_percent(15, 100), 85);
        assert_eq!(used_percent(0, 0), 0);
        assert_eq!(used_percent(200, 100), 0);
    }
}
