//! One list of hosts to choose from, with the state of whoever chooses.

use std::sync::Arc;

use rand_core::RngCore;

use super::edf::Edf;
use super::slow_start;
use crate::config::{LbPolicy, LeastRequest, SlowStart};
use crate::time::Nanos;
use crate::upstream::Host;

/// One list of hosts, and where its rotation or schedule is.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub hosts: Vec<Arc<Host>>,
    /// Only where weights differ or a host is in slow start.
    edf: Option<Edf>,
    rotation: u64,
}

/// A schedule begins within so many turns of its beginning: enough for any cycle of weights, few
/// enough that deadlines stay exact.
pub(super) const TURNS_SKIPPED_MAX: u64 = 1 << 20;

impl Source {
    /// A source over `hosts`; `rotation` is where its rotation goes on.
    pub fn new(hosts: Vec<Arc<Host>>, policy: &LbPolicy, rotation: u64, now: Nanos) -> Source {
        let mut source = Source {
            edf: None,
            rotation,
            hosts,
        };
        let slow = slow_start(policy);
        let scheduled = matches!(
            policy,
            LbPolicy::RoundRobin { .. } | LbPolicy::LeastRequest(_)
        );
        if scheduled && source.hosts.len() > 1 && source.needs_schedule(slow, now) {
            let weights: Vec<f64> = source
                .hosts
                .iter()
                .map(|host| weight(host, policy, slow, now))
                .collect();
            let edf = Edf::after(&weights, rotation % TURNS_SKIPPED_MAX);
            source.edf = Some(edf);
        }
        source
    }

    fn needs_schedule(&self, slow: Option<&SlowStart>, now: Nanos) -> bool {
        let first = self.hosts[0].weight();
        self.hosts.iter().any(|host| {
            host.weight() != first || slow.is_some_and(|slow| now.since(host.created) < slow.window)
        })
    }

    /// Where the rotation is, for the source that replaces this one.
    pub fn rotation(&self) -> u64 {
        self.rotation
    }

    /// The next host.
    pub fn choose(
        &mut self,
        policy: &LbPolicy,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<&Arc<Host>> {
        if self.hosts.len() <= 1 {
            return self.hosts.first();
        }
        if let Some(edf) = &mut self.edf {
            let hosts = &self.hosts;
            let slow = slow_start(policy);
            let index = edf.next(|index| weight(&hosts[index as usize], policy, slow, now))?;
            return self.hosts.get(index as usize);
        }
        match policy {
            LbPolicy::LeastRequest(least) => self.least(least, rng),
            LbPolicy::Random => self.draw(rng),
            _ => {
                let at = self.rotation % self.hosts.len() as u64;
                self.rotation = self.rotation.wrapping_add(1);
                self.hosts.get(usize::try_from(at).unwrap_or(0))
            }
        }
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Option<&Arc<Host>> {
        let at = rng.next_u64() % self.hosts.len() as u64;
        self.hosts.get(usize::try_from(at).unwrap_or(0))
    }

    /// The least busy of a few drawn with replacement; of equally busy ones the first drawn.
    fn least(&self, least: &LeastRequest, rng: &mut dyn RngCore) -> Option<&Arc<Host>> {
        if least.full_scan {
            let fewest = self.hosts.iter().map(|host| host.active()).min()?;
            let ties = self
                .hosts
                .iter()
                .filter(|host| host.active() == fewest)
                .count() as u64;
            let at = usize::try_from(rng.next_u64() % ties.max(1)).unwrap_or(0);
            return self
                .hosts
                .iter()
                .filter(|host| host.active() == fewest)
                .nth(at)
                .or_else(|| self.hosts.first());
        }
        let mut best = self.draw(rng)?;
        for _ in 1..least.choice_count.max(1) {
            let other = self.draw(rng)?;
            if other.active() < best.active() {
                best = other;
            }
        }
        Some(best)
    }
}

/// A host's weight in a schedule: less where it is busy (least request) or new (slow start).
#[allow(clippy::cast_precision_loss)]
fn weight(host: &Host, policy: &LbPolicy, slow: Option<&SlowStart>, now: Nanos) -> f64 {
    let own = f64::from(host.weight());
    let own = match policy {
        LbPolicy::LeastRequest(least) => {
            let busy = host.active().saturating_add(1) as f64;
            // The first two without `powf`, which costs more than the rest of a choice.
            if least.active_request_bias == 1.0 {
                own / busy
            } else if least.active_request_bias == 0.0 {
                own
            } else {
                own / busy.powf(least.active_request_bias)
            }
        }
        _ => own,
    };
    match slow {
        Some(slow) if host.is_healthy() => own * slow_factor(slow, now.since(host.created)),
        _ => own,
    }
}

/// The share of its weight that a host of this age has.
fn slow_factor(slow: &SlowStart, age: std::time::Duration) -> f64 {
    if age >= slow.window {
        return 1.0;
    }
    // Envoy counts whole milliseconds, at least one.
    let age = age.as_millis().max(1);
    let window = slow.window.as_millis().max(1);
    #[allow(clippy::cast_precision_loss)]
    let time = age as f64 / window as f64;
    let factor = if slow.aggression == 1.0 || time == 1.0 {
        time
    } else {
        time.powf(1.0 / slow.aggression)
    };
    factor.max(slow.min_weight_percent / 100.0)
}
