//! Small configurations for tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use trireme_proxy_decide::config::{
    Cluster, ClusterKind, ClusterSpecifier, Endpoint, Endpoints, HttpConnectionManager, Labels,
    LocalityEndpoints, PathMatch, Route, RouteAction, RouteConfiguration, RouteForward, RouteMatch,
    RouteParts, RouteSource, Snapshot, VirtualHost,
};
use trireme_proxy_decide::exchange::{Connection, Protocol};

/// A random number generator from a seed.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `10.0.0.n:80`.
pub fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

/// Endpoints in one place of priority 0 with these weights, numbered from 1.
pub fn endpoints(name: &str, weights: &[u32]) -> Endpoints {
    let labels = Arc::new(Labels::default());
    let mut endpoints = Endpoints::new(name);
    endpoints.localities.push(LocalityEndpoints {
        endpoints: weights
            .iter()
            .zip(1u8..)
            .map(|(weight, n)| Endpoint {
                weight: *weight,
                ..Endpoint::new(address(n), labels.clone())
            })
            .collect(),
        ..LocalityEndpoints::default()
    });
    endpoints
}

/// A static cluster over `hosts` endpoints of weight 1.
pub fn cluster(name: &str, hosts: u8) -> Cluster {
    Cluster {
        endpoints: Some(Arc::new(endpoints(name, &vec![1; usize::from(hosts)]))),
        ..Cluster::new(name, ClusterKind::Static)
    }
}

/// A route of a path prefix.
pub fn route(prefix: &str, action: RouteAction) -> Route {
    Route {
        name: Arc::from(prefix),
        matches: RouteMatch::path(PathMatch::Prefix(Arc::from(prefix))),
        action,
        headers: Default::default(),
        filters: Default::default(),
        request_body_buffer_limit: None,
        origin: None,
    }
}

/// A forwarding action to one cluster.
pub fn forward(cluster: &str) -> RouteForward {
    RouteForward {
        timeout: Some(Duration::ZERO),
        ..RouteForward::new(ClusterSpecifier::Cluster(Arc::from(cluster)))
    }
}

/// A virtual host for everything.
pub fn everything(routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: Arc::from("all"),
        domains: vec![Arc::from("*")],
        routes: routes.into_iter().map(Arc::new).collect(),
        ..VirtualHost::default()
    }
}

/// A route configuration of these virtual hosts.
pub fn routes(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration::new(RouteParts {
        name: Arc::from("routes"),
        virtual_hosts,
        ..RouteParts::default()
    })
    .expect("a valid route configuration")
}

/// A snapshot of clusters and the route configuration `routes`.
pub fn snapshot(clusters: Vec<Cluster>, configuration: RouteConfiguration) -> Snapshot {
    let mut snapshot = Snapshot::default().with_routes(configuration);
    for cluster in clusters {
        snapshot = snapshot.with_cluster(cluster);
    }
    snapshot
}

/// A connection manager that takes the route configuration `routes`.
pub fn hcm() -> HttpConnectionManager {
    HttpConnectionManager::new("test", RouteSource::Rds(Arc::from("routes")))
}

/// A client's connection.
pub fn connection(hcm: HttpConnectionManager) -> Arc<Connection> {
    Arc::new(Connection::new(
        Arc::new(hcm),
        SocketAddr::from(([10, 1, 0, 1], 40_000)),
        SocketAddr::from(([10, 2, 0, 1], 80)),
        Protocol::Http11,
    ))
}
