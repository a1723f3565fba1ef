//! Looks into every proxy after a step, and notes what has changed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trireme_check::traffic::{Host, Outage, Sample, Taken};
use trireme_proxy_decide::breaker::Resource;
use trireme_proxy_decide::config::{ClusterSpecifier, Priority, RouteAction, Snapshot};
use trireme_proxy_decide::upstream::{ClusterState, Live};

use super::objects::{CLUSTERS, MAIN, cluster};
use super::proxy::{Life, Running, name_of};
use super::record::{Record, now_ms};

/// Upstreams by address.
#[derive(Clone, Default)]
pub struct Names(BTreeMap<IpAddr, String>);

impl Names {
    pub fn insert(&mut self, address: IpAddr, name: String) {
        self.0.insert(address, name);
    }

    fn of(&self, address: IpAddr) -> String {
        let known = self.0.get(&address).cloned();
        known.unwrap_or_else(|| address.to_string())
    }

    fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

#[derive(Default)]
pub struct Sampler {
    last: BTreeMap<(u64, &'static str), Sample>,
    /// The newest state of each cluster in the newest life.
    states: BTreeMap<(u64, &'static str), (u64, Arc<ClusterState>)>,
    /// States of clusters that were removed, and may be back in another: what was begun there goes on there.
    former: BTreeMap<(u64, &'static str), Vec<Arc<ClusterState>>>,
}

fn taken(state: &ClusterState) -> Taken {
    let taken = |resource| state.breaker.current(Priority::Default, resource);
    Taken {
        connections: taken(Resource::Connections),
        pending: taken(Resource::Pending),
        requests: taken(Resource::Requests),
        retries: taken(Resource::Retries),
    }
}

impl Sampler {
    pub fn look(&mut self, running: &Running, names: &Names, record: &Record) {
        for (id, life) in running.lock().iter() {
            if life.shared.is_ready() {
                end_outage(*id, record);
            }
            let (live, truth) = (life.shared.live(), life.shared.snapshot());
            // A proxy that has started while a cluster was invalid has no good one that could stay.
            let refused = || life.shared.control_plane().rejected > 0;
            let dangling = dangling(&live).filter(|name| *name != cluster(MAIN) || !refused());
            for name in CLUSTERS {
                let whole = cluster(name);
                let state = live.in_use().find(|state| *state.config.name == *whole);
                let mut sample = sample(*id, life, name, &whole, state, &truth, names);
                sample.dangling.clone_from(&dangling);
                let key = (*id, name);
                sample.waiting += self.former(key, life.number, state);
                self.keep(key, sample, record);
            }
        }
    }

    fn keep(&mut self, key: (u64, &'static str), sample: Sample, record: &Record) {
        let before = self.last.get(&key);
        let same = before.is_some_and(|before| {
            Sample {
                at_ms: before.at_ms,
                ..sample.clone()
            } == *before
        });
        if same {
            return;
        }
        let mut recorded = record.lock();
        let ejected = |sample: &Sample| -> Vec<String> {
            let ejected = sample.hosts.iter().filter(|host| host.ejected);
            ejected.map(|host| host.name.clone()).collect()
        };
        let seen = |sample: &Sample| (sample.hosts.len(), ejected(sample));
        if before.map(seen) != Some(seen(&sample)) {
            let (name, hosts) = (key.1, sample.hosts.len());
            let line = format!("{name} has {hosts} hosts, ejected {:?}", ejected(&sample));
            recorded.note(name_of(key.0), line);
        }
        recorded.traffic.samples.push(sample.clone());
        self.last.insert(key, sample);
    }

    /// How many requests wait in former states of a cluster.
    fn former(
        &mut self,
        key: (u64, &'static str),
        life: u64,
        state: Option<&Arc<ClusterState>>,
    ) -> u32 {
        let former = self.former.entry(key).or_default();
        if let Some((of_life, old)) = self.states.get(&key) {
            let counts = |state: &ClusterState| Arc::as_ptr(state.breaker.counts());
            let same = state.is_some_and(|state| counts(state) == counts(old));
            if *of_life != life {
                former.clear();
                self.states.remove(&key);
            } else if !same {
                former.push(old.clone());
                self.states.remove(&key);
            }
        }
        if let Some(state) = state {
            self.states.insert(key, (life, state.clone()));
        }
        former.retain(|state| taken(state) != Taken::default());
        former.iter().map(|state| taken(state).pending).sum()
    }

    /// The newest of each cluster at each proxy.
    pub fn last(&self) -> impl Iterator<Item = &Sample> {
        self.last.values()
    }

    /// What is still counted for clusters that are gone, but for idle connections.
    pub fn left_over(&self) -> impl Iterator<Item = String> {
        self.former.iter().flat_map(|((proxy, name), former)| {
            let left = former.iter().map(|state| Taken {
                connections: 0,
                ..taken(state)
            });
            left.filter(|taken| *taken != Taken::default())
                .map(move |taken| {
                    format!("idle, proxy {proxy} still counts {taken:?} for {name} as it was before its removal")
                })
        })
    }
}

/// A proxy that was down serves again.
fn end_outage(proxy: u64, record: &Record) {
    let mut recorded = record.lock();
    let mut outages = recorded.traffic.outages.iter_mut();
    let open = outages.find(|outage| outage.proxy == proxy && outage.to_ms == u64::MAX);
    if let Some(Outage { to_ms, .. }) = open {
        *to_ms = now_ms();
        recorded.note(name_of(proxy), "serves again");
    }
}

/// A cluster that a route in force names and that is not in force.
fn dangling(live: &Live) -> Option<String> {
    let snapshot = live.snapshot();
    let there = |name: &str| snapshot.clusters.contains_key(name);
    for routes in snapshot.routes.values() {
        for route in routes.virtual_hosts.iter().flat_map(|host| &host.routes) {
            let RouteAction::Forward(forward) = &route.action else {
                continue;
            };
            match &forward.cluster {
                ClusterSpecifier::Cluster(name) if !there(name) => return Some(name.to_string()),
                ClusterSpecifier::Weighted(weighted) => {
                    let mut named = weighted.clusters.iter().map(|it| &it.name);
                    if let Some(name) = named.find(|name| !there(name)) {
                        return Some(name.to_string());
                    }
                }
                _ => {}
            }
        }
    }
    None
}

fn sample(
    proxy: u64,
    life: &Life,
    name: &str,
    whole: &str,
    state: Option<&Arc<ClusterState>>,
    truth: &Snapshot,
    names: &Names,
) -> Sample {
    // What was given to the proxy, not what it made of it; where endpoints were taken away from a cluster that is
    // still there, it goes on with those it had.
    let configured = truth.clusters.get(whole);
    let endpoints = configured.and_then(|cluster| truth.endpoints_of(cluster));
    let told = endpoints
        .into_iter()
        .flat_map(|endpoints| &endpoints.localities);
    let told = told.flat_map(|place| &place.endpoints);
    let mut addresses: Vec<SocketAddr> = told.filter_map(|one| one.address.socket()).collect();
    if let (Some(_), None, Some(state)) = (configured, endpoints, state) {
        addresses.extend(state.members.iter().map(|host| host.address));
    }
    let mut hosts = Vec::new();
    for address in addresses {
        let member =
            state.and_then(|state| state.members.iter().find(|host| host.address == address));
        let outlier = state.and_then(|state| state.config.outlier);
        let ejected = member.filter(|host| host.is_ejected()).zip(outlier);
        hosts.push(Host {
            name: names.of(address.ip()),
            ejected: ejected.is_some(),
            due_ms: ejected.map_or(0, |(host, outlier)| {
                life.began_ms + host.monitor.due_back(&outlier).0 / 1_000_000
            }),
        });
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    let taken = state.map(|state| taken(state)).unwrap_or_default();
    Sample {
        at_ms: now_ms(),
        proxy,
        life: life.number,
        cluster: name.to_owned(),
        configuration: truth.generation,
        hosts,
        next_sweep_ns: state
            .and_then(|state| state.detector())
            .map_or(0, |detector| detector.next_sweep().0),
        waiting: taken.pending,
        taken,
        connected_hosts: names.count() * life.workers,
        dangling: None,
    }
}
