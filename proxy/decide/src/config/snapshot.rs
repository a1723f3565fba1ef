//! All configuration at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cluster, ClusterKind, Endpoints, Listener, RouteConfiguration};

type Table<T> = Arc<BTreeMap<Arc<str>, Arc<T>>>;

/// All configuration at one moment: immutable, shared, replaced as a whole. A request keeps the
/// snapshot it began with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Listeners by name.
    pub listeners: Table<Listener>,
    /// Route configurations by name.
    pub routes: Table<RouteConfiguration>,
    /// Clusters by name.
    pub clusters: Table<Cluster>,
    /// Endpoints by the name asked of endpoint discovery.
    pub endpoints: Table<Endpoints>,
    /// Rises with every change.
    pub generation: u64,
}

/// What changes from one snapshot to the next, all at once. A name with none goes away.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Listeners.
    pub listeners: Vec<(Arc<str>, Option<Arc<Listener>>)>,
    /// Route configurations.
    pub routes: Vec<(Arc<str>, Option<Arc<RouteConfiguration>>)>,
    /// Clusters.
    pub clusters: Vec<(Arc<str>, Option<Arc<Cluster>>)>,
    /// Endpoints.
    pub endpoints: Vec<(Arc<str>, Option<Arc<Endpoints>>)>,
}

impl Update {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.routes.is_empty()
            && self.clusters.is_empty()
            && self.endpoints.is_empty()
    }
}

impl Snapshot {
    /// The snapshot after `update`; tables that it does not touch are shared with this one.
    #[must_use]
    pub fn with(&self, update: &Update) -> Snapshot {
        Snapshot {
            listeners: merge(&self.listeners, &update.listeners),
            routes: merge(&self.routes, &update.routes),
            clusters: merge(&self.clusters, &update.clusters),
            endpoints: merge(&self.endpoints, &update.endpoints),
            generation: self.generation + 1,
        }
    }

    /// With one listener more, or another in its place.
    #[must_use]
    pub fn with_listener(&self, listener: Listener) -> Snapshot {
        self.with(&Update {
            listeners: vec![(listener.name.clone(), Some(Arc::new(listener)))],
            ..Update::default()
        })
    }

    /// With one route configuration more, or another in its place.
    #[must_use]
    pub fn with_routes(&self, routes: RouteConfiguration) -> Snapshot {
        self.with(&Update {
            routes: vec![(routes.name.clone(), Some(Arc::new(routes)))],
            ..Update::default()
        })
    }

    /// With one cluster more, or another in its place.
    #[must_use]
    pub fn with_cluster(&self, cluster: Cluster) -> Snapshot {
        self.with(&Update {
            clusters: vec![(cluster.name.clone(), Some(Arc::new(cluster)))],
            ..Update::default()
        })
    }

    /// With one cluster's endpoints, or others in their place.
    #[must_use]
    pub fn with_endpoints(&self, endpoints: Endpoints) -> Snapshot {
        self.with(&Update {
            endpoints: vec![(endpoints.name.clone(), Some(Arc::new(endpoints)))],
            ..Update::default()
        })
    }

    /// The endpoints that `cluster` uses now: its own, or those that discovery sent. Of a DNS
    /// cluster, those that the driver resolved and put under the cluster's name.
    #[must_use]
    pub fn endpoints_of<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<Endpoints>> {
        match cluster.kind {
            ClusterKind::StrictDns | ClusterKind::LogicalDns => self.endpoints.get(&cluster.name),
            _ => cluster
                .endpoints
                .as_ref()
                .or_else(|| self.endpoints.get(cluster.endpoints_name())),
        }
    }
}

fn merge<T>(table: &Table<T>, changes: &[(Arc<str>, Option<Arc<T>>)]) -> Table<T> {
    if changes.is_empty() {
        return table.clone();
    }
    let mut next = BTreeMap::clone(table);
    for (name, value) in changes {
        match value {
            Some(value) => next.insert(name.clone(), value.clone()),
            None => next.remove(name),
        };
    }
    Arc::new(next)
}
