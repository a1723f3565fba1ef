//! The sweep: returns, success rates, failure percentages.

use std::sync::Arc;

use rand_core::RngCore;

use super::{Change, Detector, Reason, State};
use crate::time::Nanos;
use crate::upstream::Host;

/// A host's success rate in percent and its requests in the interval that ended.
struct Rate {
    host: Arc<Host>,
    success_percent: f64,
    requests: u64,
}

impl Detector {
    /// Sweeps if it is time; what changed. The next sweep is an interval after this one.
    pub fn sweep(&self, now: Nanos, rng: &mut dyn RngCore) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut state = self.lock();
        if now < state.next_sweep {
            return changes;
        }
        state.next_sweep = now.after(self.config.interval);
        let hosts = state.hosts.clone();
        let mut external = Vec::new();
        let mut local = Vec::new();
        for host in &hosts {
            if self.is_due_back(host, now) {
                self.uneject(&mut state, host, now);
                changes.push(Change::Returned { host: host.clone() });
            }
            external.extend(rate(host, host.monitor.take_external()));
            local.extend(rate(host, host.monitor.take_local()));
        }
        self.judge(
            &mut state,
            &external,
            [Reason::SuccessRate, Reason::FailurePercentage],
            now,
            rng,
            &mut changes,
        );
        self.judge(
            &mut state,
            &local,
            [
                Reason::SuccessRateLocalOrigin,
                Reason::FailurePercentageLocalOrigin,
            ],
            now,
            rng,
            &mut changes,
        );
        for host in &hosts {
            if !host.is_ejected() {
                host.monitor.forgive(now, self.config.interval);
            }
        }
        changes
    }

    fn judge(
        &self,
        state: &mut State,
        rates: &[Rate],
        [by_rate, by_percentage]: [Reason; 2],
        now: Nanos,
        rng: &mut dyn RngCore,
        changes: &mut Vec<Change>,
    ) {
        let config = &self.config;
        let hosts = state.hosts.len();
        let enough = |minimum: u32| hosts >= minimum as usize;
        if !enough(config.success_rate_minimum_hosts)
            && !enough(config.failure_percentage_minimum_hosts)
        {
            return;
        }
        // Only hosts in when the sweep began count; returns of this sweep count too.
        let with_volume = |volume: u32| -> Vec<&Rate> {
            rates
                .iter()
                .filter(|rate| !rate.host.is_ejected() && rate.requests >= u64::from(volume))
                .collect()
        };
        let by_success = with_volume(config.success_rate_request_volume);
        let by_failure = with_volume(config.failure_percentage_request_volume);
        let mut eject = |state: &mut State, host: &Arc<Host>, reason: Reason| {
            if !host.is_ejected() && self.eject(state, host, reason, now, rng) {
                changes.push(Change::Ejected {
                    host: host.clone(),
                    reason,
                });
            }
        };
        if !by_success.is_empty() && by_success.len() >= config.success_rate_minimum_hosts as usize
        {
            let threshold = success_threshold(
                &by_success,
                f64::from(config.success_rate_stdev_factor) / 1000.0,
            );
            for rate in &by_success {
                if rate.success_percent < threshold {
                    eject(state, &rate.host, by_rate);
                }
            }
        }
        if !by_failure.is_empty()
            && by_failure.len() >= config.failure_percentage_minimum_hosts as usize
        {
            for rate in &by_failure {
                if 100.0 - rate.success_percent >= f64::from(config.failure_percentage_threshold) {
                    eject(state, &rate.host, by_percentage);
                }
            }
        }
    }
}

fn rate(host: &Arc<Host>, (success, total): (u64, u64)) -> Option<Rate> {
    #[allow(clippy::cast_precision_loss)]
    (total > 0).then(|| Rate {
        host: host.clone(),
        success_percent: success as f64 * 100.0 / total as f64,
        requests: total,
    })
}

/// Mean − factor · standard deviation.
#[allow(clippy::cast_precision_loss)]
fn success_threshold(rates: &[&Rate], factor: f64) -> f64 {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|rate| rate.success_percent).sum::<f64>() / count;
    let variance = rates
        .iter()
        .map(|rate| (rate.success_percent - mean).powi(2))
        .sum::<f64>()
        / count;
    mean - factor * variance.sqrt()
}
