//! Outlier detection: which hosts are taken out of the way, and when they return.
//!
//! Consecutive failures act at once, on the count's equality with its limit. Success rates,
//! failure percentages and returns are the sweep's. Source of the rules: Envoy's
//! `outlier_detection_impl.cc` and its reference documentation.
//!
//! **Invariants:** 100·ejected ≤ cap·hosts after every ejection (but for the one host that
//! `always_eject_one_host` allows); a host returns only at a sweep, and not before
//! min(base·n, max) + jitter have passed since its ejection.

mod monitor;
mod sweep;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_core::RngCore;

pub use monitor::Monitor;

use crate::config::{Fraction, OutlierDetection};
use crate::planted;
use crate::time::Nanos;
use crate::upstream::Host;

/// What happened to a request, as the detector counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered with this status (gRPC statuses mapped to HTTP's).
    Status(u16),
    /// The connection was made; says nothing about the request.
    Connected,
    /// The connection was made and that is all there is (TCP).
    ConnectedFinal,
    /// Connecting failed, or the stream was reset.
    ConnectFailed,
    /// The host took too long; a status where the timeout's answer is another than 504.
    Timeout(Option<u16>),
}

/// Why a host was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Consecutive 5xx.
    Consecutive5xx,
    /// Consecutive 502, 503, 504.
    ConsecutiveGatewayFailure,
    /// Consecutive local failures.
    ConsecutiveLocalOriginFailure,
    /// Success rate.
    SuccessRate,
    /// Success rate of local origin.
    SuccessRateLocalOrigin,
    /// Failure percentage.
    FailurePercentage,
    /// Failure percentage of local origin.
    FailurePercentageLocalOrigin,
}

/// What the detector did.
#[derive(Clone, Debug)]
pub enum Change {
    /// A host was ejected.
    Ejected {
        /// Which.
        host: Arc<Host>,
        /// Why.
        reason: Reason,
    },
    /// A host returned.
    Returned {
        /// Which.
        host: Arc<Host>,
    },
}

/// Counters.
#[derive(Debug, Default)]
pub struct Counters {
    overflow: AtomicU64,
    detected: [AtomicU64; REASONS.len()],
    enforced: [AtomicU64; REASONS.len()],
}

/// Reasons with the names of their counters, detected and enforced.
const REASONS: [(Reason, &str, &str); 7] = [
    (
        Reason::Consecutive5xx,
        "ejections_detected_consecutive_5xx",
        "ejections_enforced_consecutive_5xx",
    ),
    (
        Reason::ConsecutiveGatewayFailure,
        "ejections_detected_consecutive_gateway_failure",
        "ejections_enforced_consecutive_gateway_failure",
    ),
    (
        Reason::ConsecutiveLocalOriginFailure,
        "ejections_detected_consecutive_local_origin_failure",
        "ejections_enforced_consecutive_local_origin_failure",
    ),
    (
        Reason::SuccessRate,
        "ejections_detected_success_rate",
        "ejections_enforced_success_rate",
    ),
    (
        Reason::SuccessRateLocalOrigin,
        "ejections_detected_local_origin_success_rate",
        "ejections_enforced_local_origin_success_rate",
    ),
    (
        Reason::FailurePercentage,
        "ejections_detected_failure_percentage",
        "ejections_enforced_failure_percentage",
    ),
    (
        Reason::FailurePercentageLocalOrigin,
        "ejections_detected_local_origin_failure_percentage",
        "ejections_enforced_local_origin_failure_percentage",
    ),
];

impl Counters {
    /// Every counter by Envoy's name after `cluster.NAME.outlier_detection.`, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let total = self.enforced.iter().map(read).sum();
        let by_reason = REASONS.iter().enumerate().flat_map(move |(at, reason)| {
            [
                (reason.1, read(&self.detected[at])),
                (reason.2, read(&self.enforced[at])),
            ]
        });
        [
            ("ejections_enforced_total", total),
            ("ejections_overflow", read(&self.overflow)),
        ]
        .into_iter()
        .chain(by_reason)
    }

    fn add(counters: &[AtomicU64; REASONS.len()], reason: Reason) {
        // The reasons are listed in the order of their declaration.
        counters[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    hosts: Vec<Arc<Host>>,
    ejected: u32,
    next_sweep: Nanos,
}

/// The detector of one cluster. Requests report to it from any worker; ejections and sweeps take
/// its lock.
#[derive(Debug)]
pub struct Detector {
    config: OutlierDetection,
    state: Mutex<State>,
    generation: Arc<AtomicU64>,
    /// Counters.
    pub counters: Counters,
}

impl Detector {
    /// A detector over `hosts`; `generation` rises with every change of a host's health.
    #[must_use]
    pub fn new(
        config: OutlierDetection,
        hosts: Vec<Arc<Host>>,
        generation: Arc<AtomicU64>,
        now: Nanos,
    ) -> Detector {
        let ejected = count_ejected(&hosts);
        Detector {
            state: Mutex::new(State {
                hosts,
                ejected,
                next_sweep: now.after(config.interval),
            }),
            config,
            generation,
            counters: Counters::default(),
        }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &OutlierDetection {
        &self.config
    }

    /// Hosts ejected now.
    #[must_use]
    pub fn ejected(&self) -> u32 {
        self.lock().ejected
    }

    /// Hosts there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.lock().hosts.len()
    }

    /// When the next sweep is due.
    #[must_use]
    pub fn next_sweep(&self) -> Nanos {
        self.lock().next_sweep
    }

    /// Takes other hosts; those that stay keep their state, an ejected one that goes no longer
    /// counts.
    pub fn set_hosts(&self, hosts: Vec<Arc<Host>>) {
        let mut state = self.lock();
        state.ejected = count_ejected(&hosts);
        state.hosts = hosts;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Counts what happened to a request to `host`, and ejects it where that was one too many.
    pub fn report(
        &self,
        host: &Arc<Host>,
        outcome: Outcome,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Change> {
        let mut change = None;
        if planted::on(planted::Bug::UnejectBetweenSweeps) {
            let mut state = self.lock();
            if self.is_due_back(host, now) {
                self.uneject(&mut state, host, now);
                change = Some(Change::Returned { host: host.clone() });
            }
        }
        let split = self.config.split_external_local_origin_errors;
        let trip = match outcome {
            Outcome::Status(status) => self.count_status(host, status),
            Outcome::Connected if split => {
                host.monitor.local_success();
                None
            }
            Outcome::Connected => None,
            Outcome::ConnectedFinal if split => {
                host.monitor.local_success();
                None
            }
            Outcome::ConnectedFinal => self.count_status(host, 200),
            Outcome::ConnectFailed | Outcome::Timeout(_) if split => (host.monitor.local_failure()
                == self.config.consecutive_local_origin_failure)
                .then_some(Reason::ConsecutiveLocalOriginFailure)
                .into_iter()
                .next()
                .map(|reason| [Some(reason), None]),
            Outcome::ConnectFailed => self.count_status(host, 503),
            Outcome::Timeout(status) => self.count_status(host, status.unwrap_or(504)),
        };
        for reason in trip.into_iter().flatten().flatten() {
            if let Some(ejected) = self.on_consecutive(host, reason, now, rng) {
                change = Some(ejected);
            }
        }
        change
    }

    /// The consecutive counters of answers; which of them reached their limit.
    fn count_status(&self, host: &Host, status: u16) -> Option<[Option<Reason>; 2]> {
        if status < 500 {
            host.monitor.external_success();
            return None;
        }
        let gateway = matches!(status, 502..=504);
        let (errors, gateway_errors) = host.monitor.external_failure(gateway);
        let by_gateway = (gateway && gateway_errors == self.config.consecutive_gateway_failure)
            .then_some(Reason::ConsecutiveGatewayFailure);
        let by_errors = (errors == self.config.consecutive_5xx).then_some(Reason::Consecutive5xx);
        (by_gateway.is_some() || by_errors.is_some()).then_some([by_gateway, by_errors])
    }

    fn on_consecutive(
        &self,
        host: &Arc<Host>,
        reason: Reason,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Change> {
        let mut state = self.lock();
        if host.is_ejected() || !state.hosts.iter().any(|other| Arc::ptr_eq(other, host)) {
            return None;
        }
        let ejected = self.eject(&mut state, host, reason, now, rng);
        host.monitor.reset_consecutive(reason);
        ejected.then(|| Change::Ejected {
            host: host.clone(),
            reason,
        })
    }

    /// Ejects `host` if the cap and the enforcement draw allow.
    fn eject(
        &self,
        state: &mut State,
        host: &Host,
        reason: Reason,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> bool {
        Counters::add(&self.counters.detected, reason);
        let cap = u64::from(self.config.max_ejection_percent.min(100));
        let counted = if planted::on(planted::Bug::EjectionCapOffByOne) {
            state.ejected
        } else {
            state.ejected + 1
        };
        // 100·(ejected + 1)/hosts ≤ cap, without rounding.
        let mut allowed = 100 * u64::from(counted) <= cap * state.hosts.len() as u64;
        if self.config.always_eject_one_host {
            allowed |= state.ejected == 0;
        }
        if !allowed {
            self.counters.overflow.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if !Fraction::percent(self.enforcing(reason)).covers(rng.next_u64()) {
            return false;
        }
        state.ejected += 1;
        Counters::add(&self.counters.enforced, reason);
        // Envoy counts jitter in whole milliseconds.
        let jitter_ms =
            u64::try_from(self.config.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX - 1);
        let jitter = Duration::from_millis(rng.next_u64() % (jitter_ms + 1));
        host.monitor.eject(now, jitter, &self.config);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    fn uneject(&self, state: &mut State, host: &Host, now: Nanos) {
        state.ejected = state.ejected.saturating_sub(1);
        host.monitor.uneject(now);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn is_due_back(&self, host: &Host, now: Nanos) -> bool {
        host.is_ejected() && now.0 >= host.monitor.due_back(&self.config).0
    }

    fn enforcing(&self, reason: Reason) -> u32 {
        let config = &self.config;
        match reason {
            Reason::Consecutive5xx => config.enforcing_consecutive_5xx,
            Reason::ConsecutiveGatewayFailure => config.enforcing_consecutive_gateway_failure,
            Reason::ConsecutiveLocalOriginFailure => {
                config.enforcing_consecutive_local_origin_failure
            }
            Reason::SuccessRate => config.enforcing_success_rate,
            Reason::SuccessRateLocalOrigin => config.enforcing_local_origin_success_rate,
            Reason::FailurePercentage => config.enforcing_failure_percentage,
            Reason::FailurePercentageLocalOrigin => {
                config.enforcing_failure_percentage_local_origin
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_ejected(hosts: &[Arc<Host>]) -> u32 {
    let ejected: BTreeSet<_> = hosts
        .iter()
        .filter(|host| host.is_ejected())
        .map(|host| host.address)
        .collect();
    u32::try_from(ejected.len()).unwrap_or(u32::MAX)
}
