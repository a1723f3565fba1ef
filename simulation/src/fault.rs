//! What goes wrong in a world: which, how often and for how long is the seed's choice.
//!
//! Faults are numbered, and each draws from a source of its own: left out, it changes no draw of another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use turmoil::Sim;

use crate::disk::{Character, Disk};
use crate::machine::{Machines, name};
use crate::record::Record;

/// How long a fault waits for a server to be where it is to be hit.
const AMBUSH_MS: u64 = 8_000;
/// A server that ended by itself is started again after this, as by systemd.
const RESTART_MS: u64 = 700;
/// Where a disk's room is left to: enough for a replica that refuses proposals; for one that takes no entries
/// either; for a few votes; for nothing.
const ROOMS_BYTES: [u64; 4] = [40 << 20, 10 << 20, 64 << 10, 0];

/// Faults in a world, by how likely each is next.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub crash: u32,
    /// The leader loses its disk's attention, then its life, and comes back at once.
    pub stall_and_crash_leader: u32,
    pub isolate: u32,
    pub isolate_one_way: u32,
    pub cut_link: u32,
    pub delay: u32,
    pub stall: u32,
    /// Syncs take many times as long.
    pub slow: u32,
    /// One disk, or so many that no quorum is left.
    pub full: u32,
    /// A follower is away until it needs a snapshot, and crashes while it gets it.
    pub crash_in_snapshot: u32,
}

impl Weights {
    pub fn choose(random: &mut ChaCha8Rng) -> Weights {
        let mut weight = || random.random_range(0..=4);
        Weights {
            crash: 1 + weight(),
            stall_and_crash_leader: weight(),
            isolate: weight(),
            isolate_one_way: weight(),
            cut_link: weight(),
            delay: weight(),
            stall: weight(),
            slow: weight(),
            full: weight(),
            crash_in_snapshot: weight(),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Crash,
    StallAndCrashLeader,
    Isolate,
    IsolateOneWay,
    CutLink,
    Delay,
    Stall,
    Slow,
    Full,
    CrashInSnapshot,
}

/// What is still to come of a fault.
enum Later {
    Crash {
        server: u64,
        down_ms: u64,
    },
    Restart {
        server: u64,
    },
    /// From now on wait for the moment.
    LieInWait {
        server: u64,
        ambush: Ambush,
    },
    Repair {
        links: Vec<(String, String)>,
    },
    Quicken {
        links: Vec<(String, String)>,
    },
}

/// A server to be crashed in a certain moment.
#[derive(Clone, Copy)]
struct Ambush {
    until_ms: u64,
    /// While it installs a snapshot, rather than while it receives it.
    installing: bool,
    down_ms: u64,
}

pub struct Faults {
    /// Each fault's source is made of it and the fault's number.
    pub seed: u64,
    /// When faults begin.
    pub pace: ChaCha8Rng,
    /// Of the fault that begins.
    random: ChaCha8Rng,
    pub weights: Weights,
    /// Mean pause between two faults.
    pub pause_ms: u64,
    /// Of a healthy link.
    pub latency: Duration,
    /// Of a new disk.
    pub character: Character,
    /// Names of all hosts.
    pub hosts: Vec<String>,
    pub machines: Machines,
    pub record: Record,
    /// If not all.
    pub only: Option<BTreeSet<u64>>,
    begun: u64,
    next_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    number: u64,
    ambushes: BTreeMap<u64, Ambush>,
}

impl Faults {
    pub fn new(
        seed: u64,
        weights: Weights,
        pause_ms: u64,
        latency: Duration,
        character: Character,
        machines: Machines,
        record: Record,
        only: Option<BTreeSet<u64>>,
    ) -> Faults {
        Faults {
            seed,
            pace: ChaCha8Rng::seed_from_u64(seed),
            random: ChaCha8Rng::seed_from_u64(seed),
            weights,
            pause_ms,
            latency,
            character,
            hosts: Vec::new(),
            machines,
            record,
            only,
            begun: 0,
            next_ms: 0,
            later: BTreeMap::new(),
            number: 0,
            ambushes: BTreeMap::new(),
        }
    }

    fn schedule(&mut self, at_ms: u64, what: Later) {
        self.number += 1;
        self.later.insert((at_ms, self.number), what);
    }

    /// To be called once for every step of the world in which things go wrong.
    pub fn step(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now_ms
        {
            let what = entry.remove();
            self.carry_out(now_ms, what, sim);
        }
        self.spring(now_ms, sim);
        if now_ms >= self.next_ms {
            if self.next_ms > 0 {
                self.begun += 1;
                let wanted = self.only.as_ref();
                if wanted.is_none_or(|only| only.contains(&self.begun)) {
                    self.random = ChaCha8Rng::seed_from_u64(
                        self.seed ^ self.begun.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                    );
                    self.begin(now_ms, sim);
                }
            }
            self.next_ms = now_ms + self.pace.random_range(1..=2 * self.pause_ms);
        }
    }

    /// To be called once for every step: starts again what ended by itself, and wipes disks for the operator.
    pub fn supervise(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        for (machine, id) in self.machines.to_wipe() {
            let host = name(machine);
            self.record.note(
                "operator",
                format_args!("wipes {host}, which comes back as {id}"),
            );
            self.record.lock().replaced += 1;
            sim.crash(host.as_str());
            self.machines.stopped(machine);
            let disk = Disk::new(self.seed ^ id, self.character);
            self.machines.install(machine, id, disk);
            sim.bounce(host.as_str());
        }
        for server in self.machines.ended() {
            sim.crash(name(server));
            self.machines.stopped(server);
            self.schedule(now_ms + RESTART_MS, Later::Restart { server });
        }
    }

    /// Crashes servers that are where an ambush waits for them.
    fn spring(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        for (server, ambush) in self.ambushes.clone() {
            let there = self.machines.disk(server).is_some_and(|disk| {
                if ambush.installing {
                    disk.is_installing()
                } else {
                    disk.is_receiving()
                }
            });
            if there {
                self.ambushes.remove(&server);
                let kind = if ambush.installing {
                    "crash while installing"
                } else {
                    "crash while receiving"
                };
                self.crash(now_ms, kind, server, ambush.down_ms, sim);
            } else if now_ms >= ambush.until_ms {
                self.ambushes.remove(&server);
            }
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        self.record.note("fault", "everything heals");
        for (_, what) in std::mem::take(&mut self.later) {
            match what {
                Later::Crash { .. } | Later::LieInWait { .. } => {}
                what => self.carry_out(u64::MAX, what, sim),
            }
        }
        self.ambushes.clear();
        for (_, disk) in self.machines.disks() {
            disk.heal();
        }
    }

    fn carry_out(&mut self, now_ms: u64, what: Later, sim: &mut Sim<'_>) {
        match what {
            Later::Crash { server, down_ms } => self.crash(now_ms, "crash", server, down_ms, sim),
            Later::LieInWait { server, ambush } => {
                self.ambushes.insert(server, ambush);
            }
            Later::Restart { server } => {
                self.record
                    .note("fault", format_args!("restart {}", name(server)));
                sim.bounce(name(server));
            }
            Later::Repair { links } => {
                self.record.note("fault", format_args!("repair {links:?}"));
                for (from, to) in links {
                    sim.repair_oneway(from, to);
                }
            }
            Later::Quicken { links } => {
                self.record.note("fault", format_args!("quicken {links:?}"));
                for (one, other) in links {
                    sim.set_link_max_message_latency(one, other, self.latency);
                }
            }
        }
    }

    fn crash(
        &mut self,
        now_ms: u64,
        kind: &'static str,
        server: u64,
        down_ms: u64,
        sim: &mut Sim<'_>,
    ) {
        let host = name(server);
        let Some(disk) = self.machines.disk(server) else {
            return;
        };
        if !sim.is_host_running(host.as_str()) {
            return;
        }
        sim.crash(host.as_str());
        self.machines.stopped(server);
        let loss = disk.crash();
        self.record.fault(
            kind,
            format_args!(
                "{kind} {host}: {} unsynced batches kept, {} lost, back in {down_ms} ms",
                loss.kept, loss.lost
            ),
        );
        self.schedule(now_ms + down_ms, Later::Restart { server });
    }

    fn kind(&mut self) -> Kind {
        let weights = self.weights;
        let all = [
            (Kind::Crash, weights.crash),
            (Kind::StallAndCrashLeader, weights.stall_and_crash_leader),
            (Kind::Isolate, weights.isolate),
            (Kind::IsolateOneWay, weights.isolate_one_way),
            (Kind::CutLink, weights.cut_link),
            (Kind::Delay, weights.delay),
            (Kind::Stall, weights.stall),
            (Kind::Slow, weights.slow),
            (Kind::Full, weights.full),
            (Kind::CrashInSnapshot, weights.crash_in_snapshot),
        ];
        let total: u32 = all.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.random_range(0..total);
        for (kind, weight) in all {
            if at < weight {
                return kind;
            }
            at -= weight;
        }
        Kind::Crash
    }

    /// The leader as often as any.
    fn victim(&mut self) -> u64 {
        let leads = self.random.random_bool(0.5);
        let any = self.random.random_range(1..=self.machines.count());
        match self.machines.leader() {
            Some(leader) if leads => leader,
            _ => any,
        }
    }

    fn down_ms(&mut self) -> u64 {
        if self.random.random_bool(0.5) {
            self.random.random_range(15..=80)
        } else {
            self.random.random_range(100..=4_000)
        }
    }

    /// From the server to every other host, or back, or both.
    fn around(&mut self, server: u64, out: bool, back: bool) -> Vec<(String, String)> {
        // Some victims lose sight of the other servers only, and can still be asked.
        let servers_only = self.random.random_bool(0.5);
        let me = name(server);
        let mut links = Vec::new();
        for host in &self.hosts {
            if *host == me || (servers_only && !host.starts_with("server")) {
                continue;
            }
            if out {
                links.push((me.clone(), host.clone()));
            }
            if back {
                links.push((host.clone(), me.clone()));
            }
        }
        links
    }

    fn cut(
        &mut self,
        now_ms: u64,
        kind: &'static str,
        links: Vec<(String, String)>,
        sim: &mut Sim<'_>,
    ) {
        let for_ms = self.random.random_range(100..=5_000);
        self.record
            .fault(kind, format_args!("{kind} for {for_ms} ms: {links:?}"));
        for (from, to) in &links {
            sim.partition_oneway(from.as_str(), to.as_str());
        }
        self.schedule(now_ms + for_ms, Later::Repair { links });
    }

    fn begin(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        let server = self.victim();
        let kind = self.kind();
        self.record
            .note("fault", format_args!("number {}", self.begun));
        let Some(disk) = self.machines.disk(server) else {
            return;
        };
        match kind {
            Kind::Crash => {
                let down_ms = self.down_ms();
                self.crash(now_ms, "crash", server, down_ms, sim);
            }
            Kind::StallAndCrashLeader => {
                let server = self.machines.leader().unwrap_or(server);
                let after_ms = self.random.random_range(5..=150);
                let down_ms = self.random.random_range(5..=60);
                self.record.fault(
                    "stall",
                    format_args!("stall the disk of {} and crash it", name(server)),
                );
                if let Some(disk) = self.machines.disk(server) {
                    disk.stall((now_ms + after_ms + 100) * 1_000_000);
                }
                self.schedule(now_ms + after_ms, Later::Crash { server, down_ms });
            }
            Kind::Isolate => {
                let links = self.around(server, true, true);
                self.cut(now_ms, "isolate", links, sim);
            }
            Kind::IsolateOneWay => {
                let out = self.random.random_bool(0.5);
                let links = self.around(server, out, !out);
                self.cut(now_ms, "isolate one way", links, sim);
            }
            Kind::CutLink => {
                let other = 1 + server % self.machines.count();
                let mut links = vec![(name(server), name(other))];
                if self.random.random_bool(0.5) {
                    links.push((name(other), name(server)));
                }
                self.cut(now_ms, "cut link", links, sim);
            }
            Kind::Delay => {
                let links = self.around(server, true, false);
                let latency_ms = self.random.random_range(20..=300);
                let for_ms = self.random.random_range(200..=4_000);
                self.record.fault(
                    "delay",
                    format_args!(
                        "delay {} by up to {latency_ms} ms for {for_ms} ms",
                        name(server)
                    ),
                );
                for (one, other) in &links {
                    let latency = Duration::from_millis(latency_ms);
                    sim.set_link_max_message_latency(one.as_str(), other.as_str(), latency);
                }
                self.schedule(now_ms + for_ms, Later::Quicken { links });
            }
            Kind::Stall => {
                let for_ms = self.random.random_range(50..=1_500);
                self.record.fault(
                    "stall",
                    format_args!("stall the disk of {} for {for_ms} ms", name(server)),
                );
                disk.stall((now_ms + for_ms) * 1_000_000);
            }
            Kind::Slow => {
                let for_ms = self.random.random_range(500..=4_000);
                let factor = self.random.random_range(5..=40);
                self.record.fault(
                    "slow",
                    format_args!(
                        "{} syncs {factor} times as slowly for {for_ms} ms",
                        name(server)
                    ),
                );
                disk.slow((now_ms + for_ms) * 1_000_000, factor);
            }
            Kind::Full => self.fill(now_ms, server),
            Kind::CrashInSnapshot => {
                let leader = self.machines.leader();
                let server = if leader == Some(server) {
                    1 + server % self.machines.count()
                } else {
                    server
                };
                let away_ms = self.random.random_range(1_000..=4_000);
                let ambush = Ambush {
                    until_ms: now_ms + away_ms + AMBUSH_MS,
                    installing: self.random.random_bool(0.5),
                    down_ms: self.random.random_range(15..=500),
                };
                self.crash(now_ms, "crash", server, away_ms, sim);
                self.schedule(now_ms + away_ms, Later::LieInWait { server, ambush });
            }
        }
    }

    /// One disk, or so many that no quorum is left, all to the same room.
    fn fill(&mut self, now_ms: u64, server: u64) {
        let machines = self.machines.count();
        let count = match self.random.random_range(0..3) {
            0 => machines / 2 + 1,
            _ => 1,
        };
        let room_bytes = ROOMS_BYTES[self.random.random_range(0..ROOMS_BYTES.len())];
        let for_ms = self.random.random_range(500..=4_000);
        for offset in 0..count {
            let server = 1 + (server - 1 + offset) % machines;
            self.record.fault(
                "full",
                format_args!(
                    "fill the disk of {} for {for_ms} ms, leaving {room_bytes} bytes",
                    name(server)
                ),
            );
            if let Some(disk) = self.machines.disk(server) {
                disk.fill((now_ms + for_ms) * 1_000_000, room_bytes);
            }
        }
    }
}
