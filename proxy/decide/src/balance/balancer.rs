//! The balancer of one set of hosts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand_core::RngCore;

use super::Choice;
use super::edf::Edf;
use super::maglev::MaglevTable;
use super::ring::Ring;
use super::source::{Source, TURNS_SKIPPED_MAX};
use super::view::View;
use crate::config::{CommonLb, LbPolicy, LocalityLb};
use crate::time::Nanos;
use crate::upstream::{ClusterStats, Host, Members, PriorityHosts};

/// The balancer of one set of hosts.
#[derive(Debug)]
pub struct Balancer {
    policy: LbPolicy,
    common: CommonLb,
    members: Arc<Members>,
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    /// The health that this was built from.
    generation: u64,
    view: View,
    priorities: Vec<PriorityState>,
}

/// Lists to choose from in one priority.
#[derive(Debug, Default)]
struct PriorityState {
    healthy: Source,
    degraded: Source,
    all: Source,
    /// Healthy and degraded hosts by place, with the schedule of places; only where places are
    /// weighted.
    healthy_places: Option<Places>,
    degraded_places: Option<Places>,
    /// Ring or table, made on first use.
    hashed: Option<Hashed>,
}

#[derive(Debug)]
struct Places {
    schedule: Edf,
    /// Effective weights.
    weights: Vec<f64>,
    sources: Vec<Source>,
}

#[derive(Debug)]
enum Hashed {
    Ring(Ring),
    Maglev(MaglevTable),
}

impl Balancer {
    /// A balancer over `members`.
    #[must_use]
    pub fn new(policy: LbPolicy, common: CommonLb, members: Arc<Members>) -> Balancer {
        Balancer {
            policy,
            common,
            members,
            state: Mutex::new(None),
        }
    }

    /// The hosts.
    #[must_use]
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// The health of priorities as the balancer sees it now.
    pub fn view(&self) -> View {
        View::new(&self.members, &self.common)
    }

    /// Chooses a host. `generation` is that of the hosts' health.
    pub fn choose(
        &self,
        choice: &Choice<'_>,
        generation: &AtomicU64,
        stats: &ClusterStats,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Arc<Host>> {
        let generation = generation.load(Ordering::Acquire);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .as_ref()
            .is_none_or(|state| state.generation != generation)
        {
            let next = self.build(generation, state.as_ref(), now, rng);
            ClusterStats::inc(&stats.lb_recalculate_zone_structures);
            *state = Some(next);
        }
        let state = state.as_mut()?;
        let by_hash = matches!(self.policy, LbPolicy::RingHash(_) | LbPolicy::Maglev(_));
        let hash = if by_hash {
            choice.hash.unwrap_or_else(|| rng.next_u64())
        } else {
            0
        };
        let mut host = None;
        for attempt in 0..=choice.more_attempts {
            let next = if by_hash {
                self.by_hash(state, choice, hash, attempt, stats)
            } else {
                self.in_turn(state, choice, stats, now, rng)
            }?;
            let avoided = choice.avoids(&next);
            host = Some(next);
            if !avoided {
                return host;
            }
        }
        // Every draw was one to avoid. Envoy takes the last; here another is looked for first,
        // since a retry on a host already tried is of no use while there is another.
        self.untried(state, choice, rng).or(host)
    }

    fn in_turn(
        &self,
        state: &mut State,
        choice: &Choice<'_>,
        stats: &ClusterStats,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Arc<Host>> {
        let (priority, degraded) = state.priority(choice, |_| rng.next_u64())?;
        let own = state.priorities.get_mut(priority)?;
        if state.view.panic[priority] {
            ClusterStats::inc(&stats.lb_healthy_panic);
            if self.common.fail_traffic_on_panic {
                return None;
            }
            return own.all.choose(&self.policy, now, rng).cloned();
        }
        let (places, source) = if degraded {
            (&mut own.degraded_places, &mut own.degraded)
        } else {
            (&mut own.healthy_places, &mut own.healthy)
        };
        if let Some(places) = places {
            let weights = &places.weights;
            let place = places.schedule.next(|index| weights[index as usize])?;
            return places.sources[place as usize]
                .choose(&self.policy, now, rng)
                .cloned();
        }
        source.choose(&self.policy, now, rng).cloned()
    }

    fn by_hash(
        &self,
        state: &mut State,
        choice: &Choice<'_>,
        hash: u64,
        attempt: u32,
        stats: &ClusterStats,
    ) -> Option<Arc<Host>> {
        let (priority, _) = state.priority(choice, |_| hash)?;
        let panic = state.view.panic[priority];
        if panic {
            ClusterStats::inc(&stats.lb_healthy_panic);
            if self.common.fail_traffic_on_panic {
                return None;
            }
        }
        let own = state.priorities.get_mut(priority)?;
        let hosts = &self.members.priorities[priority];
        let hashed = own.hashed.get_or_insert_with(|| self.hashed(hosts, panic));
        match hashed {
            Hashed::Ring(ring) => ring.choose(hash, attempt),
            Hashed::Maglev(table) => table.choose(hash, attempt),
        }
        .cloned()
    }

    /// Some host that is not to be avoided, in the priority of the draw first.
    fn untried(
        &self,
        state: &State,
        choice: &Choice<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<Arc<Host>> {
        for (priority, own) in state.priorities.iter().enumerate() {
            let hosts = if state.view.panic[priority] {
                &own.all.hosts
            } else {
                &own.healthy.hosts
            };
            if hosts.is_empty() || state.view.loads.healthy.get(priority) == Some(&0) {
                continue;
            }
            let start = usize::try_from(rng.next_u64() % hosts.len() as u64).unwrap_or(0);
            let found = (0..hosts.len())
                .map(|step| &hosts[(start + step) % hosts.len()])
                .find(|host| !choice.avoids(host));
            if let Some(host) = found {
                return Some(host.clone());
            }
        }
        None
    }

    fn build(
        &self,
        generation: u64,
        before: Option<&State>,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> State {
        let view = View::new(&self.members, &self.common);
        let seed = match before {
            Some(_) => 0,
            None => rng.next_u64(),
        };
        let by_hash = matches!(self.policy, LbPolicy::RingHash(_) | LbPolicy::Maglev(_));
        let priorities = self
            .members
            .priorities
            .iter()
            .enumerate()
            .map(|(index, priority)| {
                let before = before.and_then(|state| state.priorities.get(index));
                self.priority_state(priority, before, seed, by_hash, now)
            })
            .collect();
        State {
            generation,
            view,
            priorities,
        }
    }

    fn priority_state(
        &self,
        priority: &PriorityHosts,
        before: Option<&PriorityState>,
        seed: u64,
        by_hash: bool,
        now: Nanos,
    ) -> PriorityState {
        let rotation = |source: fn(&PriorityState) -> &Source| {
            before.map_or(seed, |state| source(state).rotation())
        };
        let pick = |keep: fn(&Host) -> bool| -> Vec<Arc<Host>> {
            priority
                .hosts
                .iter()
                .filter(|host| keep(host))
                .cloned()
                .collect()
        };
        let source = |hosts, rotation| Source::new(hosts, &self.policy, rotation, now);
        let mut state = PriorityState {
            healthy: source(pick(Host::is_healthy), rotation(|state| &state.healthy)),
            degraded: source(pick(Host::is_degraded), rotation(|state| &state.degraded)),
            all: source(pick(|_| true), rotation(|state| &state.all)),
            ..PriorityState::default()
        };
        if self.common.locality == LocalityLb::Weighted && !by_hash {
            state.healthy_places = self.places(priority, Host::is_healthy, seed, now);
            state.degraded_places = self.places(priority, Host::is_degraded, seed, now);
        }
        state
    }

    /// Places by effective weight: weight · min(1, overprovisioning · available / all).
    #[allow(clippy::cast_precision_loss)]
    fn places(
        &self,
        priority: &PriorityHosts,
        keep: fn(&Host) -> bool,
        seed: u64,
        now: Nanos,
    ) -> Option<Places> {
        let factor = f64::from(self.members.overprovisioning_factor) / 100.0;
        let mut weights = Vec::new();
        let mut sources = Vec::new();
        for place in &priority.localities {
            let all = &priority.hosts[place.range.clone()];
            let hosts: Vec<Arc<Host>> = all.iter().filter(|host| keep(host)).cloned().collect();
            if hosts.is_empty() || place.weight == 0 {
                continue;
            }
            let share = (factor * hosts.len() as f64 / all.len() as f64).min(1.0);
            weights.push(f64::from(place.weight) * share);
            sources.push(Source::new(hosts, &self.policy, seed, now));
        }
        if sources.is_empty() {
            return None;
        }
        let schedule = Edf::after(&weights, seed % TURNS_SKIPPED_MAX);
        Some(Places {
            schedule,
            weights,
            sources,
        })
    }

    fn hashed(&self, priority: &PriorityHosts, panic: bool) -> Hashed {
        let shares = self.shares(priority, panic);
        let weights = || shares.iter().map(|(_, share)| *share);
        let by_name = self.common.use_hostname_for_hashing;
        match &self.policy {
            LbPolicy::Maglev(maglev) => Hashed::Maglev(MaglevTable::new(
                &shares,
                weights().fold(0.0, f64::max),
                maglev.table_size,
                by_name,
            )),
            LbPolicy::RingHash(ring) => Hashed::Ring(Ring::new(
                &shares,
                weights().fold(1.0, f64::min),
                ring,
                by_name,
            )),
            // Only hash policies come here.
            _ => Hashed::Ring(Ring::default()),
        }
    }

    /// Hosts with their shares of everything, by place where places are weighted.
    #[allow(clippy::cast_precision_loss)]
    fn shares(&self, priority: &PriorityHosts, panic: bool) -> Vec<(Arc<Host>, f64)> {
        let mut shares = Vec::new();
        let mut add = |hosts: &[Arc<Host>], part: f64| {
            let usable = || hosts.iter().filter(|host| panic || host.is_healthy());
            let sum: u64 = usable().map(|host| u64::from(host.weight())).sum();
            for host in usable() {
                let share = f64::from(host.weight()) * part / sum as f64;
                shares.push((host.clone(), share));
            }
        };
        let by_place = self.common.locality == LocalityLb::Weighted;
        let sum: u64 = priority
            .localities
            .iter()
            .map(|place| u64::from(place.weight))
            .sum();
        if by_place && sum > 0 {
            for place in priority.localities.iter().filter(|place| place.weight > 0) {
                add(
                    &priority.hosts[place.range.clone()],
                    f64::from(place.weight) / sum as f64,
                );
            }
        } else {
            add(&priority.hosts, 1.0);
        }
        shares
    }
}

impl State {
    /// The priority for a draw, which is only made where several share the load.
    fn priority(&self, choice: &Choice<'_>, draw: impl FnOnce(()) -> u64) -> Option<(usize, bool)> {
        if let Some(every) = choice.avoid_priorities_every.filter(|every| *every > 0)
            && choice.tried.len() >= every as usize
        {
            let counted = choice.tried.len() / every as usize * every as usize;
            let tried = &choice.tried[..counted];
            let loads = self.view.loads_without(|priority| {
                tried.iter().any(|host| host.priority as usize == priority)
            });
            return loads.choose(draw(()));
        }
        match self.view.loads.only() {
            Some(priority) => Some((priority, false)),
            None => self.view.loads.choose(draw(())),
        }
    }
}
