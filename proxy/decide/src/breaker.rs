//! Circuit breakers: limits of connections, waiting requests, requests and retries, each priority
//! its own. A limit admits while current < max (Envoy's `ResourceLimit`).
//!
//! What was admitted is a [`Token`]; dropping it gives the place back, so that no path, cancelled
//! or failed, can keep one. Counters are atomic: workers share one breaker a cluster, and
//! together never pass a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Priority, RetryBudget, Threshold, Thresholds};
use crate::planted;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections to the cluster's hosts.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests on connections.
    Requests,
    /// Retries, waiting for their back-off or under way.
    Retries,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// Counts of a cluster, kept while the cluster's configuration changes.
#[derive(Debug, Default)]
pub struct Counts {
    default: Counters,
    high: Counters,
}

impl Counts {
    fn counter(&self, priority: Priority, resource: Resource) -> &AtomicU32 {
        let counters = match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        };
        match resource {
            Resource::Connections => &counters.connections,
            Resource::Pending => &counters.pending,
            Resource::Requests => &counters.requests,
            Resource::Retries => &counters.retries,
        }
    }
}

/// A cluster's limits over its counts.
#[derive(Debug)]
pub struct Breaker {
    thresholds: Thresholds,
    counts: Arc<Counts>,
}

impl Breaker {
    /// A breaker over `counts`, which may be another's that it replaces.
    #[must_use]
    pub fn new(thresholds: Thresholds, counts: Arc<Counts>) -> Breaker {
        Breaker { thresholds, counts }
    }

    /// The counts, for the breaker that replaces this one.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The limits of a priority.
    #[must_use]
    pub fn threshold(&self, priority: Priority) -> &Threshold {
        match priority {
            Priority::Default => &self.thresholds.default,
            Priority::High => &self.thresholds.high,
        }
    }

    /// Connections that one host may have; none is unlimited.
    #[must_use]
    pub fn max_connections_per_host(&self) -> Option<u32> {
        self.thresholds.max_connections_per_host
    }

    /// How many there are now.
    #[must_use]
    pub fn current(&self, priority: Priority, resource: Resource) -> u32 {
        self.counts
            .counter(priority, resource)
            .load(Ordering::Relaxed)
    }

    /// How many there may be now. Of retries with a budget this moves with the requests.
    #[must_use]
    pub fn max(&self, priority: Priority, resource: Resource) -> u32 {
        let threshold = self.threshold(priority);
        match resource {
            Resource::Connections => threshold.max_connections,
            Resource::Pending => threshold.max_pending_requests,
            Resource::Requests => threshold.max_requests,
            Resource::Retries => match &threshold.retry_budget {
                Some(budget) => self.budget(priority, budget),
                None => threshold.max_retries,
            },
        }
    }

    /// Whether the limit is reached; one of zero is so only while something passed it, as Envoy's
    /// gauges tell.
    #[must_use]
    pub fn is_open(&self, priority: Priority, resource: Resource) -> bool {
        let current = self.current(priority, resource);
        current > 0 && current >= self.max(priority, resource)
    }

    /// Envoy's rule: the larger of `percent` of requests active and pending, and the minimum.
    fn budget(&self, priority: Priority, budget: &RetryBudget) -> u32 {
        let active = u64::from(self.current(priority, Resource::Requests))
            + u64::from(self.current(priority, Resource::Pending));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let share = (budget.percent / 100.0 * active as f64) as u32;
        share.max(budget.min_retry_concurrency)
    }

    /// Takes a place; none where the limit is reached.
    #[must_use]
    pub fn take(&self, priority: Priority, resource: Resource) -> Option<Token> {
        let max = self.max(priority, resource);
        let counter = self.counts.counter(priority, resource);
        let admits = |current: u32| {
            if resource == Resource::Retries && planted::on(planted::Bug::BudgetOverflow) {
                current <= max
            } else {
                current < max
            }
        };
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |current| {
                admits(current).then(|| current.saturating_add(1))
            })
            .ok()?;
        Some(self.token(priority, resource))
    }

    /// Takes a place past the limit: a pool without any connection may always open one, so that
    /// no request waits for a connection that nobody opens.
    pub fn take_anyway(&self, priority: Priority, resource: Resource) -> Token {
        self.counts
            .counter(priority, resource)
            .fetch_add(1, Ordering::Relaxed);
        self.token(priority, resource)
    }

    fn token(&self, priority: Priority, resource: Resource) -> Token {
        Token {
            counts: self.counts.clone(),
            priority,
            resource,
        }
    }
}

/// A place under a limit, given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Token {
    counts: Arc<Counts>,
    priority: Priority,
    resource: Resource,
}

impl Token {
    /// What it is a place among.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// Drops it as a cancelled request does.
    pub fn cancel(self) {
        if planted::on(planted::Bug::LeakedPendingSlot) && self.resource == Resource::Pending {
            std::mem::forget(self);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.counts
            .counter(self.priority, self.resource)
            .fetch_sub(1, Ordering::Relaxed);
    }
}
