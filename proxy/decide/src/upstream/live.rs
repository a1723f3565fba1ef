//! The configuration in force, with the running state of its clusters.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rand_core::RngCore;

use super::cluster::ClusterState;
use crate::config::{Cluster, ClusterSpecifier, Endpoints, RouteAction, Snapshot};
use crate::names::Names;
use crate::outlier::Change;
use crate::planted;
use crate::time::Nanos;

/// A cluster whose state is made when the first request needs it: a proxy that calls five of a
/// thousand services pays for five.
#[derive(Debug)]
struct Slot {
    config: Arc<Cluster>,
    endpoints: Option<Arc<Endpoints>>,
    state: OnceLock<Arc<ClusterState>>,
}

/// The configuration in force with the running state of its clusters: immutable in its shape,
/// replaced as a whole. Routes, clusters and endpoints of one `Live` belong together.
#[derive(Debug)]
pub struct Live {
    snapshot: Snapshot,
    names: Arc<Names>,
    slots: Vec<Arc<Slot>>,
}

impl Default for Live {
    fn default() -> Live {
        Live::new(Snapshot::default(), Nanos::ZERO)
    }
}

impl Live {
    /// A first configuration.
    #[must_use]
    pub fn new(snapshot: Snapshot, now: Nanos) -> Live {
        Live {
            snapshot: Snapshot::default(),
            names: Arc::new(Names::default()),
            slots: Vec::new(),
        }
        .update(snapshot, now)
    }

    /// The configuration that follows this one; clusters that did not change are shared, hosts,
    /// limits and ejections of those that did are kept.
    #[must_use]
    pub fn update(&self, snapshot: Snapshot, now: Nanos) -> Live {
        if planted::on(planted::Bug::NonAtomicSubsetSwitch) && !self.snapshot.routes.is_empty() {
            // Routes first; clusters that they are the first to name with the next update.
            let mut clusters = BTreeMap::clone(&snapshot.clusters);
            clusters
                .retain(|name, _| self.snapshot.clusters.contains_key(name) || self.names(name));
            let half = Snapshot {
                clusters: Arc::new(clusters),
                ..snapshot
            };
            return self.assemble(half, now);
        }
        self.assemble(snapshot, now)
    }

    fn assemble(&self, snapshot: Snapshot, now: Nanos) -> Live {
        let same_names = Arc::ptr_eq(&snapshot.clusters, &self.snapshot.clusters)
            || (snapshot.clusters.len() == self.snapshot.clusters.len()
                && snapshot.clusters.keys().eq(self.snapshot.clusters.keys()));
        let names = if same_names {
            self.names.clone()
        } else {
            Arc::new(Names::new(snapshot.clusters.keys().cloned()))
        };
        let slots = snapshot
            .clusters
            .values()
            .map(|cluster| {
                let endpoints = snapshot.endpoints_of(cluster).cloned();
                let before = self.slot(&cluster.name);
                match before {
                    Some(slot)
                        if Arc::ptr_eq(&slot.config, cluster)
                            && same(slot.endpoints.as_ref(), endpoints.as_ref()) =>
                    {
                        slot.clone()
                    }
                    _ => {
                        let state = OnceLock::new();
                        // Hosts of a cluster in use, or whose age will count, are known from now.
                        if let Some(old) = before.and_then(|slot| slot.state.get()) {
                            let _ = state.set(Arc::new(ClusterState::new(
                                cluster.clone(),
                                endpoints.clone(),
                                Some(old),
                                now,
                            )));
                        } else if crate::balance::has_slow_start(&cluster.lb) {
                            let _ = state.set(Arc::new(ClusterState::new(
                                cluster.clone(),
                                endpoints.clone(),
                                None,
                                now,
                            )));
                        }
                        Arc::new(Slot {
                            config: cluster.clone(),
                            endpoints,
                            state,
                        })
                    }
                }
            })
            .collect();
        Live {
            snapshot,
            names,
            slots,
        }
    }

    /// The configuration.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A cluster's state, made where this is its first use; none where there is no such cluster.
    #[must_use]
    pub fn cluster(&self, name: &str, now: Nanos) -> Option<&Arc<ClusterState>> {
        let slot = self.slot(name)?;
        Some(slot.state.get_or_init(|| {
            Arc::new(ClusterState::new(
                slot.config.clone(),
                slot.endpoints.clone(),
                None,
                now,
            ))
        }))
    }

    /// Clusters in use.
    pub fn in_use(&self) -> impl Iterator<Item = &Arc<ClusterState>> {
        self.slots.iter().filter_map(|slot| slot.state.get())
    }

    /// When the next sweep of any cluster's outlier detection is due.
    #[must_use]
    pub fn next_sweep(&self) -> Option<Nanos> {
        self.in_use()
            .filter_map(|cluster| cluster.detector())
            .map(|detector| detector.next_sweep())
            .min()
    }

    /// Sweeps where it is time; what changed.
    pub fn sweep(&self, now: Nanos, rng: &mut dyn RngCore) -> Vec<Change> {
        self.in_use()
            .filter_map(|cluster| cluster.detector())
            .flat_map(|detector| detector.sweep(now, rng))
            .collect()
    }

    /// Whether a route leads to this cluster.
    fn names(&self, cluster: &str) -> bool {
        let hosts = self.snapshot.routes.values();
        let hosts = hosts.flat_map(|routes| &routes.virtual_hosts);
        let mut actions = hosts
            .flat_map(|host| &host.routes)
            .map(|route| &route.action);
        actions.any(|action| match action {
            RouteAction::Forward(forward) => match &forward.cluster {
                ClusterSpecifier::Cluster(name) => **name == *cluster,
                ClusterSpecifier::Weighted(weighted) => {
                    weighted.clusters.iter().any(|one| *one.name == *cluster)
                }
                ClusterSpecifier::Header(_) => false,
            },
            _ => false,
        })
    }

    fn slot(&self, name: &str) -> Option<&Arc<Slot>> {
        self.slots.get(self.names.find(name)?)
    }
}

fn same(one: Option<&Arc<Endpoints>>, other: Option<&Arc<Endpoints>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        (None, None) => true,
        _ => false,
    }
}
