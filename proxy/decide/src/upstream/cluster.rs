//! One cluster as it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use rand_core::RngCore;

use super::host::Host;
use super::members::Members;
use super::stats::ClusterStats;
use crate::balance::{Choice, Subsets};
use crate::breaker::{Breaker, Counts};
use crate::config::{Cluster, ClusterKind, Endpoint, Endpoints, Labels, Locality};
use crate::outlier::{Change, Detector, Outcome};
use crate::planted;
use crate::time::Nanos;

/// Hosts by original destination that a cluster remembers; past this, those without requests
/// are forgotten first (Envoy forgets those not used within its clean-up interval).
const ORIGINAL_DESTINATIONS_MAX: usize = 4096;

/// One cluster as it runs. A new version of its configuration or endpoints makes a new state that
/// shares hosts, counts, statistics and detector with the one before.
#[derive(Debug)]
pub struct ClusterState {
    /// The configuration.
    pub config: Arc<Cluster>,
    /// The limits.
    pub breaker: Breaker,
    /// Counters.
    pub stats: Arc<ClusterStats>,
    /// Hosts by priority and place.
    pub members: Arc<Members>,
    endpoints: Option<Arc<Endpoints>>,
    balancer: Subsets,
    detector: Option<Arc<Detector>>,
    /// Rises with every change of a host's health.
    generation: Arc<AtomicU64>,
    destinations: Arc<Mutex<BTreeMap<SocketAddr, Arc<Host>>>>,
}

impl ClusterState {
    /// The state of `config` with `endpoints`, taking over what it can from `before`.
    #[must_use]
    pub fn new(
        config: Arc<Cluster>,
        endpoints: Option<Arc<Endpoints>>,
        before: Option<&ClusterState>,
        now: Nanos,
    ) -> ClusterState {
        let members = match (&endpoints, before) {
            (Some(endpoints), Some(before))
                if planted::on(planted::Bug::StaleEndpointAfterDrain)
                    && before.members.len()
                        > endpoints.localities.iter().map(|l| l.endpoints.len()).sum() =>
            {
                before.members.clone()
            }
            (Some(endpoints), _) => Arc::new(Members::new(
                endpoints,
                before.map(|before| &*before.members),
                now,
            )),
            // Endpoints not (yet) known: what was known goes on, as in Envoy until a new
            // cluster is warm.
            (None, Some(before)) if before.config.kind == config.kind => before.members.clone(),
            (None, _) => Arc::new(Members::default()),
        };
        let generation = before.map_or_else(Arc::default, |before| before.generation.clone());
        let detector = config.outlier.map(|settings| {
            let hosts: Vec<Arc<Host>> = members.iter().cloned().collect();
            match before.and_then(|before| before.detector.as_ref()) {
                Some(detector) if *detector.config() == settings => {
                    detector.set_hosts(hosts);
                    detector.clone()
                }
                _ => Arc::new(Detector::new(settings, hosts, generation.clone(), now)),
            }
        });
        if detector.is_none() {
            // Nobody would ever bring them back.
            members.iter().for_each(|host| host.monitor.release());
        }
        let counts: Arc<Counts> =
            before.map_or_else(Arc::default, |before| before.breaker.counts().clone());
        ClusterState {
            breaker: Breaker::new(config.thresholds, counts),
            stats: before.map_or_else(Arc::default, |before| before.stats.clone()),
            balancer: Subsets::new(&config, members.clone()),
            destinations: before.map_or_else(Arc::default, |before| before.destinations.clone()),
            members,
            endpoints,
            detector,
            generation,
            config,
        }
    }

    /// The configured endpoints that it runs with.
    #[must_use]
    pub fn endpoints(&self) -> Option<&Arc<Endpoints>> {
        self.endpoints.as_ref()
    }

    /// The outlier detector; none where detection is off.
    #[must_use]
    pub fn detector(&self) -> Option<&Arc<Detector>> {
        self.detector.as_ref()
    }

    /// Chooses a host; none where there is none to choose.
    pub fn choose(
        &self,
        choice: &Choice<'_>,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Arc<Host>> {
        let host = if self.config.kind == ClusterKind::OriginalDst {
            self.destination(choice.destination?, now)
        } else {
            self.balancer
                .choose(choice, &self.generation, &self.stats, now, rng)
        };
        if host.is_none() {
            ClusterStats::inc(&self.stats.upstream_cx_none_healthy);
        }
        host
    }

    /// Tells the detector what happened; what it did.
    pub fn report(
        &self,
        host: &Arc<Host>,
        outcome: Outcome,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Change> {
        self.detector.as_ref()?.report(host, outcome, now, rng)
    }

    /// The host of a connection's original destination, made where it is new.
    fn destination(&self, address: SocketAddr, now: Nanos) -> Option<Arc<Host>> {
        let address = match self.config.original_dst_port {
            Some(port) => SocketAddr::new(address.ip(), port),
            None => address,
        };
        let mut known = self
            .destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(&address) {
            return Some(host.clone());
        }
        if known.len() >= ORIGINAL_DESTINATIONS_MAX {
            known.retain(|_, host| host.active() > 0 || host.connections() > 0);
        }
        let endpoint = Endpoint::new(address, Arc::new(Labels::default()));
        let host = Arc::new(Host::new(&endpoint, Arc::new(Locality::default()), 0, now)?);
        if known.len() < ORIGINAL_DESTINATIONS_MAX {
            known.insert(address, host.clone());
        }
        Some(host)
    }
}
