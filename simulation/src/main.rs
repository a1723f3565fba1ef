//! Deterministic worlds: the real servers on a simulated network, clock and disk.
//!
//! In: a seed. It decides the number of servers, latencies, disks, faults and their weights, and
//! what clients do. Out: a trace of everything that can be seen, the same byte for byte each time,
//! and a verdict on the properties of `check/`: linearizability per key, the same state at the same
//! index, no acknowledged write lost, one leader a term, watches without gap or repeat; and after
//! healing, one leader and equal servers within a bound.
//!
//! What runs is the product: `trireme-raft`'s replica (openraft, log, state machine, gRPC between
//! servers), `trireme-api`'s handlers and `trireme-server`'s compaction, over turmoil's TCP and a [`disk`] that a
//! crash robs of what was not synced, and that stalls and runs full. What makes it deterministic is in [`determinism`]; besides, a world runs on
//! one thread, one world a process, with addresses fixed.
//!
//! A known bug is kept to prove that the simulator sees: `--planted leader_restore` lets a restarted
//! leader resume its old term. The cargo feature `bug_leader_restore` of `trireme-raft`, which this
//! crate turns on, adds only a hidden switch that is off unless a world sets it: so one build serves
//! both, and the product, even when built together with this crate, behaves the same.
//!
//! `--shrink` makes a failing world smaller: faults are numbered and draw apart, so that any of them can be left out.
//!
//! [`logic`] is state and decisions alone, without servers, at thousands of decisions a second.
//!
//! Another kind of world, [`proxies`], has proxies between clients and upstreams, and the control plane that
//! configures them; the bugs that `trireme-proxy-decide` can have put back (its feature `planted`, switches again)
//! are each to be found there.
//!
//! An operator changes the membership meanwhile: servers go, their disks are wiped, and others with new ids come at
//! the same addresses.
//!
//! Deliberately not here: TLS (certificates would be most of the work of a dial; that a peer is who it should be is
//! tested over real TLS in `server/raft/tests`), RocksDB's own files (its engine is tested against the same contract
//! as the [`disk`]), clocks that run apart, bits that flip on disks or wires, the node agents, and the loop of
//! controllers and scheduler.

mod client;
mod connection;
mod determinism;
mod disk;
mod fault;
mod lister;
mod logic;
mod machine;
mod operator;
mod plan;
mod proxies;
mod record;
mod runner;
mod server;
mod shrink;
mod verdict;
mod watcher;
mod world;

use std::ops::Range;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plan::Reduction;
use runner::Kind;

#[derive(Parser)]
#[command(about = "Runs Trireme's servers, decisions and proxies in simulated worlds")]
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

#[derive(Args)]
struct Seeds {
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// From A up to, but not including, B: A..B.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// As many seeds as begin within that time, from the first on; the range is printed.
    #[arg(long, conflicts_with = "seed")]
    minutes: Option<u64>,
    /// Runs each seed in two processes and compares their traces.
    #[arg(long)]
    twice: bool,
    /// Prints the trace.
    #[arg(long)]
    trace: bool,
    /// Succeeds when that many seeds find the planted bug.
    #[arg(long, requires = "planted")]
    within: Option<u64>,
}

#[derive(Subcommand)]
enum Action {
    /// The servers, clients and faults of a seed, or of many.
    World {
        #[command(flatten)]
        seeds: Seeds,
        /// Puts a known bug back.
        #[arg(long)]
        planted: Option<Planted>,
        /// Makes the world of a seed that fails smaller, and prints what is left.
        #[arg(long, requires = "seed")]
        shrink: bool,
        #[command(flatten)]
        reduction: Reduction,
    },
    /// The state machine beside a model, scheduler and controllers driven to a fixpoint: of a seed, or of many.
    Logic {
        #[command(flatten)]
        seeds: Seeds,
    },
    /// Proxies, their clients and upstreams, and the faults of a seed, or of many.
    Proxy {
        #[command(flatten)]
        seeds: Seeds,
        /// Puts a known bug back; `all`, with --within, one after the other.
        #[arg(long, value_parser = planted_name)]
        planted: Option<String>,
    },
    /// One world in this process; for the other commands.
    #[command(hide = true)]
    Child {
        seed: u64,
        #[command(subcommand)]
        kind: ChildKind,
    },
}

#[derive(Subcommand)]
enum ChildKind {
    Servers {
        #[arg(long)]
        restore_leader: bool,
        #[command(flatten)]
        reduction: Reduction,
    },
    Logic,
    Proxies {
        #[arg(long)]
        bug: Option<String>,
    },
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let malformed = || format!("{text:?} is not A..B");
    let (start, end) = text.split_once("..").ok_or_else(malformed)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
    Ok(number(start)?..number(end)?)
}

/// Every bug that proxies can have.
const ALL: &str = "all";

fn planted_name(text: &str) -> Result<String, String> {
    let known: Vec<&str> = proxies::planted_names().chain([ALL]).collect();
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("one of {}", known.join(", ")))
}

impl Seeds {
    fn range(&self) -> Range<u64> {
        match (self.seed, &self.seeds) {
            (Some(seed), _) => seed..seed + 1,
            (None, Some(seeds)) => seeds.clone(),
            (None, None) if self.minutes.is_some() => 0..u64::MAX,
            (None, None) => 0..1,
        }
    }

    fn run(&self, kind: Kind) -> anyhow::Result<()> {
        let options = runner::Options {
            twice: self.twice,
            trace: self.trace,
            minutes: self.minutes,
            kind,
        };
        runner::seeds(self.range(), &options)
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Action::Child { seed, kind } => {
            let kind = match kind {
                ChildKind::Servers {
                    restore_leader,
                    reduction,
                } => Kind::Servers {
                    restore_leader,
                    reduction,
                },
                ChildKind::Logic => Kind::Logic,
                ChildKind::Proxies { bug } => Kind::Proxies { bug },
            };
            runner::child(seed, kind)
        }
        Action::World {
            seeds,
            planted,
            shrink,
            reduction,
        } => {
            let restore_leader = planted.is_some();
            if shrink {
                return shrink::shrink(seeds.range().start, restore_leader, reduction);
            }
            let kind = Kind::Servers {
                restore_leader,
                reduction,
            };
            match seeds.within {
                Some(within) => {
                    runner::planted("leader_restore", kind, seeds.range().start, within)
                }
                None => seeds.run(kind),
            }
        }
        Action::Logic { seeds } => seeds.run(Kind::Logic),
        Action::Proxy { seeds, planted } => {
            let Some(within) = seeds.within else {
                return seeds.run(Kind::Proxies { bug: planted });
            };
            let names = proxies::planted_names();
            for name in names.filter(|name| {
                matches!(planted.as_deref(), Some(ALL)) || planted.as_deref() == Some(name)
            }) {
                let kind = Kind::Proxies {
                    bug: Some(name.to_owned()),
                };
                runner::planted(name, kind, seeds.range().start, within)?;
            }
            Ok(())
        }
    }
}
