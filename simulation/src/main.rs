//! Deterministic worlds: the real servers on a simulated network, clock and disk.
//!
//! In: a seed. It decides the number of servers, latencies, disks, faults and their weights, and
//! what clients do. Out: a trace of everything that can be seen, the same byte for byte each time,
//! and a verdict on the properties of `check/`: linearizability per key, the same state at the same
//! index, no acknowledged write lost, one leader a term, watches without gap or repeat; and after
//! healing, one leader and equal servers within a bound.
//!
//! What runs is the product: `trireme-raft`'s replica (openraft, log, state machine, gRPC between
//! servers) and `trireme-api`'s handlers, over turmoil's TCP and a [`disk`] that a crash robs of
//! what was not synced. What makes it deterministic is in [`determinism`]; besides, a world runs on
//! one thread, one world a process, with addresses fixed.
//!
//! A known bug is kept to prove that the simulator sees: `--planted leader_restore` lets a restarted
//! leader resume its old term. The cargo feature `bug_leader_restore` of `trireme-raft`, which this
//! crate turns on, adds only a hidden switch that is off unless a world sets it: so one build serves
//! both, and the product, even when built together with this crate, behaves the same.
//!
//! Deliberately not here: TLS (certificates would be most of the work of a dial), the node agents,
//! and membership changes.

mod client;
mod connection;
mod determinism;
mod disk;
mod fault;
mod record;
mod runner;
mod server;
mod verdict;
mod watcher;
mod world;

use std::ops::Range;

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(about = "Runs Trireme's servers in simulated worlds")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Planted {
    /// A restarted leader resumes its old term.
    LeaderRestore,
}

#[derive(Subcommand)]
enum Action {
    /// The servers, clients and faults of a seed, or of many.
    World {
        #[arg(long, conflicts_with = "seeds")]
        seed: Option<u64>,
        /// From A up to, but not including, B: A..B.
        #[arg(long, value_parser = range)]
        seeds: Option<Range<u64>>,
        /// Runs each seed in two processes and compares their traces.
        #[arg(long)]
        twice: bool,
        /// Prints the trace.
        #[arg(long)]
        trace: bool,
        /// Puts a known bug back. With --within, succeeds when that many seeds find it.
        #[arg(long)]
        planted: Option<Planted>,
        #[arg(long, requires = "planted")]
        within: Option<u64>,
    },
    /// One world in this process; for the other command.
    #[command(hide = true)]
    Child {
        seed: u64,
        #[arg(long)]
        restore_leader: bool,
    },
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let malformed = || format!("{text:?} is not A..B");
    let (start, end) = text.split_once("..").ok_or_else(malformed)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
    Ok(number(start)?..number(end)?)
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Action::Child {
            seed,
            restore_leader,
        } => runner::child(seed, restore_leader),
        Action::World {
            seed,
            seeds,
            twice,
            trace,
            planted,
            within,
        } => {
            let seeds = match (seed, seeds) {
                (Some(seed), _) => seed..seed + 1,
                (None, Some(seeds)) => seeds,
                (None, None) => 0..1,
            };
            if let Some(within) = within {
                return runner::planted(seeds.start, within);
            }
            let options = runner::Options {
                twice,
                trace,
                restore_leader: planted.is_some(),
            };
            runner::seeds(seeds, &options)
        }
    }
}
