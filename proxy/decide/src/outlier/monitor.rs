//! What the detector knows of one host.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Reason;
use crate::config::OutlierDetection;
use crate::time::Nanos;

/// Requests of one interval.
#[derive(Debug, Default)]
struct Bucket {
    total: AtomicU64,
    success: AtomicU64,
}

impl Bucket {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Successes and total of the interval that ends.
    fn take(&self) -> (u64, u64) {
        (
            self.success.swap(0, Ordering::Relaxed),
            self.total.swap(0, Ordering::Relaxed),
        )
    }
}

/// What the detector knows of one host. Workers count; the detector, under its lock, ejects.
#[derive(Debug, Default)]
pub struct Monitor {
    ejected: AtomicBool,
    ejected_at: AtomicU64,
    /// When it returned last; zero where it never did.
    returned_at: AtomicU64,
    jitter: AtomicU64,
    /// How many base times the ejection lasts; falls again while the host stays in.
    backoff: AtomicU32,
    ejections: AtomicU32,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Bucket,
    local: Bucket,
}

impl Monitor {
    /// Whether the host is ejected.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// When it was ejected last.
    #[must_use]
    pub fn ejected_at(&self) -> Nanos {
        Nanos(self.ejected_at.load(Ordering::Relaxed))
    }

    /// How often it was ejected.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// When its time is over: the first sweep from then on brings it back.
    #[must_use]
    pub fn due_back(&self, config: &OutlierDetection) -> Nanos {
        let times = self.backoff.load(Ordering::Relaxed);
        let lasting = config
            .base_ejection_time
            .saturating_mul(times)
            .min(config.max_ejection_time.max(config.base_ejection_time));
        self.ejected_at()
            .after(lasting)
            .after(Duration::from_nanos(self.jitter.load(Ordering::Relaxed)))
    }

    /// Takes over an ejection from the host that this one replaces at the same address.
    pub(crate) fn inherit(&self, other: &Monitor) {
        let copy = |to: &AtomicU64, from: &AtomicU64| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&self.ejected_at, &other.ejected_at);
        copy(&self.returned_at, &other.returned_at);
        copy(&self.jitter, &other.jitter);
        self.backoff
            .store(other.backoff.load(Ordering::Relaxed), Ordering::Relaxed);
        self.ejections.store(other.ejections(), Ordering::Relaxed);
        self.ejected.store(other.is_ejected(), Ordering::Relaxed);
    }

    /// Brings the host back because detection was switched off.
    pub(crate) fn release(&self) {
        if self.is_ejected() {
            self.ejected.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn external_success(&self) {
        self.external.count(true);
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway.store(0, Ordering::Relaxed);
    }

    /// Counts a 5xx; the consecutive 5xx and gateway failures with it.
    pub(super) fn external_failure(&self, gateway: bool) -> (u32, u32) {
        self.external.count(false);
        let gateway_failures = if gateway {
            increment(&self.consecutive_gateway)
        } else {
            self.consecutive_gateway.store(0, Ordering::Relaxed);
            0
        };
        (increment(&self.consecutive_5xx), gateway_failures)
    }

    pub(super) fn local_success(&self) {
        self.local.count(true);
        self.consecutive_local.store(0, Ordering::Relaxed);
    }

    pub(super) fn local_failure(&self) -> u32 {
        self.local.count(false);
        increment(&self.consecutive_local)
    }

    pub(super) fn reset_consecutive(&self, reason: Reason) {
        let counter = match reason {
            Reason::Consecutive5xx => &self.consecutive_5xx,
            Reason::ConsecutiveGatewayFailure => &self.consecutive_gateway,
            Reason::ConsecutiveLocalOriginFailure => &self.consecutive_local,
            _ => return,
        };
        counter.store(0, Ordering::Relaxed);
    }

    pub(super) fn eject(&self, now: Nanos, jitter: Duration, config: &OutlierDetection) {
        self.ejected_at.store(now.0, Ordering::Relaxed);
        self.jitter.store(
            u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.ejections.fetch_add(1, Ordering::Relaxed);
        let times = self.backoff.load(Ordering::Relaxed);
        let max = config.max_ejection_time.max(config.base_ejection_time);
        if config.base_ejection_time.saturating_mul(times)
            < max.saturating_add(config.base_ejection_time)
        {
            self.backoff
                .store(times.saturating_add(1), Ordering::Relaxed);
        }
        self.ejected.store(true, Ordering::Relaxed);
    }

    pub(super) fn uneject(&self, now: Nanos) {
        self.returned_at.store(now.0.max(1), Ordering::Relaxed);
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway.store(0, Ordering::Relaxed);
        self.consecutive_local.store(0, Ordering::Relaxed);
        self.ejected.store(false, Ordering::Relaxed);
    }

    /// A sweep, at least an interval after the host's return, finds it in: the next ejection
    /// lasts a base time less.
    pub(super) fn forgive(&self, now: Nanos, interval: Duration) {
        let returned = Nanos(self.returned_at.load(Ordering::Relaxed));
        if returned == Nanos::ZERO || now.since(returned) < interval {
            return;
        }
        let times = self.backoff.load(Ordering::Relaxed);
        self.backoff
            .store(times.saturating_sub(1), Ordering::Relaxed);
    }

    pub(super) fn take_external(&self) -> (u64, u64) {
        self.external.take()
    }

    pub(super) fn take_local(&self) -> (u64, u64) {
        self.local.take()
    }
}

fn increment(counter: &AtomicU32) -> u32 {
    counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}
