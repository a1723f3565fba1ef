//! Makes a failing world smaller: a shorter time of faults, fewer clients, fewer faults, for as long as the same
//! property is violated. Deterministic, as the worlds are.

use std::collections::BTreeSet;

use anyhow::bail;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::plan::{FaultNumbers, Plan, Reduction};
use crate::runner::{self, Kind, Options};

/// Worlds run at most; each is seconds.
const MAX_RUNS: u64 = 200;
/// The time of faults is tried in so many steps.
const TIME_STEPS: u64 = 8;

/// What a violation says before its account of the case.
fn property(violation: &str) -> String {
    let text = violation.split(": ").next().unwrap_or_default();
    text.chars().filter(|it| !it.is_ascii_digit()).collect()
}

struct Shrinking {
    seed: u64,
    restore_leader: bool,
    /// One of these has to be violated.
    properties: BTreeSet<String>,
    best: Reduction,
    /// Numbers of the faults in the smallest world that fails.
    faults: Vec<u64>,
    /// Their lines in its trace.
    told: Vec<String>,
    runs: u64,
}

impl Shrinking {
    /// Takes a smaller world where it still fails.
    fn attempt(&mut self, what: &str, reduction: Reduction) -> anyhow::Result<bool> {
        if self.runs >= MAX_RUNS || reduction == self.best {
            return Ok(false);
        }
        self.runs += 1;
        let options = Options {
            twice: false,
            trace: false,
            minutes: None,
            kind: Kind::Servers {
                restore_leader: self.restore_leader,
                reduction: reduction.clone(),
            },
        };
        let report = runner::seed(self.seed, &options)?;
        let violated: BTreeSet<String> = report.violations.iter().map(|it| property(it)).collect();
        if self.properties.is_empty() {
            self.properties.clone_from(&violated);
        }
        let fails = !violated.is_disjoint(&self.properties);
        println!("{what}: {}", if fails { "fails" } else { "holds" });
        if fails {
            self.best = reduction;
            let lines = report
                .trace
                .lines()
                .filter(|line| line[7..].starts_with(" fault "));
            self.told = lines.map(str::to_owned).collect();
            let numbers = self
                .told
                .iter()
                .filter_map(|line| line.split(" number ").nth(1));
            self.faults = numbers.filter_map(|number| number.parse().ok()).collect();
        }
        Ok(fails)
    }

    fn with(&self, change: impl FnOnce(&mut Reduction)) -> Reduction {
        let mut reduction = self.best.clone();
        change(&mut reduction);
        reduction
    }

    /// Leaves out as many faults at a time as possible, at last one.
    fn fewer_faults(&mut self) -> anyhow::Result<()> {
        let mut chunk = self.faults.len();
        while chunk > 0 {
            let mut at = 0;
            while at < self.faults.len() {
                let end = self.faults.len().min(at + chunk);
                let mut kept = self.faults.clone();
                let left_out: Vec<u64> = kept.drain(at..end).collect();
                let what = format!("without faults {left_out:?}, {} left", kept.len());
                let kept = FaultNumbers(kept.into_iter().collect());
                let reduction = self.with(|it| it.only_faults = Some(kept));
                if !self.attempt(&what, reduction)? {
                    at = end;
                }
            }
            chunk /= 2;
        }
        Ok(())
    }
}

/// Shrinks a seed's world and prints the command that repeats what is left.
pub fn shrink(seed: u64, restore_leader: bool, reduction: Reduction) -> anyhow::Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let plan = Plan::choose(&mut random, restore_leader, &reduction);
    let mut work = Shrinking {
        seed,
        restore_leader,
        properties: BTreeSet::new(),
        // Differs from any that is tried.
        best: Reduction {
            fault_ms: Some(u64::MAX),
            ..Reduction::default()
        },
        faults: Vec::new(),
        told: Vec::new(),
        runs: 0,
    };
    if !work.attempt(&format!("seed {seed}"), reduction)? || work.properties.is_empty() {
        bail!("seed {seed} holds: there is nothing to shrink");
    }
    for step in 1..TIME_STEPS {
        let fault_ms = plan.fault_ms * step / TIME_STEPS;
        let shorter = work.with(|it| it.fault_ms = Some(fault_ms));
        if work.attempt(&format!("faults for {fault_ms} ms"), shorter)? {
            break;
        }
    }
    if plan.change_ms > 0 {
        let steady = work.with(|it| it.steady = true);
        work.attempt("the membership as it is", steady)?;
    }
    work.fewer_faults()?;
    for clients in 1..plan.clients {
        let fewer = work.with(|it| it.clients = Some(clients));
        if work.attempt(&format!("{clients} clients"), fewer)? {
            break;
        }
    }
    let alone = work.with(|it| it.watchers = Some(0));
    work.attempt("no watchers", alone)?;
    // Fewer clients may need fewer faults.
    work.fewer_faults()?;
    println!("after {} runs, these faults are left:", work.runs);
    for line in &work.told {
        println!("{line}");
    }
    let planted = if restore_leader {
        " --planted leader_restore"
    } else {
        ""
    };
    let arguments = work.best.arguments().join(" ");
    println!("simulation world --seed {seed}{planted} {arguments}");
    Ok(())
}
