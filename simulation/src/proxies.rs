//! Worlds of proxies: the product's worker between clients and upstreams that misbehave, with a configuration that
//! changes, storms and stays away.
//!
//! What runs is `trireme-proxy`'s worker with everything below it (listeners, pools, HTTP/1.1, the exchange's
//! decisions, sweeps of outlier detection) on turmoil's TCP. The configuration comes from the world itself, as
//! snapshots and updates, so that what a proxy was told and when is known exactly.
//!
//! Deliberately not here: xDS and the servers behind it, TLS, HTTP/2, and interception.

mod client;
mod fault;
mod net;
mod proxy;
mod record;
mod settings;
mod upstream;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use trireme_check::traffic::{self, Ending};
use trireme_proxy_decide::planted;
use turmoil::Sim;

use crate::determinism;
use crate::runner::Outcome;
use client::Client;
use fault::Faults;
use proxy::{Proxy, Running, Sampler};
use record::{Record, now_ms};
use settings::{Configuration, Names, Plan, ROUTE_TIMEOUT_MS};
use upstream::{Mood, Upstream};

const TICK: Duration = Duration::from_millis(1);
/// Before clients come: listening.
const START_MS: u64 = 100;
/// Before anything goes wrong.
const CALM_MS: u64 = 1_000;
/// After the clients have stopped: what is under way ends.
const REST_MS: u64 = 2 * ROUTE_TIMEOUT_MS;
const TCP_CAPACITY: usize = 4096;

/// The bugs that can be put back, by name.
pub fn planted_names() -> impl Iterator<Item = &'static str> {
    planted::ALL.iter().map(|(_, name)| *name)
}

struct World<'a> {
    sim: Sim<'a>,
    faults: Faults,
    sampler: Sampler,
    running: Running,
    names: Names,
    record: Record,
}

impl World<'_> {
    fn run(&mut self, limit_ms: u64, faulty: bool) -> bool {
        let end_ms = now_ms() + limit_ms;
        while now_ms() < end_ms {
            if let Err(error) = self.sim.step() {
                self.record.violation(format_args!("a host ended: {error}"));
                return false;
            }
            determinism::set_elapsed_ns(self.sim.elapsed().as_nanos() as u64);
            self.sampler.look(&self.running, &self.names, &self.record);
            if faulty {
                self.faults.step(now_ms(), &mut self.sim);
            }
        }
        true
    }
}

/// Must be called on a fresh thread of a process that runs nothing else.
pub fn run(seed: u64, bug: Option<&str>) -> anyhow::Result<Outcome> {
    determinism::begin(seed);
    if let Some(name) = bug {
        let known = planted::ALL.iter().find(|(_, known)| *known == name);
        planted::set(
            known.with_context(|| format!("no bug is called {name}"))?.0,
            true,
        );
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let plan = Plan::choose(&mut random);
    let record = Record::default();
    record.note("world", format_args!("seed {seed}: {plan:?}"));
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.random())
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(plan.latency_ms))
        .tcp_capacity(TCP_CAPACITY)
        .enable_random_order()
        .build();

    let mut upstreams = Vec::new();
    let (mut names, mut addresses) = (Names::default(), Vec::new());
    for number in 0..plan.upstreams {
        let upstream = Upstream {
            name: format!("upstream-{}", number + 1),
            color: settings::color_of(number),
            mood: Arc::new(Mutex::new(Mood::Well)),
            record: record.clone(),
        };
        let of_host = upstream.clone();
        sim.host(upstream.name.as_str(), move || {
            upstream::run(of_host.clone())
        });
        let address = sim.lookup(upstream.name.as_str());
        names.insert(address, upstream.name.clone());
        addresses.push(address);
        upstreams.push(upstream);
    }
    let configuration = Configuration::new(&addresses);
    let running = Running::default();
    let mut senders = Vec::new();
    for id in 1..=plan.proxies {
        let (sender, updates) = mpsc::unbounded_channel();
        senders.push(sender);
        let proxy = Proxy {
            id,
            seed: random.random(),
            snapshot: configuration.snapshot(&plan),
            updates,
            running: running.clone(),
            record: record.clone(),
        };
        sim.client(format!("proxy-{id}"), proxy::run(proxy));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = Arc::new(AtomicU64::new(1));
    let (bounds, return_ms, fault_ms) = (plan.bounds(), plan.return_ms(), plan.fault_ms);
    let (proxies, clients, think_ms) = (plan.proxies, plan.clients, plan.think_ms);
    let faults = Faults::new(
        ChaCha8Rng::seed_from_u64(random.random()),
        plan,
        upstreams,
        configuration,
        senders,
        record.clone(),
    );
    let mut world = World {
        sim,
        faults,
        sampler: Sampler::default(),
        running,
        names,
        record: record.clone(),
    };
    world.run(START_MS, false);
    for proxy in 1..=proxies {
        let clients: Vec<Client> = (0..clients)
            .map(|_| Client {
                proxy,
                seed: random.random(),
                think_ms,
                numbers: numbers.clone(),
                record: record.clone(),
                stop: stop.clone(),
            })
            .collect();
        world.sim.client(format!("clients-{proxy}"), visit(clients));
    }
    world.run(CALM_MS, false);
    let before = answered(&record);
    if before == 0 {
        record.violation(format_args!(
            "no request was answered well within {CALM_MS} ms"
        ));
    }
    world.run(fault_ms, true);
    let World { sim, faults, .. } = &mut world;
    faults.heal(sim);
    // What was under way when everything healed may still fail, and eject.
    world.run(ROUTE_TIMEOUT_MS + return_ms, false);
    if answered(&record) == before {
        record.violation("no request was answered well after healing");
    }
    stop.store(true, Ordering::Relaxed);
    world.run(REST_MS, false);
    for violation in traffic::check_rest(world.sampler.last(), now_ms()) {
        record.violation(violation);
    }
    let traffic = std::mem::take(&mut record.lock().traffic);
    for violation in traffic::check(&traffic, &bounds) {
        record.violation(violation);
    }
    let recorded = std::mem::take(&mut *record.lock());
    Ok(Outcome {
        trace: recorded.trace,
        simulated_ms: now_ms(),
        counts: vec![
            ("proxies", proxies),
            ("faults", recorded.faults),
            ("requests", traffic.requests.len() as u64),
            ("given up", recorded.left),
            ("arrivals", traffic.arrivals.len() as u64),
        ],
        violations: recorded.violations,
    })
}

/// Requests answered with success.
fn answered(record: &Record) -> usize {
    let recorded = record.lock();
    let requests = recorded.traffic.requests.iter();
    requests
        .filter(|request| matches!(request.ending, Ending::Answered { status: 200, .. }))
        .count()
}

async fn visit(clients: Vec<Client>) -> turmoil::Result {
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        tasks.spawn_local(client::run(client));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
