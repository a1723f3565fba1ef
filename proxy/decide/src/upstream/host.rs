//! One host of a cluster, shared by every worker and every version of the configuration in which
//! it occurs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::config::{Endpoint, EndpointHealth, Labels, Locality};
use crate::outlier::Monitor;
use crate::time::Nanos;

/// One host of a cluster.
#[derive(Debug)]
pub struct Host {
    /// Its address.
    pub address: SocketAddr,
    /// Its name, for host rewriting; none where it has none.
    pub hostname: Option<Arc<str>>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its place.
    pub locality: Arc<Locality>,
    /// Its priority.
    pub priority: u32,
    /// When it came, for slow start.
    pub created: Nanos,
    /// What outlier detection knows of it.
    pub monitor: Monitor,
    /// Requests, answered and failed since it came.
    pub totals: HostTotals,
    weight: AtomicU32,
    health: AtomicU8,
    gone: AtomicBool,
    active: AtomicU64,
    connections: AtomicU32,
}

/// Counters of a host.
#[derive(Debug, Default)]
pub struct HostTotals {
    /// Requests sent.
    pub requests: AtomicU64,
    /// Answers below 500.
    pub successes: AtomicU64,
    /// Answers from 500, resets, failures to connect.
    pub errors: AtomicU64,
    /// Timeouts.
    pub timeouts: AtomicU64,
}

impl Host {
    /// The host of an endpoint; none where the endpoint is a name not resolved.
    #[must_use]
    pub fn new(
        endpoint: &Endpoint,
        locality: Arc<Locality>,
        priority: u32,
        created: Nanos,
    ) -> Option<Host> {
        Some(Host {
            address: endpoint.address.socket()?,
            hostname: endpoint.hostname.clone(),
            labels: endpoint.labels.clone(),
            locality,
            priority,
            created,
            monitor: Monitor::default(),
            totals: HostTotals::default(),
            weight: AtomicU32::new(endpoint.weight.max(1)),
            health: AtomicU8::new(endpoint.health as u8),
            gone: AtomicBool::new(false),
            active: AtomicU64::new(0),
            connections: AtomicU32::new(0),
        })
    }

    /// Its weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections that are open or opening.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether outlier detection has it out of the way.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.monitor.is_ejected()
    }

    /// Whether the configuration has it no more: finish what is under way, begin nothing.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// What the control plane says.
    #[must_use]
    pub fn configured_health(&self) -> EndpointHealth {
        match self.health.load(Ordering::Relaxed) {
            1 => EndpointHealth::Degraded,
            2 => EndpointHealth::Unhealthy,
            3 => EndpointHealth::Draining,
            4 => EndpointHealth::Timeout,
            _ => EndpointHealth::Healthy,
        }
    }

    /// Whether it takes traffic as a healthy host.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.is_ejected() && self.configured_health() == EndpointHealth::Healthy
    }

    /// Whether it takes traffic as a degraded host.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        !self.is_ejected() && self.configured_health() == EndpointHealth::Degraded
    }

    /// Takes over what may change without the host becoming another.
    pub(super) fn refresh(&self, endpoint: &Endpoint) {
        self.weight.store(endpoint.weight.max(1), Ordering::Relaxed);
        self.health.store(endpoint.health as u8, Ordering::Relaxed);
    }

    /// Whether `endpoint` is this host, only its weight or health may differ.
    pub(super) fn is(&self, endpoint: &Endpoint, locality: &Locality, priority: u32) -> bool {
        self.priority == priority
            && *self.locality == *locality
            && self.hostname == endpoint.hostname
            && *self.labels == *endpoint.labels
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// A request under way to a host; dropped, it is over.
#[derive(Debug)]
#[must_use]
pub struct ActiveRequest(Arc<Host>);

impl ActiveRequest {
    /// Counts a request to `host`.
    pub fn new(host: &Arc<Host>) -> ActiveRequest {
        host.active.fetch_add(1, Ordering::Relaxed);
        host.totals.requests.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(host.clone())
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a host; dropped, it is closed.
#[derive(Debug)]
#[must_use]
pub struct OpenConnection(Arc<Host>);

impl OpenConnection {
    /// Counts a connection to `host`; none where it may have only `max` and has them.
    pub fn new(host: &Arc<Host>, max: Option<u32>) -> Option<OpenConnection> {
        host.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |current| {
                max.is_none_or(|max| current < max)
                    .then(|| current.saturating_add(1))
            })
            .ok()?;
        Some(OpenConnection(host.clone()))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
