//! What goes wrong in a world of proxies: upstreams' moods and crashes, hosts that come and go, configuration that
//! changes, storms and is invalid, servers of the control plane that crash, lag and are out of reach, proxies that
//! crash, and links that hold messages up, lose some, or all in one direction or both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use turmoil::Sim;

use super::objects::{Invalid, Objects};
use super::plan::{MAX_HOLD_MS, Plan};
use super::proxy::{self, Running};
use super::record::Record;
use super::server;
use super::upstream::{self, Mood, Upstream};

/// Versions of the configuration in one storm.
const STORM: u64 = 20;
/// The longest that a proxy is down: its clients' connections wait meanwhile.
const MAX_DOWN_MS: u64 = 1_500;
/// Share of messages at which a lossy link begins to lose them.
const LOSS: f64 = 0.05;

/// A link between a proxy and an upstream.
type Link = (u64, usize);

/// What is still to come of a fault.
enum Later {
    Well { upstream: usize },
    Flow(Link),
    Reach(Link),
    Remove { host: usize },
    Add { host: usize },
    Mend,
    StartServer(u64),
    StartProxy(u64),
    StartUpstream(usize),
    ReachServer { host: String, server: u64 },
}

pub struct Faults {
    pub random: ChaCha8Rng,
    pub plan: Plan,
    pub upstreams: Vec<Upstream>,
    pub objects: Objects,
    /// For each server of the control plane, until when it is deaf.
    pub deaf_until_ms: Vec<Arc<AtomicU64>>,
    pub running: Running,
    pub record: Record,
    /// The observers' host.
    pub observers: &'static str,
    next_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    number: u64,
    /// Links with which something is the matter.
    links: BTreeSet<Link>,
    servers_down: BTreeSet<u64>,
    proxies_down: BTreeSet<u64>,
    upstreams_down: BTreeSet<usize>,
}

fn mood(random: &mut ChaCha8Rng) -> Mood {
    match random.random_range(0..8) {
        0 => Mood::Failing(503),
        1 => Mood::Failing(500),
        2 => Mood::Stalling,
        3 => Mood::Slow {
            milliseconds: random.random_range(20..=250),
        },
        4 => Mood::Flapping {
            period_ms: random.random_range(50..=400),
        },
        5 => Mood::Closing,
        6 => Mood::Halving,
        _ => Mood::HalfStalling,
    }
}

fn ends((proxy, upstream): Link) -> (String, String) {
    (proxy::name_of(proxy), upstream::name_of(upstream))
}

impl Faults {
    pub fn new(
        random: ChaCha8Rng,
        upstreams: Vec<Upstream>,
        objects: Objects,
        deaf_until_ms: Vec<Arc<AtomicU64>>,
        running: Running,
        observers: &'static str,
        (plan, record): (Plan, Record),
    ) -> Faults {
        Faults {
            random,
            plan,
            upstreams,
            objects,
            deaf_until_ms,
            running,
            record,
            observers,
            next_ms: 0,
            later: BTreeMap::new(),
            number: 0,
            links: BTreeSet::new(),
            servers_down: BTreeSet::new(),
            proxies_down: BTreeSet::new(),
            upstreams_down: BTreeSet::new(),
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
            self.carry_out(what, sim);
        }
        if now_ms >= self.next_ms {
            if self.next_ms > 0 {
                self.begin(now_ms, sim);
            }
            let pause = self.plan.pause_ms;
            self.next_ms = now_ms + self.random.random_range(1..=2 * pause);
        }
    }

    fn begin(&mut self, now_ms: u64, sim: &mut Sim<'_>) {
        let lasting_ms = self.random.random_range(300..=4_000);
        match self.random.random_range(0..24) {
            0..=5 => self.sicken(now_ms + lasting_ms),
            6 | 7 => self.churn(now_ms, lasting_ms),
            8 | 9 => {
                let color = self.objects.switch();
                self.record.fault(format_args!("switch to {color}"));
            }
            10 => {
                self.record.fault("a storm of configurations");
                for _ in 0..STORM {
                    self.objects.touch();
                    if self.random.random_bool(0.3) {
                        self.objects.switch();
                    }
                }
            }
            11 => self.spoil(now_ms + lasting_ms),
            12 | 13 => {
                let server = self.random.random_range(1..=self.plan.servers());
                self.crash_server(server, now_ms + lasting_ms, sim);
            }
            14 => {
                // Longer than anything else, but for one that lasts.
                for server in 1..=self.plan.servers() {
                    let more_ms = self.random.random_range(0..=2_000);
                    self.crash_server(server, now_ms + lasting_ms + more_ms, sim);
                }
            }
            15 => self.deafen(now_ms + lasting_ms),
            16 | 17 => self.cut_off_server(now_ms + lasting_ms, sim),
            18 => {
                let proxy = self.random.random_range(1..=self.plan.proxies());
                let down_ms = lasting_ms.min(MAX_DOWN_MS);
                self.crash_proxy(proxy, now_ms + down_ms, sim);
            }
            19 => {
                let upstream = self.random.random_range(0..self.upstreams.len());
                self.crash_upstream(upstream, now_ms + lasting_ms, sim);
            }
            20 | 21 => self.hold(now_ms, lasting_ms, sim),
            _ => self.cut(now_ms + lasting_ms, sim),
        }
    }

    fn sicken(&mut self, until_ms: u64) {
        let count = self.upstreams.len();
        // Mostly a few; now and then all of them.
        let sick = match self.random.random_bool(0.15) {
            true => count,
            false => self.random.random_range(1..=3),
        };
        let mood = mood(&mut self.random);
        let mut all: Vec<usize> = (0..count).collect();
        all.shuffle(&mut self.random);
        all.truncate(sick);
        self.record
            .fault(format_args!("{mood:?} at {all:?} until {until_ms} ms"));
        for upstream in all {
            self.upstreams[upstream].set(mood);
            self.schedule(until_ms, Later::Well { upstream });
        }
    }

    /// A host drains, goes, and comes back.
    fn churn(&mut self, now_ms: u64, lasting_ms: u64) {
        let host = self.random.random_range(0..self.upstreams.len());
        if self.objects.drain(host) {
            let name = upstream::name_of(host);
            self.record.fault(format_args!("{name} drains"));
            let gone_ms = now_ms + self.random.random_range(0..=500);
            self.schedule(gone_ms, Later::Remove { host });
            self.schedule(gone_ms + lasting_ms, Later::Add { host });
        }
    }

    fn spoil(&mut self, until_ms: u64) {
        let invalid = match self.random.random_bool(0.5) {
            true => Invalid::Route,
            false => Invalid::Cluster,
        };
        if self.objects.spoil(invalid) {
            self.record
                .fault(format_args!("{invalid:?} is invalid until {until_ms} ms"));
            self.schedule(until_ms, Later::Mend);
        }
    }

    fn crash_server(&mut self, server: u64, until_ms: u64, sim: &mut Sim<'_>) {
        if self.servers_down.insert(server) {
            let name = server::name_of(server);
            self.record
                .fault(format_args!("{name} is down until {until_ms} ms"));
            sim.crash(name);
            self.schedule(until_ms, Later::StartServer(server));
        }
    }

    fn deafen(&mut self, until_ms: u64) {
        let server = self.random.random_range(0..self.deaf_until_ms.len());
        self.record.fault(format_args!(
            "{} learns of nothing until {until_ms} ms",
            server::name_of(server as u64 + 1)
        ));
        self.deaf_until_ms[server].store(until_ms, Ordering::Relaxed);
    }

    /// A proxy, or the observers, and a server do not reach each other, or one does not reach the other.
    fn cut_off_server(&mut self, until_ms: u64, sim: &mut Sim<'_>) {
        let server = self.random.random_range(1..=self.plan.servers());
        let host = match self.random.random_range(0..=self.plan.proxies()) {
            0 => self.observers.to_owned(),
            proxy => proxy::name_of(proxy),
        };
        let name = server::name_of(server);
        self.cut_link(host.clone(), name, until_ms, sim);
        self.schedule(until_ms, Later::ReachServer { host, server });
    }

    fn cut_link(&mut self, one: String, other: String, until_ms: u64, sim: &mut Sim<'_>) {
        let told = |how: &str| format!("{one} and {other}: {how} until {until_ms} ms");
        match self.random.random_range(0..4) {
            0 => {
                self.record.fault(told("nothing passes"));
                sim.partition(one, other);
            }
            1 => {
                self.record.fault(told("nothing passes to the second"));
                sim.partition_oneway(one, other);
            }
            2 => {
                self.record.fault(told("nothing passes to the first"));
                sim.partition_oneway(other, one);
            }
            _ => {
                self.record.fault(told("messages are lost"));
                sim.set_link_fail_rate(one, other, LOSS);
            }
        }
    }

    fn crash_proxy(&mut self, proxy: u64, until_ms: u64, sim: &mut Sim<'_>) {
        // Its connections' last words must not be lost: turmoil would never say them again.
        if self.links.iter().any(|(of, _)| *of == proxy) || !self.proxies_down.insert(proxy) {
            return;
        }
        let name = proxy::name_of(proxy);
        self.record
            .fault(format_args!("{name} is down until {until_ms} ms"));
        self.record.outage(proxy);
        sim.crash(name);
        self.running.lock().remove(&proxy);
        self.schedule(until_ms, Later::StartProxy(proxy));
    }

    fn crash_upstream(&mut self, upstream: usize, until_ms: u64, sim: &mut Sim<'_>) {
        let cut = self.links.iter().any(|(_, of)| *of == upstream);
        if cut || !self.upstreams_down.insert(upstream) {
            return;
        }
        let name = upstream::name_of(upstream);
        self.record
            .fault(format_args!("{name} is down until {until_ms} ms"));
        self.record.breaks(upstream, None);
        sim.crash(name);
        self.schedule(until_ms, Later::StartUpstream(upstream));
    }

    /// A link with which nothing is the matter, and whose ends are up.
    fn healthy_link(&mut self) -> Option<Link> {
        let proxy = self.random.random_range(1..=self.plan.proxies());
        let upstream = self.random.random_range(0..self.upstreams.len());
        let down = self.proxies_down.contains(&proxy) || self.upstreams_down.contains(&upstream);
        let fresh = !down && self.links.insert((proxy, upstream));
        fresh.then_some((proxy, upstream))
    }

    fn hold(&mut self, now_ms: u64, lasting_ms: u64, sim: &mut Sim<'_>) {
        let Some(link) = self.healthy_link() else {
            return;
        };
        let lasting_ms = (lasting_ms / 4).min(MAX_HOLD_MS);
        let (one, other) = ends(link);
        self.record
            .fault(format_args!("hold {one} and {other} for {lasting_ms} ms"));
        self.record.breaks(link.1, Some(link.0));
        self.record.held(link.0, link.1);
        sim.hold(one, other);
        self.schedule(now_ms + lasting_ms, Later::Flow(link));
    }

    fn cut(&mut self, until_ms: u64, sim: &mut Sim<'_>) {
        let Some(link) = self.healthy_link() else {
            return;
        };
        let (one, other) = ends(link);
        self.record.breaks(link.1, Some(link.0));
        self.cut_link(one, other, until_ms, sim);
        self.schedule(until_ms, Later::Reach(link));
    }

    fn repair(one: String, other: String, sim: &mut Sim<'_>) {
        sim.set_link_fail_rate(one.clone(), other.clone(), 0.0);
        sim.repair(one, other);
    }

    fn carry_out(&mut self, what: Later, sim: &mut Sim<'_>) {
        match what {
            Later::Well { upstream } => {
                self.record.note(upstream::name_of(upstream), "is well");
                self.upstreams[upstream].set(Mood::Well);
            }
            Later::Flow(link) => {
                let (one, other) = ends(link);
                self.record
                    .note("fault", format_args!("release {one} and {other}"));
                sim.release(one, other);
                self.record.released(link.0, link.1);
                self.record.mended(link.1, Some(link.0));
                self.links.remove(&link);
            }
            Later::Reach(link) => {
                let (one, other) = ends(link);
                self.record
                    .note("fault", format_args!("{one} and {other} are whole"));
                Self::repair(one, other, sim);
                self.record.mended(link.1, Some(link.0));
                self.links.remove(&link);
            }
            Later::ReachServer { host, server } => {
                let name = server::name_of(server);
                self.record
                    .note("fault", format_args!("{host} and {name} are whole"));
                Self::repair(host, name, sim);
            }
            Later::Remove { host } => self.objects.remove(host),
            Later::Add { host } => self.objects.add(host),
            Later::Mend => self.objects.mend(),
            Later::StartServer(server) => {
                self.servers_down.remove(&server);
                sim.bounce(server::name_of(server));
            }
            Later::StartProxy(proxy) => {
                self.proxies_down.remove(&proxy);
                sim.bounce(proxy::name_of(proxy));
            }
            Later::StartUpstream(upstream) => {
                self.record.note(upstream::name_of(upstream), "starts");
                self.upstreams_down.remove(&upstream);
                self.record.mended(upstream, None);
                sim.bounce(upstream::name_of(upstream));
            }
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        self.record.note("fault", "everything heals");
        for (_, what) in std::mem::take(&mut self.later) {
            self.carry_out(what, sim);
        }
        for upstream in &self.upstreams {
            upstream.set(Mood::Well);
        }
        for deaf in &self.deaf_until_ms {
            deaf.store(0, Ordering::Relaxed);
        }
        self.objects.complete();
    }

    /// Takes away the whole control plane.
    pub fn lose_servers(&mut self, sim: &mut Sim<'_>) {
        self.record.fault("the whole control plane is gone");
        for server in 1..=self.plan.servers() {
            sim.crash(server::name_of(server));
        }
    }

    /// Gives it back, with a configuration that nobody has seen.
    pub fn restore_servers(&mut self, sim: &mut Sim<'_>) {
        self.record.note("fault", "the control plane is back");
        for server in 1..=self.plan.servers() {
            sim.bounce(server::name_of(server));
        }
        self.objects.switch();
    }
}
