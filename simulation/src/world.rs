//! A world from its first moment to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trireme_raft::Timing;
use turmoil::Sim;

use crate::client::{self, Client};
use crate::determinism;
use crate::disk::{Character, Disk};
use crate::fault::{Faults, Weights};
use crate::record::Record;
use crate::runner::Outcome;
use crate::server::{self, Running, Server, name};
use crate::verdict;
use crate::watcher::{self, Following};

const TICK: Duration = Duration::from_millis(1);
/// A new cluster leads and writes within this.
const START_MS: u64 = 10_000;
/// After everything has healed: writes are acknowledged again, and all replicas are the same.
const HEAL_MS: u64 = 15_000;
/// The servers' connections, clients' and watchers' included.
const TCP_CAPACITY: usize = 4096;

/// Everything that the seed decides at the beginning.
struct Plan {
    servers: u64,
    clients: u64,
    watchers: u64,
    think_ms: u64,
    fault_ms: u64,
    pause_ms: u64,
    latency_ms: u64,
    disk: Character,
    weights: Weights,
    timing: Timing,
}

impl Plan {
    fn choose(random: &mut ChaCha8Rng, restore_leader: bool) -> Plan {
        let sync_min_us = random.random_range(200..=2_000);
        Plan {
            servers: if random.random_bool(0.7) { 3 } else { 5 },
            clients: random.random_range(3..=6),
            watchers: 2,
            think_ms: random.random_range(20..=80),
            fault_ms: random.random_range(20_000..=40_000),
            pause_ms: random.random_range(500..=2_500),
            latency_ms: random.random_range(1..=5),
            disk: Character {
                sync_min_us,
                sync_max_us: sync_min_us + random.random_range(200..=10_000),
            },
            weights: Weights::choose(random),
            timing: Timing {
                // Few entries kept: who is briefly away often needs a snapshot.
                snapshot_entries: random.random_range(40..=800),
                keep_entries: random.random_range(5..=60),
                restore_leader,
                ..Timing::simulated()
            },
        }
    }
}

struct World<'a> {
    sim: Sim<'a>,
    faults: Faults,
    record: Record,
}

impl World<'_> {
    fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    /// Steps until `done` says so; false when it has not within the limit.
    fn until(&mut self, limit_ms: u64, faulty: bool, mut done: impl FnMut() -> bool) -> bool {
        let end_ms = self.now_ms() + limit_ms;
        while self.now_ms() < end_ms {
            if let Err(error) = self.sim.step() {
                self.record.violation(format_args!("a host ended: {error}"));
                return false;
            }
            determinism::set_elapsed_ns(self.sim.elapsed().as_nanos() as u64);
            if faulty {
                let now_ms = self.now_ms();
                self.faults.step(now_ms, &mut self.sim);
            }
            if done() {
                return true;
            }
        }
        false
    }
}

/// Hosts that the clients share: each host costs its part of every step, and the links grow with
/// their square.
const CLIENT_HOSTS: u64 = 2;
/// Steps between two looks at whether the servers are the same, for a look hashes whole states.
const LOOK_STEPS: u64 = 20;

/// One leader whom all follow, and the same state at the same index.
fn converged(running: &Running, servers: u64) -> bool {
    let replicas = running.lock();
    if replicas.len() as u64 != servers {
        return false;
    }
    let statuses: Vec<_> = replicas.values().map(|replica| replica.status()).collect();
    let first = &statuses[0];
    if first.leader.is_none()
        || statuses.iter().any(|status| {
            (status.leader, status.term, status.applied_index)
                != (first.leader, first.term, first.applied_index)
                || status.last_log_index != status.applied_index
        })
    {
        return false;
    }
    let digests: Vec<_> = replicas.values().map(|replica| replica.digest()).collect();
    digests
        .iter()
        .all(|digest| digest.is_ok() && *digest == digests[0])
}

/// What runs on a clients' host.
async fn visit(clients: Vec<Client>, watchers: Vec<Following>) -> turmoil::Result {
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        tasks.spawn_local(client::run(client));
    }
    for watcher in watchers {
        tasks.spawn_local(watcher::run(watcher));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Must be called on a fresh thread of a process that runs nothing else.
pub fn run(seed: u64, restore_leader: bool) -> anyhow::Result<Outcome> {
    determinism::begin(seed);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let plan = Plan::choose(&mut random, restore_leader);
    let record = Record::default();
    record.note(
        "world",
        format_args!(
            "seed {seed}: {} servers, {} clients, disk {:?}, latency {} ms, pause {} ms, {:?}",
            plan.servers, plan.clients, plan.disk, plan.latency_ms, plan.pause_ms, plan.weights
        ),
    );

    let latency = Duration::from_millis(plan.latency_ms);
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.random())
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(latency)
        .tcp_capacity(TCP_CAPACITY)
        .enable_random_order()
        .build();
    let running = Running::default();
    let token_key_pem = rcgen::KeyPair::generate()?.serialize_pem();
    let mut disks = BTreeMap::new();
    let mut hosts = Vec::new();
    for id in 1..=plan.servers {
        let disk = Disk::new(random.random(), plan.disk);
        disks.insert(id, disk.clone());
        let server = Server {
            id,
            servers: plan.servers,
            disk,
            timing: plan.timing.clone(),
            token_key_pem: token_key_pem.clone(),
            record: record.clone(),
            running: running.clone(),
        };
        hosts.push(name(id));
        sim.host(name(id), move || server::run(server.clone()));
    }
    let faults = Faults::new(
        ChaCha8Rng::seed_from_u64(random.random()),
        plan.weights,
        plan.pause_ms,
        latency,
        Vec::new(),
        disks.clone(),
        running.clone(),
        record.clone(),
    );
    let mut world = World {
        sim,
        faults,
        record: record.clone(),
    };

    if !world.until(START_MS, false, || {
        running.lock().len() as u64 == plan.servers && running.leader().is_some()
    }) {
        record.violation(format_args!("no leader within {START_MS} ms of the start"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let last_revision = Arc::new(AtomicU64::new(u64::MAX));
    for site in 1..=CLIENT_HOSTS {
        let of_site = |id: &u64| id % CLIENT_HOSTS + 1 == site;
        let mut clients = Vec::new();
        for id in (1..=plan.clients).filter(of_site) {
            clients.push(Client {
                id,
                servers: plan.servers,
                seed: random.random(),
                think_ms: plan.think_ms,
                record: record.clone(),
                stop: stop.clone(),
            });
        }
        let mut watchers = Vec::new();
        for id in (1..=plan.watchers).filter(of_site) {
            watchers.push(Following {
                id,
                servers: plan.servers,
                seed: random.random(),
                record: record.clone(),
                last_revision: last_revision.clone(),
            });
        }
        let host = format!("clients-{site}");
        world.sim.client(host.as_str(), visit(clients, watchers));
        hosts.push(host);
    }
    world.faults.hosts = hosts;

    if !world.until(START_MS, false, || record.lock().writes > 20) {
        record.violation(format_args!("no writes within {START_MS} ms of the start"));
    }
    world.until(plan.fault_ms, true, || false);
    let World { sim, faults, .. } = &mut world;
    faults.heal(sim);

    let before = record.lock().writes;
    if !world.until(HEAL_MS, false, || {
        record.lock().writes > before + 10 * plan.clients
    }) {
        record.violation(format_args!(
            "writes were not acknowledged again within {HEAL_MS} ms of healing"
        ));
    }
    stop.store(true, Ordering::Relaxed);
    // A client that is in an operation ends after it, and what it left is applied or given up.
    let mut steps = 0;
    let mut look = || {
        steps += 1;
        steps % LOOK_STEPS == 0 && converged(&running, plan.servers)
    };
    if !world.until(HEAL_MS, false, &mut look) {
        record.violation(format_args!(
            "the servers were not the same within {HEAL_MS} ms of healing"
        ));
    }
    // Operations of unknown outcome may still be under way; nothing new comes.
    let quiet_ms = plan.timing.propose_ms + 2_000;
    world.until(quiet_ms, false, || false);
    if !world.until(HEAL_MS, false, look) {
        record.violation("the servers came apart again without load");
    }
    let stored = verdict::stored(&disks[&1])?;
    last_revision.store(stored.newest_config_map(), Ordering::Relaxed);
    let clients = plan.watchers as usize;
    if !world.until(HEAL_MS, false, || record.lock().watchers.len() >= clients) {
        record.violation(format_args!(
            "the watches did not deliver everything within {HEAL_MS} ms"
        ));
    }

    let simulated_ms = world.now_ms();
    verdict::check(&record, &stored);
    let recorded = std::mem::take(&mut *record.lock());
    Ok(Outcome {
        trace: recorded.trace,
        simulated_ms,
        counts: vec![
            ("servers", plan.servers),
            ("faults", recorded.faults.values().sum()),
            (
                "snapshots installed",
                disks.values().map(|disk| disk.installed()).sum(),
            ),
            ("writes acknowledged", recorded.writes),
            ("unknown", recorded.unknown),
            ("reads", recorded.reads),
            ("events watched", recorded.watched),
        ],
        violations: recorded.violations,
    })
}
