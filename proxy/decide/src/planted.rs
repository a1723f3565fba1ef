//! Bugs that the simulator must find. They exist only with the feature `planted`, which only the
//! simulator enables, and only while its switch is on.

/// A bug of old, and the property that catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bug {
    /// One host more than the cap is ejected. Property: ejected ≤ cap.
    EjectionCapOffByOne = 1,
    /// Hosts return between sweeps. Property: un-ejection only at sweeps.
    UnejectBetweenSweeps = 1 << 1,
    /// A cancelled request keeps its place among the waiting. Property: idle means no tokens.
    LeakedPendingSlot = 1 << 2,
    /// A retry goes where the last attempt went. Property: never a host already tried.
    RetrySameHost = 1 << 3,
    /// A removed or draining endpoint still gets requests. Property: no request to a host that is
    /// not in the configuration.
    StaleEndpointAfterDrain = 1 << 4,
    /// One healthy host too few is counted when panic is decided. Property: without panic,
    /// unhealthy hosts get nothing.
    PanicMiscount = 1 << 5,
    /// A pool at the connection limit opens a connection for each waiting request. Property:
    /// connections ≤ limit, but for one each host.
    HalfOpenStampede = 1 << 6,
    /// One retry more than the budget. Property: retries ≤ budget.
    BudgetOverflow = 1 << 7,
    /// Routes change before the clusters they name. Property: configuration is never half
    /// applied.
    NonAtomicSubsetSwitch = 1 << 8,
}

/// Every planted bug with its name, for the simulator's command line.
pub const ALL: &[(Bug, &str)] = &[
    (Bug::EjectionCapOffByOne, "ejection-cap-off-by-one"),
    (Bug::UnejectBetweenSweeps, "uneject-between-sweeps"),
    (Bug::LeakedPendingSlot, "leaked-pending-slot"),
    (Bug::RetrySameHost, "retry-same-host"),
    (Bug::StaleEndpointAfterDrain, "stale-endpoint-after-drain"),
    (Bug::PanicMiscount, "panic-miscount"),
    (Bug::HalfOpenStampede, "half-open-stampede"),
    (Bug::BudgetOverflow, "budget-overflow"),
    (Bug::NonAtomicSubsetSwitch, "non-atomic-subset-switch"),
];

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    // One a thread: a simulation is one thread, and tests beside each other do not meet.
    thread_local! {
        static ON: Cell<u32> = const { Cell::new(0) };
    }

    /// Switches a bug on or off for what this thread decides.
    pub fn set(bug: Bug, on: bool) {
        ON.set(if on {
            ON.get() | bug as u32
        } else {
            ON.get() & !(bug as u32)
        });
    }

    /// Whether it is on.
    #[must_use]
    pub fn on(bug: Bug) -> bool {
        ON.get() & bug as u32 != 0
    }
}

#[cfg(feature = "planted")]
pub use switch::{on, set};

/// Never, without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn on(_bug: Bug) -> bool {
    false
}
