//! What health means for priorities: their loads, and whether they panic. The arithmetic is
//! Envoy's, with its truncations.

use crate::config::CommonLb;
use crate::planted;
use crate::upstream::{Members, PriorityHosts};

/// How a hundred parts of load fall on priorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityLoads {
    /// On healthy hosts, by priority.
    pub healthy: Vec<u32>,
    /// On degraded hosts, by priority.
    pub degraded: Vec<u32>,
}

impl PriorityLoads {
    /// The priority for a draw, and whether its degraded hosts are meant.
    #[must_use]
    pub fn choose(&self, draw: u64) -> Option<(usize, bool)> {
        let part = draw % 100 + 1;
        let mut sum = 0u64;
        for (loads, degraded) in [(&self.healthy, false), (&self.degraded, true)] {
            for (priority, load) in loads.iter().enumerate() {
                sum += u64::from(*load);
                if part <= sum {
                    return Some((priority, degraded));
                }
            }
        }
        None
    }

    /// The one priority that takes everything; none where several share.
    #[must_use]
    pub fn only(&self) -> Option<usize> {
        self.healthy.iter().position(|load| *load == 100)
    }
}

/// Health of all priorities at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Availability of healthy hosts by priority, percent, with overprovisioning.
    pub health: Vec<u32>,
    /// The same of degraded hosts.
    pub degraded: Vec<u32>,
    /// Loads.
    pub loads: PriorityLoads,
    /// Which priorities use all hosts because too few are healthy.
    pub panic: Vec<bool>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    healthy: u64,
    degraded: u64,
    total: u64,
}

fn count(priority: &PriorityHosts, by_weight: bool) -> Counts {
    let mut counts = Counts::default();
    for host in &priority.hosts {
        let weight = if by_weight {
            u64::from(host.weight())
        } else {
            1
        };
        counts.total += weight;
        if host.is_healthy() {
            counts.healthy += weight;
        } else if host.is_degraded() {
            counts.degraded += weight;
        }
    }
    counts
}

impl View {
    /// The view of `members` now.
    #[must_use]
    pub fn new(members: &Members, common: &CommonLb) -> View {
        let factor = u64::from(members.overprovisioning_factor);
        let availability = |part: u64, total: u64| -> u32 {
            let percent = (factor * part).checked_div(total).unwrap_or(0);
            u32::try_from(percent.min(100)).unwrap_or(100)
        };
        let mut view = View::default();
        for priority in &members.priorities {
            let counts = count(priority, members.weighted_priority_health);
            view.health.push(availability(counts.healthy, counts.total));
            view.degraded
                .push(availability(counts.degraded, counts.total));
        }
        let total = total_availability(&view.health, &view.degraded);
        view.loads = loads(&view.health, &view.degraded, total);
        let threshold = common.panic_threshold.percent.clamp(0.0, 100.0).trunc();
        view.panic = vec![false; members.priorities.len()];
        if threshold > 0.0 && total == 0 {
            view.total_panic(members);
        } else if total != 100 {
            // Where all priorities together are healthy enough, no single one panics.
            for (priority, panics) in members.priorities.iter().zip(&mut view.panic) {
                *panics = is_panicking(priority, threshold);
            }
        }
        view
    }

    /// Nothing is healthy: every priority uses all hosts, loaded by their number.
    fn total_panic(&mut self, members: &Members) {
        self.panic.fill(true);
        let hosts: u64 = members.len() as u64;
        self.loads.degraded = vec![0; members.priorities.len()];
        self.loads.healthy = vec![0; members.priorities.len()];
        if hosts == 0 {
            self.loads.healthy[0] = 100;
            return;
        }
        let mut rest = 100u64;
        let mut first = None;
        for (index, priority) in members.priorities.iter().enumerate() {
            let own = priority.hosts.len() as u64;
            if own > 0 {
                first.get_or_insert(index);
            }
            let load = 100 * own / hosts;
            rest -= load;
            self.loads.healthy[index] = u32::try_from(load).unwrap_or(100);
        }
        if let Some(first) = first {
            self.loads.healthy[first] += u32::try_from(rest).unwrap_or(0);
        }
    }

    /// Loads with some priorities left out, for retries elsewhere; the usual loads where nothing
    /// else is available.
    #[must_use]
    pub fn loads_without(&self, excluded: impl Fn(usize) -> bool) -> PriorityLoads {
        let keep = |values: &[u32]| -> Vec<u32> {
            values
                .iter()
                .enumerate()
                .map(|(index, value)| if excluded(index) { 0 } else { *value })
                .collect()
        };
        let (health, degraded) = (keep(&self.health), keep(&self.degraded));
        let total = total_availability(&health, &degraded);
        if total == 0 {
            return self.loads.clone();
        }
        loads(&health, &degraded, total)
    }
}

#[allow(clippy::cast_precision_loss)]
fn is_panicking(priority: &PriorityHosts, threshold: f64) -> bool {
    let mut counts = count(priority, false);
    if planted::on(planted::Bug::PanicMiscount) {
        counts.healthy = counts.healthy.saturating_sub(1);
    }
    let percent = |part: u64| {
        if counts.total == 0 {
            0.0
        } else {
            100.0 * part as f64 / counts.total as f64
        }
    };
    percent(counts.healthy) + percent(counts.degraded) < threshold
}

fn total_availability(health: &[u32], degraded: &[u32]) -> u32 {
    health.iter().chain(degraded).sum::<u32>().min(100)
}

fn loads(health: &[u32], degraded: &[u32], total: u32) -> PriorityLoads {
    if total == 0 {
        return PriorityLoads {
            healthy: vec![0; health.len()],
            degraded: vec![0; degraded.len()],
        };
    }
    let mut rest = 100;
    let mut distribute = |availability: &[u32]| -> Vec<u32> {
        availability
            .iter()
            .map(|own| {
                let load = (own * 100 / total).min(rest);
                rest -= load;
                load
            })
            .collect()
    };
    let mut healthy = distribute(health);
    let mut degraded_loads = distribute(degraded);
    // What rounding left goes to the first that is available.
    if rest > 0 {
        if let Some(first) = health.iter().position(|own| *own > 0) {
            healthy[first] += rest;
        } else if let Some(first) = degraded.iter().position(|own| *own > 0) {
            degraded_loads[first] += rest;
        }
    }
    PriorityLoads {
        healthy,
        degraded: degraded_loads,
    }
}
