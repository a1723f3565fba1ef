//! Worlds of proxies: the product's proxy between clients and upstreams that misbehave, with a configuration that
//! comes from the product's control plane, changes, storms, is invalid and stays away.
//!
//! What runs is `trireme-proxy`'s workers with everything below them (listeners, pools, HTTP/1.1 and HTTP/2, the
//! exchange's decisions, sweeps of outlier detection) and its xDS client, on turmoil's TCP; and `trireme-xds-server`'s
//! discovery service over `trireme-mesh`, fed by the world with Kubernetes' and Istio's objects ([`objects`]) through
//! a [`journal`] that each server reads with a lag of its own. What was written and when is known exactly, so that
//! what proxies hold and do can be held against it.
//!
//! Deliberately not here: the servers' replicas and API (their own worlds have them), TLS, and interception but for
//! its outcome, the original destination.

mod anew;
mod client;
mod fault;
mod journal;
mod net;
mod objects;
mod observer;
mod plan;
mod proxy;
mod record;
mod sampler;
mod server;
mod upstream;
mod wire;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use trireme_check::configuration::{self, Loss};
use trireme_check::traffic::{self, Ending};
use trireme_proxy_decide::planted;
use trireme_xds::pb::envoy::config::core::v3::Node;
use turmoil::Sim;

use crate::determinism;
use crate::runner::Outcome;
use anew::Anew;
use client::{Client, Phase};
use fault::Faults;
use journal::Journal;
use objects::Objects;
use observer::{Held, Observer, Protocol};
use plan::{Plan, ROUTE_TIMEOUT_MS};
use proxy::{Proxy, Running};
use record::{Record, now_ms};
use sampler::{Names, Sampler};
use server::Server;
use upstream::{Mood, Upstream};

const TICK: Duration = Duration::from_millis(1);
/// Before clients come: everything listens, and proxies are configured.
const START_MS: u64 = 5_000;
/// Before anything goes wrong.
const CALM_MS: u64 = 1_000;
/// Beside a server's lag, how long after everything has healed a proxy may take to run the newest configuration: a
/// proxy that waits on a dead connection notices after two keepalive times of 5 s, one that found no server tries
/// again after 4 s (twice its longest pause of 2 s), and a second is for everything else.
const CONVERGE_MS: u64 = 10_000 + 4_000 + 1_000;
/// How long the whole control plane is gone while nothing else is wrong.
const LOSS_MS: u64 = 2_000;
/// After the clients have stopped: what is under way ends.
const REST_MS: u64 = 2 * ROUTE_TIMEOUT_MS;
/// Steps between two looks at whether everybody has the newest configuration.
const LOOK_STEPS: u64 = 20;
const TCP_CAPACITY: usize = 4096;
/// Clients of proxies and observers share a host: each costs its part of every step, and links grow with the square.
const CLIENTS: &str = "clients";

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
    nodes: Vec<Node>,
    observers: Vec<Observer>,
    phase: watch::Sender<Phase>,
}

impl World<'_> {
    fn step(&mut self, faulty: bool) -> bool {
        if let Err(error) = self.sim.step() {
            self.record.violation(format_args!("a host ended: {error}"));
            return false;
        }
        determinism::set_elapsed_ns(self.sim.elapsed().as_nanos() as u64);
        self.sampler.look(&self.running, &self.names, &self.record);
        if faulty {
            self.faults.step(now_ms(), &mut self.sim);
        }
        true
    }

    fn run(&mut self, limit_ms: u64, faulty: bool) {
        let end_ms = now_ms() + limit_ms;
        while now_ms() < end_ms && self.step(faulty) {}
    }

    /// Runs until proxies and observers have what the objects say. What is still different after the limit is a
    /// violation.
    fn converge(&mut self, limit_ms: u64, what: &str) -> anyhow::Result<()> {
        let mesh = self.faults.objects.mesh();
        let anew: Vec<Anew> = self
            .nodes
            .iter()
            .map(|node| Anew::make(&mesh, node))
            .collect::<anyhow::Result<_>>()?;
        let (begin_ms, end_ms) = (now_ms(), now_ms() + limit_ms);
        loop {
            for _ in 0..LOOK_STEPS {
                if !self.step(false) {
                    return Ok(());
                }
            }
            let Some(difference) = self.difference(&anew) else {
                let took_ms = now_ms() - begin_ms;
                self.record.note(
                    "world",
                    format_args!("{what}: all have the newest configuration after {took_ms} ms"),
                );
                return Ok(());
            };
            if now_ms() >= end_ms {
                self.record.violation(format_args!(
                    "{what}: not everybody has the newest configuration within {limit_ms} ms: {difference}"
                ));
                return Ok(());
            }
        }
    }

    fn difference(&self, anew: &[Anew]) -> Option<String> {
        let running = self.running.lock();
        for (number, anew) in anew.iter().enumerate() {
            let name = proxy::name_of(number as u64 + 1);
            let Some(life) = running.get(&(number as u64 + 1)) else {
                return Some(format!("{name} does not run"));
            };
            if let Some(difference) = anew.difference(&life.shared.snapshot()) {
                return Some(format!("{name} has other {difference}"));
            }
        }
        // Both introduce themselves as the first proxy.
        let law = |observer: &Observer| {
            let held = observer.held.lock();
            configuration::law(&observer.name(), held.held(), &anew[0].holding)
        };
        let found = self.observers.iter().find_map(law);
        found.map(|violation| violation.to_string())
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
    record.lock().transit_ms = plan.transit_ms();
    let mut world = build(&plan, &mut random, &record);

    world.converge(START_MS + plan.lag_ms(), "start")?;
    world.phase.send_replace(Phase::Ask);
    world.run(CALM_MS, false);
    let before = answered(&record);
    if before == 0 {
        record.violation(format_args!(
            "no request was answered well within {CALM_MS} ms"
        ));
    }
    world.run(plan.fault_ms, true);
    let World { sim, faults, .. } = &mut world;
    faults.heal(sim);
    let healed_ms = now_ms();
    world.converge(CONVERGE_MS + plan.lag_ms(), "after the faults")?;
    // What was under way when everything healed may still fail, and eject.
    let healthy_ms = healed_ms + ROUTE_TIMEOUT_MS + plan.return_ms();
    world.run(healthy_ms.saturating_sub(now_ms()), false);
    if answered(&record) == before {
        record.violation("no request was answered well after healing");
    }

    let World { sim, faults, .. } = &mut world;
    faults.lose_servers(sim);
    let loss = Loss {
        from_ms: now_ms(),
        to_ms: now_ms() + LOSS_MS,
    };
    world.run(LOSS_MS, false);
    let World { sim, faults, .. } = &mut world;
    faults.restore_servers(sim);
    world.converge(CONVERGE_MS + plan.lag_ms(), "after the loss of all servers")?;
    world.phase.send_replace(Phase::Rest);
    world.run(REST_MS, false);
    Ok(verdict(world, &plan, loss))
}

fn build<'a>(plan: &Plan, random: &mut ChaCha8Rng, record: &Record) -> World<'a> {
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
            number,
            mood: Arc::new(Mutex::new(Mood::Well)),
            record: record.clone(),
        };
        let of_host = upstream.clone();
        sim.host(upstream.name(), move || upstream::run(of_host.clone()));
        let address = sim.lookup(upstream.name());
        names.insert(address, upstream.name());
        addresses.push(address);
        upstreams.push(upstream);
    }
    let proxies: Vec<_> = (1..=plan.proxies())
        .map(|proxy| sim.lookup(proxy::name_of(proxy)))
        .collect();
    let journal = Journal::new();
    let objects = Objects::new(
        plan.clone(),
        journal.clone(),
        record.clone(),
        &addresses,
        &proxies,
    );
    let mut deaf = Vec::new();
    for (id, lag_ms) in (1..).zip(&plan.lags_ms) {
        let server = Server {
            id,
            seed: random.random(),
            lag_ms: *lag_ms,
            journal: journal.clone(),
            deaf_until_ms: Arc::default(),
            record: record.clone(),
        };
        deaf.push(server.deaf_until_ms.clone());
        sim.host(server::name_of(id), move || server::run(server.clone()));
    }
    let running = Running::default();
    let numbers = Arc::new(AtomicU64::new(1));
    let phase = watch::Sender::new(Phase::Wait);
    let (mut nodes, mut clients) = (Vec::new(), Vec::new());
    for (id, role) in (1..).zip(&plan.roles) {
        let node = proxy::node_of(id, *role, proxies[id as usize - 1]);
        let mut servers: Vec<String> = (1..=plan.servers())
            .map(|server| format!("{}:{}", server::name_of(server), server::PORT))
            .collect();
        servers.shuffle(random);
        let proxy = Proxy {
            id,
            seed: random.random(),
            workers: plan.workers,
            node: node.clone(),
            servers,
            lives: Arc::default(),
            running: running.clone(),
            record: record.clone(),
        };
        sim.host(proxy::name_of(id), move || proxy::run(proxy.clone()));
        nodes.push(node);
        clients.extend((0..plan.clients).map(|number| Client {
            proxy: id,
            port: proxy::port_of(*role),
            http2: number < plan.clients_http2,
            seed: random.random(),
            think_ms: plan.think_ms,
            numbers: numbers.clone(),
            record: record.clone(),
            phase: phase.subscribe(),
        }));
    }
    let observers: Vec<Observer> = [Protocol::Delta, Protocol::StateOfTheWorld]
        .map(|protocol| Observer {
            protocol,
            servers: plan.servers(),
            node: nodes[0].clone(),
            held: Held::default(),
            record: record.clone(),
        })
        .into();
    sim.client(CLIENTS, visit(clients, observers.clone()));
    let faults = Faults::new(
        ChaCha8Rng::seed_from_u64(random.random()),
        upstreams,
        objects,
        deaf,
        running.clone(),
        CLIENTS,
        (plan.clone(), record.clone()),
    );
    World {
        sim,
        faults,
        sampler: Sampler::default(),
        running,
        names,
        record: record.clone(),
        nodes,
        observers,
        phase,
    }
}

fn verdict(world: World<'_>, plan: &Plan, loss: Loss) -> Outcome {
    let record = &world.record;
    for violation in traffic::check_rest(world.sampler.last(), now_ms()) {
        record.violation(violation);
    }
    for left in world.sampler.left_over() {
        record.violation(left);
    }
    let traffic = std::mem::take(&mut record.lock().traffic);
    let versions = std::mem::take(&mut record.lock().versions);
    for violation in traffic::check(&traffic, &plan.bounds()) {
        record.violation(violation);
    }
    if let Some(violation) = configuration::served(&versions, &traffic.requests, &traffic.arrivals)
    {
        record.violation(violation);
    }
    for violation in configuration::survived(loss, plan.proxies(), &traffic.requests) {
        record.violation(violation);
    }
    let lives = world.running.lock();
    let refused = lives
        .values()
        .map(|life| life.shared.control_plane().rejected)
        .sum();
    drop(lives);
    let recorded = std::mem::take(&mut *record.lock());
    Outcome {
        trace: recorded.trace,
        simulated_ms: now_ms(),
        counts: vec![
            ("proxies", plan.proxies()),
            ("faults", recorded.faults),
            ("versions", versions.len() as u64),
            ("refused", refused),
            ("requests", traffic.requests.len() as u64),
            ("given up", recorded.left),
            ("arrivals", traffic.arrivals.len() as u64),
        ],
        violations: recorded.violations,
    }
}

/// Requests answered with success.
fn answered(record: &Record) -> usize {
    let recorded = record.lock();
    let requests = recorded.traffic.requests.iter();
    requests
        .filter(|request| matches!(request.ending, Ending::Answered { status: 200, .. }))
        .count()
}

async fn visit(clients: Vec<Client>, observers: Vec<Observer>) -> turmoil::Result {
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        tasks.spawn_local(client::run(client));
    }
    for observer in observers {
        tasks.spawn_local(observer::run(observer));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
