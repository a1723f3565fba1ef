//! The sweeps of outlier detection: when one is due, and no timer otherwise.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::shared::Shared;

/// A cluster's first use does not wake us; its first sweep is an interval later, and is seen within this time.
const LOOK: Duration = Duration::from_millis(500);

/// Sweeps for ever.
pub async fn run(shared: Arc<Shared>) {
    let mut rng = ChaCha8Rng::seed_from_u64(shared.seed());
    loop {
        let now = shared.now();
        let pause = match shared.live().next_sweep() {
            Some(due) if due <= now => {
                for change in shared.live().sweep(now, &mut rng) {
                    tracing::debug!(?change, "outlier");
                }
                continue;
            }
            Some(due) => due.since(now).min(LOOK),
            None => LOOK,
        };
        tokio::time::sleep(pause).await;
    }
}
