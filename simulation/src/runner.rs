//! Runs seeds, each in a process of its own, and says how they went.

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{determinism, world};

/// Marks the last line that a world's process prints.
const SUMMARY: &str = "summary ";

/// The world's own process: prints its trace and a summary.
pub fn child(seed: u64, restore_leader: bool) -> anyhow::Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        // Nothing may go on after a part of the world has died.
        eprintln!("{panic}");
        std::process::exit(101);
    }));
    // Fresh, so that what the standard library seeds once a thread is seeded by the world.
    let outcome = std::thread::spawn(move || world::run(seed, restore_leader))
        .join()
        .map_err(|_| anyhow::anyhow!("the world's thread died"))??;
    let summary = serde_json::json!({
        "simulated_ms": outcome.simulated_ms, "servers": outcome.servers, "faults": outcome.faults,
        "writes": outcome.writes, "reads": outcome.reads, "unknown": outcome.unknown,
        "watched": outcome.watched, "snapshots": outcome.snapshots, "violations": outcome.violations,
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
    pub restore_leader: bool,
}

/// How one seed went.
#[derive(Default)]
pub struct Report {
    pub simulated_ms: u64,
    pub servers: u64,
    pub faults: u64,
    pub writes: u64,
    pub reads: u64,
    pub unknown: u64,
    pub watched: u64,
    pub snapshots: u64,
    pub trace_hash: String,
    pub violations: Vec<String>,
}

fn start(seed: u64, options: &Options) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("child")
        .arg(seed.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if options.restore_leader {
        command.arg("--restore-leader");
    }
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(determinism::fix_addresses) };
    command.spawn().context("starting a world's process")
}

/// Trace and summary.
fn finish(child: Child) -> anyhow::Result<(String, Result<serde_json::Value, String>)> {
    let output = child.wait_with_output()?;
    let mut text = String::from_utf8(output.stdout).context("a trace")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
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
            let number = |name: &str| summary[name].as_u64().unwrap_or_default();
            report.simulated_ms = number("simulated_ms");
            report.servers = number("servers");
            report.faults = number("faults");
            report.writes = number("writes");
            report.reads = number("reads");
            report.unknown = number("unknown");
            report.watched = number("watched");
            report.snapshots = number("snapshots");
            let violations = summary["violations"].as_array();
            report.violations = violations
                .into_iter()
                .flatten()
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect();
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
    Ok(report)
}

/// Runs the seeds and prints a line for each; an error names those that violate a property.
pub fn seeds(range: std::ops::Range<u64>, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut failed = Vec::new();
    let mut total = Report::default();
    let runs = if options.twice { 2 } else { 1 };
    for number in range.clone() {
        let began = Instant::now();
        let report = seed(number, options)?;
        let wall_s = began.elapsed().as_secs_f64();
        println!(
            "seed {number}: {:.1} simulated s in {wall_s:.1} s ({:.0}x), {} servers, {} faults, {} snapshots \
             installed, {} writes acknowledged, {} unknown, {} reads, {} events watched, trace {}{}",
            report.simulated_ms as f64 / 1e3,
            report.simulated_ms as f64 / 1e3 / wall_s * f64::from(runs),
            report.servers,
            report.faults,
            report.snapshots,
            report.writes,
            report.unknown,
            report.reads,
            report.watched,
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
        total.faults += report.faults;
        total.snapshots += report.snapshots;
        total.writes += report.writes;
        total.reads += report.reads;
    }
    let wall_s = started.elapsed().as_secs_f64();
    let simulated_s = total.simulated_ms as f64 / 1e3;
    println!(
        "{} seeds{}: {simulated_s:.0} simulated s in {wall_s:.1} s ({:.0}x), {} faults, {} snapshots installed, {} writes \
         acknowledged, {} reads",
        range.end.saturating_sub(range.start),
        if options.twice { ", each twice" } else { "" },
        simulated_s / wall_s * f64::from(runs),
        total.faults,
        total.snapshots,
        total.writes,
        total.reads,
    );
    if !failed.is_empty() {
        bail!("properties are violated by seeds {failed:?}; `world --seed N --trace` shows how");
    }
    Ok(())
}

/// Requires that a bug that was put back is found within a number of seeds; says by which.
pub fn planted(first: u64, within: u64) -> anyhow::Result<()> {
    let options = Options {
        twice: false,
        trace: false,
        restore_leader: true,
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
            "leader_restore: found by seed {number}, after {} seeds and {:.1} s",
            number - first + 1,
            started.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    bail!("leader_restore was not found within {within} seeds")
}
