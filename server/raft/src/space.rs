//! Disk space: writes stop while there is still room to stop them in order.
//!
//! A failed write would end a replica, so none is let happen: below [`RESERVE_BYTES`] a replica
//! says that it is low, and a leader refuses proposals when it is low itself or when too few others
//! are left for a quorum; below [`LAST_BYTES`] a replica takes no more entries from a leader
//! either. Votes, which are tiny, still fit. Reads go on throughout.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Room for all memtables, a write-ahead log at its limit and a compaction's output.
pub const RESERVE_BYTES: u64 = 64 << 20;
/// Room for what is already in memory, and for votes.
pub const LAST_BYTES: u64 = 24 << 20;
/// Often enough that a fast disk cannot write the reserve in between.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Tells how many bytes are free.
pub type FreeSpace = Arc<dyn Fn() -> io::Result<u64> + Send + Sync>;

#[derive(Default)]
pub struct Space {
    low: AtomicBool,
    out: AtomicBool,
}

impl Space {
    /// Proposals are refused.
    pub fn low(&self) -> bool {
        self.low.load(Ordering::Acquire)
    }

    /// Entries are refused.
    pub fn out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    pub fn look(&self, free: &FreeSpace) {
        let free = match free() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "asking for free disk space");
                return;
            }
        };
        let low = free < RESERVE_BYTES;
        if self.low.swap(low, Ordering::AcqRel) != low {
            if low {
                tracing::error!(free, reserve = RESERVE_BYTES, "disk full: refusing writes");
            } else {
                tracing::info!(free, "disk space is back: accepting writes");
            }
        }
        self.out.store(free < LAST_BYTES, Ordering::Release);
    }

    pub async fn keep_looking(&self, free: FreeSpace, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.look(&free),
            }
        }
    }
}
