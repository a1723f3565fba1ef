//! Runs seeds, each in a process of its own, and says how they went.

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::plan::Reduction;
use crate::{determinism, logic, proxies, world};

/// Marks the last line that a world's process prints.
const SUMMARY: &str = "summary ";
/// A world takes a few.
const MAX_CPU_S: u64 = 120;

/// What kind of world, and which bug is put back in it.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Servers and their clients; a restarted leader resumes its old term.
    Servers {
        restore_leader: bool,
        reduction: Reduction,
    },
    /// State and decisions alone.
    Logic,
    /// Proxies between clients and upstreams.
    Proxies { bug: Option<String> },
}

/// How a world went.
pub struct Outcome {
    pub trace: String,
    pub simulated_ms: u64,
    /// What there was of each, to be told and summed up.
    pub counts: Vec<(&'static str, u64)>,
    pub violations: Vec<String>,
}

impl Kind {
    fn run(&self, seed: u64) -> anyhow::Result<Outcome> {
        match self {
            Kind::Servers {
                restore_leader,
                reduction,
            } => world::run(seed, *restore_leader, reduction),
            Kind::Logic => Ok(logic::run(seed)),
            Kind::Proxies { bug } => proxies::run(seed, bug.as_deref()),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let fixed = |arguments: &[&str]| arguments.iter().map(|it| (*it).to_owned()).collect();
        match self {
            Kind::Servers {
                restore_leader,
                reduction,
            } => {
                let mut arguments: Vec<String> = fixed(&["servers"]);
                arguments.extend(restore_leader.then(|| "--restore-leader".to_owned()));
                arguments.extend(reduction.arguments());
                arguments
            }
            Kind::Logic => fixed(&["logic"]),
            Kind::Proxies { bug: None } => fixed(&["proxies"]),
            Kind::Proxies { bug: Some(bug) } => fixed(&["proxies", "--bug", bug]),
        }
    }

    /// How fast it went: simulated seconds in one, or decisions and applied commands a second where no time passes.
    fn speed(&self, simulated_ms: u64, counts: &[(String, u64)], wall_s: f64, runs: f64) -> String {
        let simulated_s = simulated_ms as f64 / 1e3;
        if let Kind::Logic = self {
            let decided = counts.iter().take(2).map(|(_, count)| count).sum::<u64>() as f64;
            return format!(
                "in {wall_s:.1} s ({:.0} decisions/s)",
                decided / wall_s * runs
            );
        }
        format!(
            "{simulated_s:.1} simulated s in {wall_s:.1} s ({:.0}x)",
            simulated_s / wall_s * runs
        )
    }

    fn command(&self) -> &'static str {
        match self {
            Kind::Servers { .. } => "world",
            Kind::Logic => "logic",
            Kind::Proxies { .. } => "proxy",
        }
    }
}

/// The world's own process: prints its trace and a summary.
pub fn child(seed: u64, kind: Kind) -> anyhow::Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        // Nothing may go on after a part of the world has died.
        eprintln!("{panic}");
        std::process::exit(101);
    }));
    // Fresh, so that what the standard library seeds once a thread is seeded by the world.
    let outcome = std::thread::spawn(move || kind.run(seed))
        .join()
        .map_err(|_| anyhow::anyhow!("the world's thread died"))??;
    let summary = serde_json::json!({
        "simulated_ms": outcome.simulated_ms, "counts": outcome.counts, "violations": outcome.violations,
    });
    let mut out = std::io::stdout().lock();
    out.write_all(outcome.trace.as_bytes())?;
    writeln!(out, "{SUMMARY}{summary}")?;
    out.flush()?;
    // What is left of the world need not be taken down in order.
    std::process::exit(0)
}

pub struct Options {
    pub twice: bool,
    pub trace: bool,
    /// As many seeds as begin within that time.
    pub minutes: Option<u64>,
    pub kind: Kind,
}

/// How one seed went.
#[derive(Default)]
pub struct Report {
    pub simulated_ms: u64,
    pub counts: Vec<(String, u64)>,
    pub trace: String,
    pub trace_hash: String,
    pub violations: Vec<String>,
}

fn start(seed: u64, options: &Options) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("child")
        .arg(seed.to_string())
        .args(options.kind.arguments())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: two system calls between fork and exec.
    unsafe { command.pre_exec(|| determinism::fix_addresses().and_then(|()| limit_cpu())) };
    command.spawn().context("starting a world's process")
}

/// A task that never waits stops a world's time, and so the world.
fn limit_cpu() -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: MAX_CPU_S,
        rlim_max: MAX_CPU_S,
    };
    // SAFETY: the process' own limit.
    match unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Trace and summary.
fn finish(child: Child) -> anyhow::Result<(String, Result<serde_json::Value, String>)> {
    let output = child.wait_with_output()?;
    let mut text = String::from_utf8(output.stdout).context("a trace")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = format!("{}, {}", output.status, said.trim());
        return Ok((text, Err(why)));
    }
    let at = text.rfind(SUMMARY).context("a world without a summary")?;
    let summary = serde_json::from_str(&text[at + SUMMARY.len()..])?;
    text.truncate(at);
    Ok((text, Ok(summary)))
}

fn first_difference(one: &str, other: &str) -> String {
    let mut lines = one.lines().zip(other.lines()).enumerate();
    match lines.find(|(_, (one, other))| one != other) {
        Some((number, (one, other))) => {
            format!("line {}: {one:?} and {other:?}", number + 1)
        }
        None => "one is longer".into(),
    }
}

pub fn seed(seed: u64, options: &Options) -> anyhow::Result<Report> {
    use sha2::{Digest, Sha256};
    let first = start(seed, options)?;
    let second = options.twice.then(|| start(seed, options)).transpose()?;
    // Both write into pipes: the second is read by a thread, so that neither waits.
    let second = second.map(|child| std::thread::spawn(move || finish(child)));
    let (trace, summary) = finish(first)?;
    if options.trace {
        std::io::stdout().lock().write_all(trace.as_bytes())?;
    }
    let mut report = Report::default();
    let hash = Sha256::digest(trace.as_bytes());
    report.trace_hash = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match summary {
        Ok(summary) => {
            report.simulated_ms = summary["simulated_ms"].as_u64().unwrap_or_default();
            report.counts = serde_json::from_value(summary["counts"].clone())?;
            report.violations = serde_json::from_value(summary["violations"].clone())?;
        }
        Err(why) => report.violations.push(format!("the world died: {why}")),
    }
    if let Some(second) = second {
        let (other, _) = second
            .join()
            .map_err(|_| anyhow::anyhow!("reading a trace"))??;
        if other != trace {
            report.violations.push(format!(
                "determinism: the traces of two runs differ, {}",
                first_difference(&trace, &other)
            ));
        }
    }
    report.trace = trace;
    Ok(report)
}

fn told(counts: &[(String, u64)]) -> String {
    let told: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    told.join(", ")
}

/// Runs the seeds and prints a line for each; an error names those that violate a property.
pub fn seeds(range: std::ops::Range<u64>, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let limit = options
        .minutes
        .map(|minutes| Duration::from_secs(60 * minutes));
    let mut failed = Vec::new();
    let mut total = Report::default();
    let runs = if options.twice { 2.0 } else { 1.0 };
    let mut end = range.start;
    for number in range.clone() {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        end = number + 1;
        let began = Instant::now();
        let report = seed(number, options)?;
        let wall_s = began.elapsed().as_secs_f64();
        let speed = options
            .kind
            .speed(report.simulated_ms, &report.counts, wall_s, runs);
        println!(
            "seed {number}: {speed}, {}, trace {}{}",
            told(&report.counts),
            report.trace_hash,
            if options.twice { " twice" } else { "" },
        );
        for violation in &report.violations {
            println!("seed {number} VIOLATES {violation}");
        }
        if !report.violations.is_empty() {
            failed.push(number);
        }
        total.simulated_ms += report.simulated_ms;
        for (place, (name, count)) in report.counts.into_iter().enumerate() {
            match total.counts.get_mut(place) {
                Some((_, sum)) => *sum += count,
                None => total.counts.push((name, count)),
            }
        }
    }
    let wall_s = started.elapsed().as_secs_f64();
    let speed = options
        .kind
        .speed(total.simulated_ms, &total.counts, wall_s, runs);
    println!(
        "{} seeds, --seeds {}..{end}{}: {speed}, {}",
        end - range.start,
        range.start,
        if options.twice { ", each twice" } else { "" },
        told(&total.counts),
    );
    if !failed.is_empty() {
        let command = options.kind.command();
        bail!(
            "properties are violated by seeds {failed:?}; `{command} --seed N --trace` shows how"
        );
    }
    Ok(())
}

/// Requires that a bug that was put back is found within a number of seeds; says by which.
pub fn planted(name: &str, kind: Kind, first: u64, within: u64) -> anyhow::Result<()> {
    let options = Options {
        twice: false,
        trace: false,
        minutes: None,
        kind,
    };
    let started = Instant::now();
    for number in first..first + within {
        let report = seed(number, &options)?;
        if report.violations.is_empty() {
            println!("seed {number}: not found");
            continue;
        }
        for violation in &report.violations {
            println!("seed {number} VIOLATES {violation}");
        }
        println!(
            "{name}: found by seed {number}, after {} seeds and {:.1} s",
            number - first + 1,
            started.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    bail!("{name} was not found within {within} seeds")
}
