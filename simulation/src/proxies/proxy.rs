//! A proxy's host: the product's worker on the simulated network, given its configuration by the world.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use trireme_check::traffic::{Host, Sample, Taken};
use trireme_proxy::telemetry::istio::Peer;
use trireme_proxy::{Drain, Shared, Worker};
use trireme_proxy_decide::breaker::Resource;
use trireme_proxy_decide::config::{ClusterSpecifier, Priority, RouteAction, Snapshot, Update};
use trireme_proxy_decide::upstream::{ClusterState, Live};

use super::net::SimulatedNet;
use super::record::{Record, now_ms};
use super::settings::{CLUSTERS, Names};

/// 2026-01-01T00:00:00Z, as the world's clock has it.
const BEGINNING_UNIX_NANOS: u64 = 1_767_225_600_000_000_000;

/// The proxies that run, as the world looks into them.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<BTreeMap<u64, Arc<Shared>>>>);

impl Running {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Shared>>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub struct Proxy {
    pub id: u64,
    pub seed: u64,
    pub snapshot: Snapshot,
    pub updates: mpsc::UnboundedReceiver<Update>,
    pub running: Running,
    pub record: Record,
}

pub async fn run(mut proxy: Proxy) -> turmoil::Result {
    let shared = Shared::new(Peer::default(), proxy.seed, BEGINNING_UNIX_NANOS);
    shared.replace(proxy.snapshot);
    shared.configured();
    let net: Rc<dyn trireme_proxy::net::Net> = Rc::new(SimulatedNet);
    trireme_proxy::spawn_background(&shared, &net);
    let worker = Worker::new(shared.clone(), net, Drain::new());
    proxy.running.lock().insert(proxy.id, shared.clone());
    let (id, record) = (proxy.id, proxy.record);
    tokio::task::spawn_local(async move {
        while let Some(update) = proxy.updates.recv().await {
            shared.publish(&update);
            let generation = shared.snapshot().generation;
            record.note(
                format_args!("proxy-{id}"),
                format_args!("configuration {generation}"),
            );
        }
    });
    worker.run(std::future::pending()).await;
    Ok(())
}

/// Looks into every proxy after a step, and notes what has changed.
#[derive(Default)]
pub struct Sampler {
    last: BTreeMap<(u64, &'static str), Sample>,
}

impl Sampler {
    pub fn look(&mut self, running: &Running, names: &Names, record: &Record) {
        for (id, shared) in running.lock().iter() {
            let (live, truth) = (shared.live(), shared.snapshot());
            let dangling = dangling(&live);
            for name in CLUSTERS {
                let state = live.in_use().find(|state| &*state.config.name == name);
                let mut sample = sample(*id, name, state, &truth, names);
                sample.dangling.clone_from(&dangling);
                let key = (*id, name);
                let before = self.last.get(&key);
                let same = before.is_some_and(|before| {
                    Sample {
                        at_ms: before.at_ms,
                        ..sample.clone()
                    } == *before
                });
                if same {
                    continue;
                }
                let mut recorded = record.lock();
                let ejected = |sample: &Sample| -> Vec<String> {
                    let ejected = sample.hosts.iter().filter(|host| host.ejected);
                    ejected.map(|host| host.name.clone()).collect()
                };
                if before.map(ejected) != Some(ejected(&sample)) {
                    let line = format!(
                        "{name} has {} hosts, ejected {:?}",
                        sample.hosts.len(),
                        ejected(&sample)
                    );
                    recorded.note(format_args!("proxy-{id}"), line);
                }
                recorded.traffic.samples.push(sample.clone());
                self.last.insert(key, sample);
            }
        }
    }

    /// The newest of each cluster at each proxy.
    pub fn last(&self) -> impl Iterator<Item = &Sample> {
        self.last.values()
    }
}

/// A cluster that a route in force names and that is not in force.
fn dangling(live: &Live) -> Option<String> {
    let snapshot = live.snapshot();
    for routes in snapshot.routes.values() {
        for route in routes.virtual_hosts.iter().flat_map(|host| &host.routes) {
            if let RouteAction::Forward(forward) = &route.action
                && let ClusterSpecifier::Cluster(name) = &forward.cluster
                && !snapshot.clusters.contains_key(name)
            {
                return Some(name.to_string());
            }
        }
    }
    None
}

fn sample(
    proxy: u64,
    name: &str,
    state: Option<&Arc<ClusterState>>,
    truth: &Snapshot,
    names: &Names,
) -> Sample {
    let mut hosts = Vec::new();
    // What was given to the proxy, not what it made of it.
    let endpoints = truth
        .clusters
        .get(name)
        .and_then(|cluster| truth.endpoints_of(cluster));
    for place in endpoints.iter().flat_map(|endpoints| &endpoints.localities) {
        for endpoint in &place.endpoints {
            let Some(address) = endpoint.address.socket() else {
                continue;
            };
            let member =
                state.and_then(|state| state.members.iter().find(|host| host.address == address));
            hosts.push(Host {
                name: names.of(address.ip()),
                ejected: member.is_some_and(|host| host.is_ejected()),
            });
        }
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    let taken = |resource| {
        state.map_or(0, |state| {
            state.breaker.current(Priority::Default, resource)
        })
    };
    Sample {
        at_ms: now_ms(),
        proxy,
        cluster: name.to_owned(),
        configuration: truth.generation,
        hosts,
        next_sweep_ns: state
            .and_then(|state| state.detector())
            .map_or(0, |detector| detector.next_sweep().0),
        taken: Taken {
            connections: taken(Resource::Connections),
            pending: taken(Resource::Pending),
            requests: taken(Resource::Requests),
            retries: taken(Resource::Retries),
        },
        connected_hosts: names.count(),
        dangling: None,
    }
}
