//! What goes wrong in a world of proxies: upstreams' moods, hosts that come and go, configuration that changes,
//! storms or stays away, and messages that are held up.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use trireme_proxy_decide::config::Update;
use turmoil::Sim;

use super::record::Record;
use super::settings::{Configuration, MAX_HOLD_MS, Plan};
use super::upstream::{Mood, Upstream};

/// Versions of the configuration in one storm.
const STORM: u64 = 20;

/// What is still to come of a fault.
enum Later {
    Well { upstream: usize },
    Flow { proxy: u64, upstream: usize },
    Speak,
}

pub struct Faults {
    pub random: ChaCha8Rng,
    pub plan: Plan,
    pub upstreams: Vec<Upstream>,
    pub configuration: Configuration,
    pub proxies: Vec<mpsc::UnboundedSender<Update>>,
    pub record: Record,
    /// The control plane is gone.
    silent: bool,
    next_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    number: u64,
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

impl Faults {
    pub fn new(
        random: ChaCha8Rng,
        plan: Plan,
        upstreams: Vec<Upstream>,
        configuration: Configuration,
        proxies: Vec<mpsc::UnboundedSender<Update>>,
        record: Record,
    ) -> Faults {
        Faults {
            random,
            plan,
            upstreams,
            configuration,
            proxies,
            record,
            silent: false,
            next_ms: 0,
            later: BTreeMap::new(),
            number: 0,
        }
    }

    fn schedule(&mut self, at_ms: u64, what: Later) {
        self.number += 1;
        self.later.insert((at_ms, self.number), what);
    }

    /// Sends all of the configuration, as a control plane does whose streams begin anew.
    fn speak(&self) {
        if self.silent {
            return;
        }
        let update = self.configuration.update(&self.plan);
        for proxy in &self.proxies {
            // A proxy that has ended is a violation already.
            proxy.send(update.clone()).ok();
        }
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
        let count = self.upstreams.len();
        match self.random.random_range(0..12) {
            0..=5 => {
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
                    .fault(format_args!("{mood:?} at {all:?} for {lasting_ms} ms"));
                for upstream in all {
                    self.upstreams[upstream].set(mood);
                    self.schedule(now_ms + lasting_ms, Later::Well { upstream });
                }
            }
            6 | 7 => {
                let host = self.random.random_range(0..count);
                if self.configuration.churn(host) {
                    self.record
                        .fault(format_args!("upstream-{} comes or goes", host + 1));
                    self.speak();
                }
            }
            8 => {
                let color = self.configuration.switch();
                self.record.fault(format_args!("switch to {color}"));
                self.speak();
            }
            9 => {
                self.record.fault("a storm of configurations");
                for _ in 0..STORM {
                    self.configuration.touch();
                    if self.random.random_bool(0.3) {
                        self.configuration.switch();
                    }
                    self.speak();
                }
            }
            10 => {
                if !self.silent {
                    self.record.fault(format_args!(
                        "the control plane is gone for {lasting_ms} ms"
                    ));
                    self.silent = true;
                    self.schedule(now_ms + lasting_ms, Later::Speak);
                }
            }
            _ => {
                let proxy = self.random.random_range(1..=self.plan.proxies);
                let upstream = self.random.random_range(0..count);
                let lasting_ms = (lasting_ms / 4).min(MAX_HOLD_MS);
                let (one, other) = (
                    format!("proxy-{proxy}"),
                    self.upstreams[upstream].name.clone(),
                );
                self.record
                    .fault(format_args!("hold {one} and {other} for {lasting_ms} ms"));
                sim.hold(one, other);
                self.schedule(now_ms + lasting_ms, Later::Flow { proxy, upstream });
            }
        }
    }

    fn carry_out(&mut self, what: Later, sim: &mut Sim<'_>) {
        match what {
            Later::Well { upstream } => {
                self.record.note(&self.upstreams[upstream].name, "is well");
                self.upstreams[upstream].set(Mood::Well);
            }
            Later::Flow { proxy, upstream } => {
                let (one, other) = (
                    format!("proxy-{proxy}"),
                    self.upstreams[upstream].name.clone(),
                );
                self.record
                    .note("fault", format_args!("release {one} and {other}"));
                sim.release(one, other);
            }
            Later::Speak => {
                self.record.note("fault", "the control plane is back");
                self.silent = false;
                self.speak();
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
        self.silent = false;
        self.configuration.complete();
        self.speak();
    }
}
