//! What goes wrong in a world: which, how often and for how long is the seed's choice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use turmoil::Sim;

use crate::disk::Disk;
use crate::record::Record;
use crate::server::{Running, name};

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
}

/// What is still to come of a fault.
enum Later {
    Crash { server: u64, down_ms: u64 },
    Restart { server: u64 },
    Repair { links: Vec<(String, String)> },
    Quicken { links: Vec<(String, String)> },
}

pub struct Faults {
    pub random: ChaCha8Rng,
    pub weights: Weights,
    /// Mean pause between two faults.
    pub pause_ms: u64,
    /// Of a healthy link.
    pub latency: Duration,
    pub servers: u64,
    /// Names of all hosts.
    pub hosts: Vec<String>,
    pub disks: BTreeMap<u64, Arc<Disk>>,
    pub running: Running,
    pub record: Record,
    next_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    number: u64,
}

impl Faults {
    pub fn new(
        random: ChaCha8Rng,
        weights: Weights,
        pause_ms: u64,
        latency: Duration,
        hosts: Vec<String>,
        disks: BTreeMap<u64, Arc<Disk>>,
        running: Running,
        record: Record,
    ) -> Faults {
        Faults {
            random,
            weights,
            pause_ms,
            latency,
            servers: disks.len() as u64,
            hosts,
            disks,
            running,
            record,
            next_ms: 0,
            later: BTreeMap::new(),
            number: 0,
        }
    }

    fn schedule(&mut self, at_ms: u64, what: Later) {
        self.number += 1;
        self.later.insert((at_ms, self.number), what);
    }

    /// To be called once for every step of the world.
    pub fn step(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now_ms
        {
            let what = entry.remove();
            self.carry_out(now_ms, what, sim);
        }
        if now_ms >= self.next_ms {
            if self.next_ms > 0 {
                self.begin(now_ms, sim);
            }
            self.next_ms = now_ms + self.random.random_range(1..=2 * self.pause_ms);
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        self.record.note("fault", "everything heals");
        for (_, what) in std::mem::take(&mut self.later) {
            match what {
                Later::Crash { .. } => {}
                what => self.carry_out(u64::MAX, what, sim),
            }
        }
        for disk in self.disks.values() {
            disk.unstall();
        }
    }

    fn carry_out(&mut self, now_ms: u64, what: Later, sim: &mut Sim<'_>) {
        match what {
            Later::Crash { server, down_ms } => self.crash(now_ms, server, down_ms, sim),
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

    fn crash(&mut self, now_ms: u64, server: u64, down_ms: u64, sim: &mut Sim<'_>) {
        let host = name(server);
        if !sim.is_host_running(host.as_str()) {
            return;
        }
        sim.crash(host.as_str());
        self.running.lock().remove(&server);
        let loss = self.disks[&server].crash();
        self.record.fault(
            "crash",
            format_args!(
                "crash {host}: {} unsynced batches kept, {} lost, back in {down_ms} ms",
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
        match self.running.leader() {
            Some(leader) if self.random.random_bool(0.5) => leader,
            _ => self.random.random_range(1..=self.servers),
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
        match self.kind() {
            Kind::Crash => {
                let down_ms = self.down_ms();
                self.crash(now_ms, server, down_ms, sim);
            }
            Kind::StallAndCrashLeader => {
                let server = self.running.leader().unwrap_or(server);
                let after_ms = self.random.random_range(5..=150);
                let down_ms = self.random.random_range(5..=60);
                self.record.fault(
                    "stall",
                    format_args!("stall the disk of {} and crash it", name(server)),
                );
                self.disks[&server].stall((now_ms + after_ms + 100) * 1_000_000);
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
                let other = 1 + server % self.servers;
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
                self.disks[&server].stall((now_ms + for_ms) * 1_000_000);
            }
        }
    }
}
