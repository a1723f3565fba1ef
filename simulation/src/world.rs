//! A world from its first moment to its verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use turmoil::Sim;

use crate::client::{self, Client};
use crate::determinism;
use crate::disk::Disk;
use crate::fault::Faults;
use crate::machine::{Machines, name};
use crate::operator::{self, Operator};
use crate::plan::{Plan, Reduction};
use crate::record::Record;
use crate::runner::Outcome;
use crate::server::{self, Server};
use crate::verdict;
use crate::watcher::{self, Following};

const TICK: Duration = Duration::from_millis(1);
/// A new cluster leads and writes within this.
const START_MS: u64 = 10_000;
/// After everything has healed: writes are acknowledged again, and all replicas are the same.
const HEAL_MS: u64 = 15_000;
/// The servers' connections, clients' and watchers' included.
const TCP_CAPACITY: usize = 4096;

/// After healing, a change of the membership that is half done is finished within this.
const CHANGE_MS: u64 = 30_000;
/// With all disks full: when refusals have come through to everybody, and how long is looked then.
const FULL_SETTLE_MS: u64 = 2_500;
const FULL_LOOK_MS: u64 = 2_000;
/// Once there is room again, writes are acknowledged within this.
const ROOM_MS: u64 = 5_000;

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
            let now_ms = self.now_ms();
            if faulty {
                self.faults.step(now_ms, &mut self.sim);
            }
            self.faults.supervise(now_ms, &mut self.sim);
            if done() {
                return true;
            }
        }
        false
    }

    /// All disks are full for a while and nothing else is wrong: writes are refused and say why, reads go on,
    /// and with the room the writes come back.
    fn fill_disks(&mut self, machines: &Machines, room_bytes: u64) {
        self.record.fault(
            "full",
            format_args!("fill all disks, leaving {room_bytes} bytes"),
        );
        for (_, disk) in machines.disks() {
            disk.fill(u64::MAX, room_bytes);
        }
        self.until(FULL_SETTLE_MS, false, || false);
        let counts = |record: &Record| {
            let recorded = record.lock();
            (recorded.writes, recorded.reads, recorded.disk_full)
        };
        let record = self.record.clone();
        let (writes, reads, refusals) = counts(&record);
        self.until(FULL_LOOK_MS, false, || false);
        let (writes_then, reads_then, refusals_then) = counts(&record);
        if writes_then > writes {
            record.violation(format_args!(
                "{} writes were acknowledged while all disks were full",
                writes_then - writes
            ));
        }
        if reads_then == reads {
            record.violation("no read was answered while the disks were full");
        }
        if refusals_then == refusals {
            record.violation("no write was refused with the words that a disk is full");
        }
        self.record
            .note("fault", "there is room on all disks again");
        for (_, disk) in machines.disks() {
            disk.heal();
        }
        if !self.until(ROOM_MS, false, || record.lock().writes > writes_then) {
            record.violation(format_args!(
                "no write was acknowledged within {ROOM_MS} ms of room on the disks"
            ));
        }
    }
}

/// Hosts that the clients share: each host costs its part of every step, and the links grow with
/// their square.
const CLIENT_HOSTS: u64 = 2;
const OPERATOR_HOST: &str = "operator";
/// Steps between two looks at whether the servers are the same, for a look hashes whole states.
const LOOK_STEPS: u64 = 20;

/// One leader whom all follow, all voters and nobody else, and the same state at the same index.
fn converged(machines: &Machines) -> bool {
    let replicas = machines.running();
    if replicas.len() as u64 != machines.count() {
        return false;
    }
    let statuses: Vec<_> = replicas
        .iter()
        .map(|(_, replica)| replica.status())
        .collect();
    let first = &statuses[0];
    let installed: Vec<u64> = {
        let mut ids: Vec<u64> = machines.installed_ids().into_values().collect();
        ids.sort_unstable();
        ids
    };
    if first.leader.is_none()
        || statuses.iter().any(|status| {
            (status.leader, status.term, status.applied_index)
                != (first.leader, first.term, first.applied_index)
                || status.last_log_index != status.applied_index
                || status.voters != installed
                || status.members.len() != installed.len()
        })
    {
        return false;
    }
    let digests: Vec<_> = replicas
        .iter()
        .map(|(_, replica)| replica.digest())
        .collect();
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
pub fn run(seed: u64, restore_leader: bool, reduction: &Reduction) -> anyhow::Result<Outcome> {
    determinism::begin(seed);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let plan = Plan::choose(&mut random, restore_leader, reduction);
    let record = Record::default();
    record.note("world", format_args!("seed {seed}: {plan:?}"));

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
    let machines = Machines::default();
    let token_key_pem = rcgen::KeyPair::generate()?.serialize_pem();
    let mut hosts = Vec::new();
    for machine in 1..=plan.servers {
        machines.install(machine, machine, Disk::new(random.random(), plan.disk));
    }
    for machine in 1..=plan.servers {
        let server = Server {
            machine,
            machines: machines.clone(),
            timing: plan.timing.clone(),
            history: plan.history,
            token_key_pem: token_key_pem.clone(),
            record: record.clone(),
        };
        hosts.push(name(machine));
        sim.host(name(machine), move || server::run(server.clone()));
    }
    let faults = Faults::new(
        random.random(),
        plan.weights,
        plan.pause_ms,
        latency,
        plan.disk,
        machines.clone(),
        record.clone(),
        reduction.only_faults.clone().map(|only| only.0),
    );
    let mut world = World {
        sim,
        faults,
        record: record.clone(),
    };

    if !world.until(START_MS, false, || {
        machines.running().len() as u64 == plan.servers && machines.leader().is_some()
    }) {
        record.violation(format_args!("no leader within {START_MS} ms of the start"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let last_revision = Arc::new(AtomicU64::new(u64::MAX));
    let (no_more_changes, settled) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    if plan.change_ms > 0 {
        settled.store(false, Ordering::Relaxed);
        let operator = Operator {
            seed: random.random(),
            machines: machines.clone(),
            pause_ms: plan.change_ms,
            record: record.clone(),
            stop: no_more_changes.clone(),
            settled: settled.clone(),
        };
        world.sim.client(OPERATOR_HOST, operator::run(operator));
        hosts.push(OPERATOR_HOST.to_owned());
    }
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
                history: plan.history,
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

    no_more_changes.store(true, Ordering::Relaxed);
    if !world.until(CHANGE_MS, false, || settled.load(Ordering::Relaxed)) {
        record.violation(format_args!(
            "a change of the membership was not finished within {CHANGE_MS} ms of healing"
        ));
    }
    let before = record.lock().writes;
    if !world.until(HEAL_MS, false, || {
        record.lock().writes > before + 10 * plan.clients
    }) {
        record.violation(format_args!(
            "writes were not acknowledged again within {HEAL_MS} ms of healing"
        ));
    }
    if plan.full_disks {
        let room_bytes = random.random_range(4 << 20..60 << 20);
        world.fill_disks(&machines, room_bytes);
    }
    stop.store(true, Ordering::Relaxed);
    // A client that is in an operation ends after it, and what it left is applied or given up.
    let mut steps = 0;
    let mut look = || {
        steps += 1;
        steps % LOOK_STEPS == 0 && converged(&machines)
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
    last_revision.store(verdict::newest_config_map(&record), Ordering::Relaxed);
    let clients = plan.watchers as usize;
    if !world.until(HEAL_MS, false, || record.lock().watchers.len() >= clients) {
        record.violation(format_args!(
            "the watches did not deliver everything within {HEAL_MS} ms"
        ));
    }

    let simulated_ms = world.now_ms();
    let disk = machines.disk(1).context("machine 1 has a disk")?;
    verdict::check(&record, &verdict::stored(&disk)?);
    let recorded = std::mem::take(&mut *record.lock());
    Ok(Outcome {
        trace: recorded.trace,
        simulated_ms,
        counts: vec![
            ("servers", plan.servers),
            ("faults", recorded.faults.values().sum()),
            ("snapshots installed", machines.snapshots_installed()),
            ("servers replaced", recorded.replaced),
            ("leaders moved", recorded.transfers),
            ("writes acknowledged", recorded.writes),
            ("unknown", recorded.unknown),
            ("reads", recorded.reads),
            ("events watched", recorded.watched),
            ("lists", recorded.listings.len() as u64),
            ("met compaction", recorded.expired),
            ("refused by full disks", recorded.disk_full),
        ],
        violations: recorded.violations,
    })
}
