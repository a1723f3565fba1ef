//! A client as Envoy is one, and a world that it is told of.
//!
//! The world: route configurations that lead to one cluster each, a listener for each route
//! configuration, and the clusters that the routes lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_xds::Kind;
use trireme_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::pb::google::rpc;
use trireme_xds_server::session::{Protocol, Response, Session, version};
use trireme_xds_server::{ChangeLog, KindStatus, Resource, Resources, View};

fn resource(kind: Kind, name: &str, content: &str) -> Resource {
    let mut resource = Resource::new(
        name,
        Any {
            type_url: kind.type_url().into(),
            value: content.as_bytes().to_vec(),
        },
    );
    resource.endpoints = (kind == Kind::Cluster).then(|| name.into());
    resource
}

#[derive(Default)]
pub struct World {
    /// Cluster and more text by route configuration.
    routes: BTreeMap<String, (String, String)>,
    cluster_versions: BTreeMap<String, u32>,
    endpoint_versions: BTreeMap<String, u32>,
    clusters: Arc<Resources>,
    listeners: Arc<Resources>,
    route_table: Resources,
    endpoint_table: Resources,
    route_log: ChangeLog,
    endpoint_log: ChangeLog,
}

impl World {
    pub fn set_route(&mut self, route: &str, cluster: &str) {
        self.set_route_text(route, cluster, "");
    }

    pub fn set_route_text(&mut self, route: &str, cluster: &str, text: &str) {
        self.routes
            .insert(route.to_owned(), (cluster.to_owned(), text.to_owned()));
        self.build();
    }

    pub fn remove_route(&mut self, route: &str) {
        self.routes.remove(route);
        self.build();
    }

    /// Another text, where there is such a route.
    pub fn touch_route(&mut self, route: &str) {
        if let Some((_, text)) = self.routes.get_mut(route) {
            text.push_str(" touched");
        }
        self.build();
    }

    pub fn set_cluster(&mut self, cluster: &str, version: u32) {
        self.cluster_versions.insert(cluster.to_owned(), version);
        self.build();
    }

    pub fn set_endpoints(&mut self, cluster: &str, version: u32) {
        self.endpoint_versions.insert(cluster.to_owned(), version);
        self.build();
    }

    fn build(&mut self) {
        let used: BTreeSet<&String> = self.routes.values().map(|(cluster, _)| cluster).collect();
        let clusters: Resources = used
            .iter()
            .map(|name| {
                let version = self.cluster_versions.get(*name).copied().unwrap_or(0);
                let one = resource(Kind::Cluster, name, &format!("{name} {version}"));
                (one.name.clone(), Arc::new(one))
            })
            .collect();
        let listeners: Resources = self
            .routes
            .keys()
            .map(|route| {
                let one = resource(Kind::Listener, &format!("l-{route}"), route);
                (one.name.clone(), Arc::new(one))
            })
            .collect();
        let routes: Resources = self
            .routes
            .iter()
            .map(|(route, (cluster, text))| {
                let one = resource(Kind::Route, route, &format!("{cluster} {text}"));
                (one.name.clone(), Arc::new(one))
            })
            .collect();
        let mut names: BTreeSet<&str> = self.endpoint_versions.keys().map(String::as_str).collect();
        names.extend(used.iter().map(|name| name.as_str()));
        let endpoints: Resources = names
            .into_iter()
            .map(|name| {
                let version = self.endpoint_versions.get(name).copied().unwrap_or(0);
                let one = resource(Kind::Endpoint, name, &format!("{name} {version}"));
                (one.name.clone(), Arc::new(one))
            })
            .collect();
        if clusters != *self.clusters {
            self.clusters = Arc::new(clusters);
        }
        if listeners != *self.listeners {
            self.listeners = Arc::new(listeners);
        }
        note(&mut self.route_log, &self.route_table, &routes);
        note(&mut self.endpoint_log, &self.endpoint_table, &endpoints);
        self.route_table = routes;
        self.endpoint_table = endpoints;
    }

    pub fn next(&mut self, session: &mut Session) -> Option<Response> {
        session.next(self)
    }

    /// Versions of everything of a kind.
    pub fn expected(&self, kind: Kind) -> BTreeMap<String, u64> {
        let table = match kind {
            Kind::Cluster => &*self.clusters,
            Kind::Listener => &*self.listeners,
            Kind::Route => &self.route_table,
            _ => &self.endpoint_table,
        };
        versions(table)
    }

    /// Versions of what a client that follows references needs of a kind.
    pub fn needed(&self, kind: Kind, client: &Client) -> BTreeMap<String, u64> {
        let mut all = self.expected(kind);
        if kind == Kind::Endpoint {
            all.retain(|name, _| client.held(Kind::Cluster).contains_key(name));
        }
        all
    }
}

fn versions(table: &Resources) -> BTreeMap<String, u64> {
    let pairs = table.iter();
    pairs
        .map(|(name, one)| (name.to_string(), one.version))
        .collect()
}

fn note(log: &mut ChangeLog, before: &Resources, after: &Resources) {
    let names: BTreeSet<&Arc<str>> = before.keys().chain(after.keys()).collect();
    for name in names {
        if before.get(name) != after.get(name) {
            log.note(name.clone());
        }
    }
}

impl View for World {
    fn all(&mut self, kind: Kind) -> Option<Arc<Resources>> {
        match kind {
            Kind::Cluster => Some(self.clusters.clone()),
            Kind::Listener => Some(self.listeners.clone()),
            _ => None,
        }
    }

    fn get(&mut self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        match kind {
            Kind::Cluster => self.clusters.get(name).cloned(),
            Kind::Listener => self.listeners.get(name).cloned(),
            Kind::Route => self.route_table.get(name).cloned(),
            _ => self.endpoint_table.get(name).cloned(),
        }
    }

    fn generation(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Route => self.route_log.generation(),
            _ => self.endpoint_log.generation(),
        }
    }

    fn changed_since(&self, kind: Kind, generation: u64) -> Option<Vec<Arc<str>>> {
        match kind {
            Kind::Route => self.route_log.since(generation),
            _ => self.endpoint_log.since(generation),
        }
    }
}

/// Takes in what it is sent as Envoy does: after clusters it asks for their endpoints before it
/// acknowledges, after listeners for their routes.
pub struct Client {
    protocol: Protocol,
    session: Session,
    held: BTreeMap<Kind, BTreeMap<String, Resource>>,
    asked: BTreeMap<Kind, BTreeSet<String>>,
    nonces: BTreeMap<Kind, u64>,
    refers: fn(&Resource) -> Vec<String>,
    /// Whether routes are those of a [`World`].
    checks: bool,
}

/// What a cluster or listener of a [`World`] refers to: endpoints of its own name, its routes.
fn of_world(resource: &Resource) -> Vec<String> {
    vec![resource.name.trim_start_matches("l-").to_owned()]
}

impl Client {
    pub fn new(protocol: Protocol) -> Client {
        Client {
            checks: true,
            ..Client::reading(protocol, of_world)
        }
    }

    /// A client that finds names of endpoints in clusters and of routes in listeners by `refers`.
    pub fn reading(protocol: Protocol, refers: fn(&Resource) -> Vec<String>) -> Client {
        Client {
            refers,
            checks: false,
            protocol,
            session: Session::new(protocol),
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            nonces: BTreeMap::new(),
        }
    }

    pub fn held(&self, kind: Kind) -> BTreeMap<String, u64> {
        let held = self.held.get(&kind).into_iter().flatten();
        held.map(|(name, one)| (name.clone(), one.version))
            .collect()
    }

    pub fn status(&self, kind: Kind) -> KindStatus {
        let all = self.session.status();
        all.into_iter()
            .find(|one| one.kind == kind)
            .expect("asked for")
    }

    /// Asks for clusters and listeners.
    pub fn connect(&mut self) {
        for kind in [Kind::Cluster, Kind::Listener] {
            self.ask(kind, None, &[], &[]);
        }
    }

    /// A new stream, on which it says what it has. In the state of the world it cannot: there it
    /// begins as one that has just started.
    pub fn reconnect(&mut self) {
        self.session = Session::new(self.protocol);
        self.nonces.clear();
        if self.protocol == Protocol::StateOfTheWorld {
            self.held.clear();
            self.asked.clear();
        }
        self.connect();
        for kind in [Kind::Endpoint, Kind::Route] {
            if let Some(names) = self.asked.get(&kind).cloned() {
                let names: Vec<String> = names.into_iter().collect();
                self.ask(kind, None, &names, &[]);
            }
        }
    }

    pub fn next(&mut self, view: &mut dyn View) -> Option<Response> {
        self.session.next(view)
    }

    /// What it is subscribed to of a kind, by name.
    pub fn asked(&self, kind: Kind) -> BTreeSet<String> {
        self.asked.get(&kind).cloned().unwrap_or_default()
    }

    /// Takes a response in, or refuses it.
    pub fn take(&mut self, response: &Response, refusal: Option<&str>) {
        let kind = response.kind;
        self.nonces.insert(kind, response.nonce);
        if refusal.is_none() {
            let held = self.held.entry(kind).or_default();
            if self.protocol == Protocol::StateOfTheWorld && kind.is_complete() {
                held.clear();
            }
            let asked = self.asked.get(&kind);
            for one in &response.resources {
                // What was under way when it was unsubscribed from is passed over.
                if kind.is_complete() || asked.is_some_and(|asked| asked.contains(&*one.name)) {
                    held.insert(one.name.to_string(), Resource::clone(one));
                }
            }
            for name in &response.removed {
                held.remove(&**name);
            }
            match kind {
                Kind::Cluster => self.follow(Kind::Endpoint, Kind::Cluster),
                Kind::Listener => self.follow(Kind::Route, Kind::Listener),
                _ => {}
            }
            if self.checks {
                self.check();
            }
        }
        self.ask(kind, refusal, &[], &[]);
    }

    /// Every route leads to a cluster that is there.
    fn check(&self) {
        let clusters = self.held(Kind::Cluster);
        for (name, route) in self.held.get(&Kind::Route).into_iter().flatten() {
            let text = String::from_utf8_lossy(&route.body.value).into_owned();
            let cluster = text.split(' ').next().unwrap_or_default();
            assert!(
                clusters.contains_key(cluster),
                "route {name} leads to {cluster}, which is not among {clusters:?}"
            );
        }
    }

    /// Asks for what `of` refers to and no longer for what it does not.
    fn follow(&mut self, kind: Kind, of: Kind) {
        let refers = self.refers;
        let held = self.held.get(&of).into_iter().flatten();
        let wanted: BTreeSet<String> = held.flat_map(|(_, one)| refers(one)).collect();
        let before = self.asked.insert(kind, wanted.clone()).unwrap_or_default();
        let added: Vec<String> = wanted.difference(&before).cloned().collect();
        let gone: Vec<String> = before.difference(&wanted).cloned().collect();
        let held = self.held.entry(kind).or_default();
        held.retain(|name, _| wanted.contains(name));
        if !added.is_empty() || !gone.is_empty() {
            self.ask(kind, None, &added, &gone);
        }
    }

    fn ask(&mut self, kind: Kind, refusal: Option<&str>, added: &[String], gone: &[String]) {
        let error_detail = refusal.map(|words| rpc::Status {
            code: 13,
            message: words.to_owned(),
            ..rpc::Status::default()
        });
        let nonce = self.nonces.get(&kind).map(u64::to_string);
        let type_url = kind.type_url().to_owned();
        let taken = match self.protocol {
            Protocol::StateOfTheWorld => {
                let names = self.asked.get(&kind).cloned().unwrap_or_default();
                self.session.on_request(&DiscoveryRequest {
                    type_url,
                    resource_names: names.into_iter().collect(),
                    response_nonce: nonce.unwrap_or_default(),
                    error_detail,
                    ..DiscoveryRequest::default()
                })
            }
            Protocol::Delta => {
                let asks = !added.is_empty() || !gone.is_empty();
                let first = nonce.is_none();
                let held = self.held.get(&kind).filter(|_| first).into_iter().flatten();
                self.session.on_delta(&DeltaDiscoveryRequest {
                    type_url,
                    resource_names_subscribe: added.to_vec(),
                    resource_names_unsubscribe: gone.to_vec(),
                    initial_resource_versions: held
                        .map(|(name, one)| (name.clone(), version(one.version)))
                        .collect(),
                    // A change of names alone is no answer.
                    response_nonce: nonce.filter(|_| !asks).unwrap_or_default(),
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                })
            }
        };
        taken.expect("our own requests are valid");
    }

    /// Takes everything in; answers what came.
    pub fn drain(&mut self, world: &mut dyn View) -> Vec<Response> {
        self.exchange(world, |_| None)
    }

    /// Takes or refuses everything that comes.
    pub fn exchange(
        &mut self,
        world: &mut dyn View,
        refusal: impl Fn(Kind) -> Option<&'static str>,
    ) -> Vec<Response> {
        let mut sent = Vec::new();
        // A response of each kind may be under way before the first is answered.
        loop {
            let mut round = Vec::new();
            while let Some(response) = self.next(world) {
                round.push(response);
            }
            if round.is_empty() {
                return sent;
            }
            assert!(sent.len() < 100, "it does not end: {sent:?}");
            for response in round {
                self.take(&response, refusal(response.kind));
                sent.push(response);
            }
        }
    }
}
