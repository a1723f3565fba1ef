//! What is known of the configuration, put together: a cluster counts once its endpoints are there, a listener once
//! its routes and secrets are (Envoy's warming). Until then what was before stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_proxy_decide::config::{
    Cluster, ClusterKind, Endpoints, Filter, Listener, RouteConfiguration, RouteSource,
    SecretSource, Snapshot, Update,
};
use trireme_xds::Kind;
use trireme_xds::parse::{Parsed, SecretContent};

use crate::tls::{Secret, Secrets};

/// Everything the servers sent, ready or not.
#[derive(Debug, Default)]
pub struct Known {
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    endpoints: BTreeMap<Arc<str>, Arc<Endpoints>>,
    listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    routes: BTreeMap<Arc<str>, Arc<RouteConfiguration>>,
    /// Secrets by name.
    pub secrets: Secrets,
    /// Asked for, and not there after Envoy's initial fetch timeout: not waited for any longer.
    absent: BTreeSet<(Kind, Arc<str>)>,
}

fn sds(source: &SecretSource, into: &mut BTreeSet<Arc<str>>) {
    if let SecretSource::Sds(name) = source {
        into.insert(name.clone());
    }
}

fn listener_needs(listener: &Listener) -> (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) {
    let (mut routes, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for chain in listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain)
    {
        if let Filter::Http(manager) = &chain.filter
            && let RouteSource::Rds(name) = &manager.routes
        {
            routes.insert(name.clone());
        }
        if let Some(tls) = &chain.tls {
            for (certificate, key) in &tls.certificates {
                sds(certificate, &mut secrets);
                sds(key, &mut secrets);
            }
            if let Some(source) = tls
                .validation
                .as_ref()
                .and_then(|context| context.trusted_ca.as_ref())
            {
                sds(source, &mut secrets);
            }
        }
    }
    (routes, secrets)
}

fn cluster_secrets(cluster: &Cluster) -> BTreeSet<Arc<str>> {
    let mut secrets = BTreeSet::new();
    for tls in cluster.tls.iter().chain(
        cluster
            .tls_matches
            .iter()
            .filter_map(|one| one.tls.as_ref()),
    ) {
        if let Some((certificate, key)) = &tls.certificate {
            sds(certificate, &mut secrets);
            sds(key, &mut secrets);
        }
        if let Some(source) = tls
            .validation
            .as_ref()
            .and_then(|context| context.trusted_ca.as_ref())
        {
            sds(source, &mut secrets);
        }
    }
    secrets
}

fn secret(content: &SecretContent) -> Secret {
    let empty: Arc<[u8]> = Arc::from([].as_slice());
    let inline = |source: &SecretSource| match source {
        SecretSource::Inline(bytes) => bytes.clone(),
        SecretSource::File(path) => {
            std::fs::read(&**path).map_or_else(|_| empty.clone(), Into::into)
        }
        SecretSource::Sds(_) => empty.clone(),
    };
    let mut made = Secret {
        certificate_chain: empty.clone(),
        private_key: empty.clone(),
        trusted_ca: empty.clone(),
    };
    match content {
        SecretContent::Certificate { chain, key } => {
            made.certificate_chain = inline(chain);
            made.private_key = inline(key);
        }
        SecretContent::Validation(context) => {
            if let Some(source) = &context.trusted_ca {
                made.trusted_ca = inline(source);
            }
        }
    }
    made
}

impl Known {
    /// Takes a resource that arrived.
    pub fn put(&mut self, parsed: Parsed) {
        match parsed {
            Parsed::Cluster(cluster) => {
                self.clusters.insert(cluster.name.clone(), cluster);
            }
            Parsed::Endpoints(endpoints) => {
                self.endpoints.insert(endpoints.name.clone(), endpoints);
            }
            Parsed::Listener(listener) => {
                self.listeners.insert(listener.name.clone(), listener);
            }
            Parsed::Routes(routes) => {
                self.routes.insert(routes.name.clone(), routes);
            }
            Parsed::Secret(parsed) => {
                self.secrets
                    .insert(parsed.name.clone(), Arc::new(secret(&parsed.content)));
            }
        }
    }

    /// Forgets a resource that is gone.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Cluster => drop(self.clusters.remove(name)),
            Kind::Endpoint => drop(self.endpoints.remove(name)),
            Kind::Listener => drop(self.listeners.remove(name)),
            Kind::Route => drop(self.routes.remove(name)),
            Kind::Secret => drop(self.secrets.remove(name)),
        }
    }

    /// Stops waiting for a resource that did not come.
    pub fn give_up(&mut self, kind: Kind, name: Arc<str>) {
        self.absent.insert((kind, name));
    }

    fn has(&self, kind: Kind, name: &Arc<str>) -> bool {
        let there = match kind {
            Kind::Endpoint => self.endpoints.contains_key(name),
            Kind::Route => self.routes.contains_key(name),
            Kind::Secret => self.secrets.contains_key(name),
            Kind::Cluster => self.clusters.contains_key(name),
            Kind::Listener => self.listeners.contains_key(name),
        };
        there || self.absent.contains(&(kind, name.clone()))
    }

    /// The names that have to be subscribed to.
    #[must_use]
    pub fn wanted(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        match kind {
            Kind::Cluster | Kind::Listener => BTreeSet::new(),
            Kind::Endpoint => {
                let clusters = self
                    .clusters
                    .values()
                    .filter(|cluster| cluster.kind == ClusterKind::Eds);
                clusters
                    .map(|cluster| cluster.endpoints_name().clone())
                    .collect()
            }
            Kind::Route => self
                .listeners
                .values()
                .flat_map(|listener| listener_needs(listener).0)
                .collect(),
            Kind::Secret => {
                let listeners = self
                    .listeners
                    .values()
                    .flat_map(|listener| listener_needs(listener).1);
                listeners
                    .chain(
                        self.clusters
                            .values()
                            .flat_map(|cluster| cluster_secrets(cluster)),
                    )
                    .collect()
            }
        }
    }

    /// What is waited for.
    #[must_use]
    pub fn missing(&self) -> Vec<(Kind, Arc<str>)> {
        let mut missing = Vec::new();
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            missing.extend(
                self.wanted(kind)
                    .into_iter()
                    .filter(|name| !self.has(kind, name))
                    .map(|name| (kind, name)),
            );
        }
        missing
    }

    /// Drops what nothing refers to any more.
    pub fn prune(&mut self) {
        let endpoints = self.wanted(Kind::Endpoint);
        self.endpoints.retain(|name, _| endpoints.contains(name));
        let routes = self.wanted(Kind::Route);
        self.routes.retain(|name, _| routes.contains(name));
        let secrets = self.wanted(Kind::Secret);
        self.secrets.retain(|name, _| secrets.contains(name));
    }

    fn cluster_ready(&self, cluster: &Cluster) -> bool {
        let endpoints =
            cluster.kind != ClusterKind::Eds || self.has(Kind::Endpoint, cluster.endpoints_name());
        endpoints
            && cluster_secrets(cluster)
                .iter()
                .all(|name| self.has(Kind::Secret, name))
    }

    fn listener_ready(&self, listener: &Listener) -> bool {
        let (routes, secrets) = listener_needs(listener);
        routes.iter().all(|name| self.has(Kind::Route, name))
            && secrets.iter().all(|name| self.has(Kind::Secret, name))
    }

    /// What changes from the snapshot in force to what is ready now.
    #[must_use]
    pub fn update(&self, current: &Snapshot) -> Update {
        let mut update = Update::default();
        changes(
            &self.clusters,
            &current.clusters,
            |cluster| self.cluster_ready(cluster),
            &mut update.clusters,
        );
        changes(
            &self.endpoints,
            &current.endpoints,
            |_| true,
            &mut update.endpoints,
        );
        changes(
            &self.listeners,
            &current.listeners,
            |listener| self.listener_ready(listener),
            &mut update.listeners,
        );
        changes(&self.routes, &current.routes, |_| true, &mut update.routes);
        update
    }
}

fn changes<T: PartialEq>(
    known: &BTreeMap<Arc<str>, Arc<T>>,
    current: &BTreeMap<Arc<str>, Arc<T>>,
    ready: impl Fn(&T) -> bool,
    into: &mut Vec<(Arc<str>, Option<Arc<T>>)>,
) {
    for (name, value) in known {
        let same = current
            .get(name)
            .is_some_and(|old| Arc::ptr_eq(old, value) || **old == **value);
        if !same && ready(value) {
            into.push((name.clone(), Some(value.clone())));
        }
    }
    for name in current.keys().filter(|name| !known.contains_key(*name)) {
        into.push((name.clone(), None));
    }
}
