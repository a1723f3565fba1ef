//! How fast a replica notices and decides.

use std::time::Duration;

/// Timings and limits of a replica. The defaults suit servers on one local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    /// An election starts after a random time between these two without a heartbeat. The leader's
    /// lease is the larger one, so a dead leader is replaced after about the sum of both.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How long a proposal looks for a leader, and then waits for its outcome.
    pub propose_ms: u64,
    /// How long a linearizable read waits for a leader and for the local state to catch up.
    pub read_ms: u64,
    /// How long a connection to a peer may take to be made.
    pub dial_ms: u64,
    /// HTTP/2 keep-alive: ping after this long without traffic, and give up after as long again.
    pub keep_alive_ms: u64,
    /// A watch that has nothing to report says which revision it has reached this often.
    pub progress_ms: u64,
    /// A snapshot is made, and the log before it purged, after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept behind the snapshot, so that a follower briefly away needs no snapshot.
    pub keep_entries: u64,
    /// Bytes of log that are kept, however few entries they are; half of it makes a snapshot.
    pub log_bytes: u64,
    /// Puts a known bug back: a restarted leader resumes its old term. For the simulator only.
    #[cfg(feature = "bug_leader_restore")]
    #[doc(hidden)]
    pub restore_leader: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 250,
            propose_ms: 10_000,
            read_ms: 5_000,
            dial_ms: 300,
            keep_alive_ms: 500,
            progress_ms: 1_000,
            // At full speed several seconds of entries: a follower that was slow for a moment must
            // not be sent the whole state, which would slow it down further.
            snapshot_entries: 50_000,
            keep_entries: 50_000,
            // The same in bytes for objects of 1.5 KiB, and little beside the disk space that is held in
            // reserve; entries may have up to 8 MiB each.
            log_bytes: 128 << 20,
            #[cfg(feature = "bug_leader_restore")]
            restore_leader: false,
        }
    }
}

impl Timing {
    /// For the simulator, whose network is slower.
    pub fn simulated() -> Self {
        Timing {
            heartbeat_ms: 100,
            election_min_ms: 400,
            election_max_ms: 800,
            ..Timing::default()
        }
    }

    /// Whether a restarted leader resumes its old term: never, unless the simulator asks for the bug.
    pub(crate) fn restores_leader(&self) -> bool {
        #[cfg(feature = "bug_leader_restore")]
        return self.restore_leader;
        #[cfg(not(feature = "bug_leader_restore"))]
        false
    }

    pub(crate) fn propose(&self) -> Duration {
        Duration::from_millis(self.propose_ms)
    }

    /// Longer than a leader's silence can last without another being elected.
    pub(crate) fn election(&self) -> Duration {
        Duration::from_millis(2 * self.election_max_ms)
    }

    pub(crate) fn read(&self) -> Duration {
        Duration::from_millis(self.read_ms)
    }
}
