//! What the seed decides about a world of proxies.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use trireme_check::traffic::{Bounds, Taken};
use trireme_xds::NodeType;

use super::objects::{BLUE, CLUSTERS, GREEN};

pub const ROUTE_TIMEOUT_MS: u64 = 1_000;
pub const PER_TRY_TIMEOUT_MS: u64 = 300;
pub const CONNECT_TIMEOUT_MS: u64 = 200;
/// The longest that messages between a proxy and an upstream are held up.
pub const MAX_HOLD_MS: u64 = 1_000;
/// A sweep is due at a time and runs at the next look at the clock.
const SWEEP_LATE_MS: u64 = 3;

/// How hosts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
}

/// A share of requests under way that may be retries.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub percent: u32,
    pub least: u32,
}

/// Limits of a cluster at one proxy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
    pub budget: Option<Budget>,
}

/// Outlier detection.
#[derive(Clone, Copy, Debug)]
pub struct Outlier {
    pub consecutive_5xx: u32,
    pub interval_ms: u64,
    pub base_ms: u64,
    pub max_percent: u32,
}

/// Everything that the seed decides at the beginning.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for each proxy.
    pub roles: Vec<NodeType>,
    /// Of each proxy.
    pub workers: usize,
    /// For each server of the control plane, the longest that objects' changes take to it.
    pub lags_ms: Vec<u64>,
    pub upstreams: usize,
    /// Of each proxy.
    pub clients: u64,
    /// Of them, that speak HTTP/2.
    pub clients_http2: u64,
    /// Whether the upstreams of main and of switch are spoken to in HTTP/2.
    pub upstream_http2: [bool; 2],
    pub think_ms: u64,
    pub latency_ms: u64,
    pub fault_ms: u64,
    pub pause_ms: u64,
    pub balancing: Balancing,
    pub outlier: Outlier,
    pub limits: Limits,
    pub panic_percent: u32,
    pub retries: u32,
}

impl Plan {
    pub fn choose(random: &mut ChaCha8Rng) -> Plan {
        let tight = random.random_bool(0.6);
        let budget = random.random_bool(0.5).then(|| Budget {
            percent: if random.random_bool(0.5) { 0 } else { 20 },
            least: random.random_range(1..=2),
        });
        let mut limit = |few: std::ops::RangeInclusive<u32>| match tight {
            true => random.random_range(few),
            false => 1024,
        };
        let limits = Limits {
            connections: limit(1..=4),
            pending: limit(4..=16),
            requests: limit(8..=32),
            retries: random.random_range(1..=3),
            budget,
        };
        let clients = random.random_range(6..=12);
        let role = |random: &mut ChaCha8Rng| match random.random_bool(0.7) {
            true => NodeType::Sidecar,
            false => NodeType::Router,
        };
        let proxies = random.random_range(1..=2);
        let servers = random.random_range(2..=3);
        Plan {
            roles: (0..proxies).map(|_| role(random)).collect(),
            workers: random.random_range(1..=2),
            lags_ms: (0..servers)
                .map(|_| [5, 50, 800][random.random_range(0..3)])
                .collect(),
            upstreams: random.random_range(6..=7),
            clients,
            clients_http2: match random.random_bool(0.5) {
                true => random.random_range(0..=clients),
                false => 0,
            },
            upstream_http2: [random.random_bool(0.3), random.random_bool(0.3)],
            think_ms: random.random_range(15..=60),
            latency_ms: random.random_range(1..=5),
            fault_ms: 12_000,
            pause_ms: random.random_range(200..=900),
            balancing: [
                Balancing::RoundRobin,
                Balancing::LeastRequest,
                Balancing::Random,
                Balancing::RingHash,
                Balancing::Maglev,
            ][random.random_range(0..5)],
            outlier: Outlier {
                consecutive_5xx: random.random_range(1..=4),
                interval_ms: random.random_range(300..=800),
                base_ms: random.random_range(500..=1_000),
                max_percent: [20, 34, 50, 100][random.random_range(0..4)],
            },
            limits,
            panic_percent: [0, 30, 50][random.random_range(0..3)],
            retries: random.random_range(0..=3),
        }
    }

    pub fn proxies(&self) -> u64 {
        self.roles.len() as u64
    }

    pub fn servers(&self) -> u64 {
        self.lags_ms.len() as u64
    }

    /// The longest that any server is behind, where nothing is wrong.
    pub fn lag_ms(&self) -> u64 {
        self.lags_ms.iter().copied().max().unwrap_or_default()
    }

    /// How long a message takes where nothing is wrong: its way, and the steps in which it is sent and read.
    pub fn transit_ms(&self) -> u64 {
        self.latency_ms + 2
    }

    /// How long after healing a host may stay ejected. A host's n-th ejection in a row lasts n times the base, so
    /// that the time of the faults bounds n.
    pub fn return_ms(&self) -> u64 {
        let Outlier {
            base_ms,
            interval_ms,
            ..
        } = self.outlier;
        let mut times = 1;
        while base_ms * times * (times - 1) / 2 <= self.fault_ms + ROUTE_TIMEOUT_MS {
            times += 1;
        }
        base_ms * times + interval_ms
    }

    pub fn bounds(&self) -> BTreeMap<String, Bounds> {
        let limits = &self.limits;
        let bounds = Bounds {
            wait_ms: ROUTE_TIMEOUT_MS,
            sweep_ms: self.outlier.interval_ms + SWEEP_LATE_MS,
            max_ejection_percent: u64::from(self.outlier.max_percent),
            panic_percent: u64::from(self.panic_percent),
            limits: Taken {
                connections: limits.connections,
                pending: limits.pending,
                requests: limits.requests,
                retries: limits.budget.map_or(limits.retries, |budget| budget.least),
            },
            retry_budget_percent: limits.budget.map_or(0, |budget| u64::from(budget.percent)),
            retries_per_request: self.retries,
        };
        CLUSTERS
            .map(|name| (name.to_owned(), bounds.clone()))
            .into()
    }
}

pub fn color_of(upstream: usize) -> &'static str {
    if upstream.is_multiple_of(2) {
        BLUE
    } else {
        GREEN
    }
}
