//! What the workers share: the configuration in force with the state that decisions keep, secrets, statistics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::time::Instant;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::config::{Cluster, Endpoints, Snapshot, Update};
use trireme_proxy_decide::fault::ActiveFaults;
use trireme_proxy_decide::upstream::Live;
use trireme_xds::Kind;

use crate::telemetry::istio::{Labels, Metrics, Peer, Series};
use crate::telemetry::stats::Registry;
use crate::tls::Secrets;

/// Clusters whose hosts are names, as they were resolved.
#[derive(Debug, Default)]
struct Resolutions(BTreeMap<Arc<str>, Arc<Endpoints>>);

#[derive(Debug, Default)]
struct Configuration {
    /// As it came.
    raw: Snapshot,
    resolutions: Resolutions,
}

/// What is known of the control plane.
#[derive(Clone, Debug, Default)]
pub struct ControlPlane {
    /// The server that gives configuration now.
    pub server: Option<String>,
    /// The newest version of each kind that was taken.
    pub versions: BTreeMap<&'static str, String>,
    /// Responses that were taken.
    pub accepted: u64,
    /// Responses that were refused.
    pub rejected: u64,
    /// Why the last one was.
    pub last_rejection: Option<String>,
    /// Streams that broke.
    pub disconnects: u64,
}

/// What the workers share.
pub struct Shared {
    start: Instant,
    start_unix_nanos: u64,
    live: watch::Sender<Arc<Live>>,
    configuration: Mutex<Configuration>,
    secrets: Mutex<(u64, Arc<Secrets>)>,
    rng: Mutex<ChaCha8Rng>,
    connections: AtomicU64,
    /// Envoy's statistics.
    pub registry: Registry,
    metrics: Mutex<Vec<Arc<Metrics>>>,
    /// Who we are.
    pub peer: Arc<Peer>,
    /// The same, as the client's proxy tells the server's; none where we are nobody.
    pub peer_header: Option<HeaderValue>,
    /// The cluster that our workload belongs to, for rate limits.
    pub service_cluster: String,
    /// The machine's name, for logs.
    pub hostname: Option<String>,
    /// Faults under way.
    pub faults: Arc<ActiveFaults>,
    control_plane: Mutex<ControlPlane>,
    configured: AtomicBool,
    workers: AtomicU64,
    workers_listening: AtomicU64,
    draining: AtomicBool,
    active: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Without configuration. `seed` decides every draw; `unix_nanos` is the time now.
    #[must_use]
    pub fn new(peer: Peer, seed: u64, unix_nanos: u64) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            start_unix_nanos: unix_nanos,
            live: watch::Sender::new(Arc::new(Live::default())),
            configuration: Mutex::default(),
            secrets: Mutex::new((0, Arc::default())),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            connections: AtomicU64::new(0),
            registry: Registry::default(),
            metrics: Mutex::default(),
            peer_header: (!peer.workload.is_empty())
                .then(|| HeaderValue::from_str(&peer.compact()).ok())
                .flatten(),
            service_cluster: format!("{}.{}", peer.canonical_service, peer.namespace),
            hostname: std::env::var("HOSTNAME").ok(),
            faults: Arc::default(),
            peer: Arc::new(peer),
            control_plane: Mutex::default(),
            configured: AtomicBool::new(false),
            workers: AtomicU64::new(0),
            workers_listening: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            active: AtomicU64::new(0),
        })
    }

    /// The time as decisions see it.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.at(Instant::now())
    }

    /// A point in time as decisions see it.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Nanos {
        Nanos(
            u64::try_from(instant.saturating_duration_since(self.start).as_nanos())
                .unwrap_or(u64::MAX),
        )
    }

    /// The point in time that decisions call so.
    #[must_use]
    pub fn instant(&self, at: Nanos) -> Instant {
        self.start + std::time::Duration::from_nanos(at.0)
    }

    /// Nanoseconds since 1970 at a point in time.
    #[must_use]
    pub fn unix_nanos(&self, instant: Instant) -> u64 {
        self.start_unix_nanos.saturating_add(self.at(instant).0)
    }

    /// 64 random bits.
    #[must_use]
    pub fn draw(&self) -> u64 {
        lock(&self.rng).next_u64()
    }

    /// A seed for a worker.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.draw()
    }

    /// The number of the next connection.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// The configuration in force, to wait for the next.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Live>> {
        self.live.subscribe()
    }

    /// The configuration in force.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// The configuration as it came.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.configuration).raw.clone()
    }

    /// Whether there is something to listen for.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        !lock(&self.configuration).raw.listeners.is_empty()
    }

    /// Puts a change in force.
    pub fn publish(&self, update: &Update) {
        let mut configuration = lock(&self.configuration);
        configuration.raw = configuration.raw.with(update);
        self.put_in_force(&mut configuration);
    }

    /// Puts a whole configuration in force.
    pub fn replace(&self, snapshot: Snapshot) {
        let mut configuration = lock(&self.configuration);
        configuration.raw = snapshot;
        self.put_in_force(&mut configuration);
    }

    /// Takes what the names of a cluster resolved to.
    pub fn resolved(&self, cluster: &Arc<Cluster>, endpoints: Endpoints) {
        let mut configuration = lock(&self.configuration);
        if !configuration.raw.clusters.contains_key(&cluster.name) {
            configuration.resolutions.0.remove(&cluster.name);
            return;
        }
        let endpoints = Arc::new(endpoints);
        let resolutions = &mut configuration.resolutions.0;
        if resolutions.get(&cluster.name) == Some(&endpoints) {
            return;
        }
        resolutions.insert(cluster.name.clone(), endpoints);
        self.put_in_force(&mut configuration);
    }

    fn put_in_force(&self, configuration: &mut Configuration) {
        let Configuration { raw, resolutions } = configuration;
        resolutions.0.retain(|name, _| {
            raw.clusters
                .get(name)
                .is_some_and(|one| crate::dns::is_named(one))
        });
        let mut update = Update::default();
        // Under the cluster's name, where the decisions look for them; a changed cluster keeps its hosts
        // until its names are resolved anew.
        for (name, endpoints) in &resolutions.0 {
            let endpoints = Some(endpoints.clone());
            update.endpoints.push((name.clone(), endpoints));
        }
        let generation = raw.generation;
        let snapshot = if update.is_empty() {
            raw.clone()
        } else {
            raw.with(&update)
        };
        let now = self.now();
        self.live
            .send_modify(|live| *live = Arc::new(live.update(snapshot, now)));
        tracing::debug!(generation, "configuration in force");
    }

    /// Takes secrets.
    pub fn set_secrets(&self, secrets: &Secrets) {
        let mut current = lock(&self.secrets);
        if *current.1 != *secrets {
            *current = (current.0 + 1, Arc::new(secrets.clone()));
        }
    }

    /// Secrets with a number that rises with every change.
    #[must_use]
    pub fn secrets(&self) -> (u64, Arc<Secrets>) {
        lock(&self.secrets).clone()
    }

    /// A new worker's metrics.
    #[must_use]
    pub fn new_metrics(&self) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::default());
        lock(&self.metrics).push(metrics.clone());
        metrics
    }

    /// Istio's metrics of all workers.
    #[must_use]
    pub fn istio(&self) -> BTreeMap<Labels, Series> {
        let mut all = BTreeMap::new();
        for metrics in lock(&self.metrics).iter() {
            metrics.merge_into(&mut all);
        }
        all
    }

    /// What is known of the control plane.
    #[must_use]
    pub fn control_plane(&self) -> ControlPlane {
        lock(&self.control_plane).clone()
    }

    pub(crate) fn xds_connected(&self, server: &str) {
        lock(&self.control_plane).server = Some(server.to_owned());
    }

    pub(crate) fn xds_disconnected(&self, _server: &str, _reason: &str) {
        let mut control_plane = lock(&self.control_plane);
        if control_plane.server.take().is_some() {
            control_plane.disconnects += 1;
        }
    }

    pub(crate) fn xds_received(&self, kind: Option<Kind>, version: &str, errors: &[String]) {
        let mut control_plane = lock(&self.control_plane);
        if errors.is_empty() {
            control_plane.accepted += 1;
            if let Some(kind) = kind {
                control_plane
                    .versions
                    .insert(kind.service(), version.to_owned());
            }
        } else {
            control_plane.rejected += 1;
            control_plane.last_rejection = errors.first().cloned();
        }
    }

    /// The configuration is complete for the first time.
    pub fn configured(&self) {
        self.configured.store(true, Ordering::Release);
    }

    pub(crate) fn worker_starts(&self) {
        self.workers.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn worker_listens(&self) {
        self.workers_listening.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it is configured, listens where there is anything to listen for, and is not going away.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let workers = self.workers.load(Ordering::Acquire);
        self.configured.load(Ordering::Acquire)
            && workers > 0
            && (self.workers_listening.load(Ordering::Acquire) >= workers || !self.has_listeners())
            && !self.draining.load(Ordering::Acquire)
    }

    /// Says that it is going away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn connection_opened(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn connection_closed(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    /// Connections of clients.
    #[must_use]
    pub fn active_connections(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }
}
