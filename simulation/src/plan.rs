//! What the seed decides at the beginning of a world, and what is left of it where a failing seed is shrunk.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use trireme_raft::Timing;

use crate::disk::Character;
use crate::fault::Weights;

/// Numbers of faults, as `3,7`, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultNumbers(pub BTreeSet<u64>);

impl FromStr for FaultNumbers {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultNumbers, String> {
        if text == NO_FAULTS {
            return Ok(FaultNumbers::default());
        }
        let numbers = text.split(',').map(str::parse);
        let numbers: Result<BTreeSet<u64>, _> = numbers.collect();
        let numbers = numbers.map_err(|_| format!("{text:?} is neither 3,7 nor {NO_FAULTS}"))?;
        Ok(FaultNumbers(numbers))
    }
}

const NO_FAULTS: &str = "none";

impl fmt::Display for FaultNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NO_FAULTS);
        }
        let numbers: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

/// What of a seed's world is left out. All that remains happens as it would otherwise, as far as one does not
/// depend on the other.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduction {
    /// Only the faults with these numbers (3,7; none).
    #[arg(long)]
    pub only_faults: Option<FaultNumbers>,
    /// Faults for no longer than that.
    #[arg(long)]
    pub fault_ms: Option<u64>,
    /// No more clients than that.
    #[arg(long)]
    pub clients: Option<u64>,
    /// No more watchers than that.
    #[arg(long)]
    pub watchers: Option<u64>,
    /// The membership stays as it is.
    #[arg(long)]
    pub steady: bool,
}

impl Reduction {
    /// As they are written on a command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut push = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let only = self.only_faults.as_ref().map(FaultNumbers::to_string);
        push("only-faults", only);
        push("fault-ms", number(self.fault_ms));
        push("clients", number(self.clients));
        push("watchers", number(self.watchers));
        arguments.extend(self.steady.then(|| "--steady".to_owned()));
        arguments
    }
}

/// Everything that the seed decides at the beginning.
#[derive(Debug)]
pub struct Plan {
    pub servers: u64,
    pub clients: u64,
    pub watchers: u64,
    pub think_ms: u64,
    pub fault_ms: u64,
    pub pause_ms: u64,
    pub latency_ms: u64,
    /// How long what is overwritten can still be read.
    pub history: Duration,
    /// Between two changes of the membership, at most; 0: it stays as it is.
    pub change_ms: u64,
    /// In the end all disks are full for a while.
    pub full_disks: bool,
    pub disk: Character,
    pub weights: Weights,
    pub timing: Timing,
}

impl Plan {
    pub fn choose(random: &mut ChaCha8Rng, restore_leader: bool, reduction: &Reduction) -> Plan {
        let sync_min_us = random.random_range(200..=2_000);
        let mut plan = Plan {
            servers: if random.random_bool(0.7) { 3 } else { 5 },
            clients: random.random_range(3..=6),
            watchers: 2,
            think_ms: random.random_range(20..=80),
            fault_ms: random.random_range(20_000..=40_000),
            pause_ms: random.random_range(500..=2_500),
            latency_ms: random.random_range(1..=5),
            history: Duration::from_millis(random.random_range(1_000..=10_000)),
            change_ms: if random.random_bool(0.5) {
                random.random_range(1_000..=8_000)
            } else {
                0
            },
            full_disks: random.random_bool(0.4),
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
        };
        let limit = |value: &mut u64, limit: Option<u64>| {
            *value = limit.map_or(*value, |limit| limit.min(*value))
        };
        limit(&mut plan.fault_ms, reduction.fault_ms);
        limit(&mut plan.clients, reduction.clients);
        limit(&mut plan.watchers, reduction.watchers);
        limit(&mut plan.change_ms, reduction.steady.then_some(0));
        plan
    }
}
