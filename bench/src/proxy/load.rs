//! Load, by wrk and h2load, and what it costs the proxy.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pinned;
use crate::process::Process;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Http1,
    Http2,
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
            Protocol::Tcp => "TCP",
        })
    }
}

pub struct Options {
    pub connections: usize,
    pub seconds: u64,
    pub cores: String,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub requests_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The proxy's time on its core for each request.
    pub cpu_us: f64,
}

/// Streams at a time on each connection of HTTP/2.
const STREAMS: usize = 8;
/// Over HTTP/2 a connection carries several.
const HTTP2_CONNECTIONS: usize = 8;
/// The path that only the last of the ten rules matches.
const PATH: &str = "/last/of/ten";

fn output(mut command: Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    if !done.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// # Errors
/// When the load's program is not there, or does not get answers.
pub fn measure(
    protocol: Protocol,
    address: SocketAddr,
    options: &Options,
    process: &Process,
) -> anyhow::Result<Measured> {
    let before = process.cpu_nanos()?;
    let (requests, seconds, p50_us, p99_us) = match protocol {
        Protocol::Http1 | Protocol::Tcp => wrk(address, options)?,
        Protocol::Http2 => h2load(address, options)?,
    };
    let cpu = process.cpu_nanos()? - before;
    #[allow(clippy::cast_precision_loss)]
    Ok(Measured {
        requests_per_second: requests / seconds,
        p50_us,
        p99_us,
        cpu_us: cpu as f64 / 1e3 / requests,
    })
}

/// `1.23ms` in microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let value: f64 = digits.parse().ok()?;
    Some(match &text[digits.len()..] {
        "us" => value,
        "ms" => value * 1e3,
        "s" => value * 1e6,
        _ => return None,
    })
}

fn wrk(address: SocketAddr, options: &Options) -> anyhow::Result<(f64, f64, f64, f64)> {
    let mut command = pinned(&options.cores, Path::new("wrk"));
    command.args(["-t1", "--latency"]);
    command
        .arg(format!("-c{}", options.connections))
        .arg(format!("-d{}s", options.seconds));
    command.arg(format!("http://{address}{PATH}"));
    let text = output(command)?;
    if text.contains("Non-2xx") {
        bail!("wrk: {text}");
    }
    let after = |word: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(word))
            .map(str::trim)
            .and_then(microseconds)
    };
    let line = text
        .lines()
        .find(|line| line.contains("requests in"))
        .context("wrk counts no requests")?;
    let requests: f64 = line
        .split_whitespace()
        .next()
        .context("wrk counts no requests")?
        .parse()?;
    let seconds = line
        .split("requests in")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let seconds = seconds
        .map(str::trim)
        .and_then(microseconds)
        .context("wrk tells no time")?
        / 1e6;
    Ok((
        requests,
        seconds,
        after("50%").context("no p50")?,
        after("99%").context("no p99")?,
    ))
}

/// Latencies from h2load's log: start, status, microseconds.
fn logged(file: &Path) -> anyhow::Result<Vec<f64>> {
    let text = std::fs::read_to_string(file)?;
    let mut all: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (_, status, time) = (fields.next()?, fields.next()?, fields.next()?);
            (status == "200").then(|| time.parse().ok())?
        })
        .collect();
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn h2load(address: SocketAddr, options: &Options) -> anyhow::Result<(f64, f64, f64, f64)> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = pinned(&options.cores, Path::new("h2load"));
    command
        .arg("-t1")
        .arg(format!("-c{HTTP2_CONNECTIONS}"))
        .arg(format!("-m{STREAMS}"));
    command
        .arg(format!("-D{}", options.seconds))
        .arg(format!("--log-file={}", log.path().display()));
    command.arg(format!("http://{address}{PATH}"));
    output(command)?;
    let all = logged(log.path())?;
    if all.is_empty() {
        bail!("h2load got no answers from {address}");
    }
    #[allow(clippy::cast_precision_loss)]
    Ok((
        all.len() as f64,
        options.seconds as f64,
        percentile(&all, 0.5),
        percentile(&all, 0.99),
    ))
}

/// The median latency at a steady rate, microseconds.
///
/// # Errors
/// When h2load is not there, or gets no answers.
pub fn latency(
    address: SocketAddr,
    rate: usize,
    seconds: u64,
    cores: &str,
    directory: &Path,
) -> anyhow::Result<f64> {
    const CONNECTIONS: usize = 10;
    let log = directory.join("latency.log");
    let mut command = pinned(cores, Path::new("h2load"));
    command
        .args(["--h1", "-t1"])
        .arg(format!("-c{CONNECTIONS}"))
        .arg(format!("-D{seconds}"));
    command
        .arg(format!("--rps={}", rate / CONNECTIONS))
        .arg(format!("--log-file={}", log.display()));
    command.arg(format!("http://{address}{PATH}"));
    output(command)?;
    let all = logged(&log)?;
    std::fs::remove_file(&log)?;
    if all.is_empty() {
        bail!("h2load got no answers from {address}");
    }
    Ok(percentile(&all, 0.5))
}

/// Opens connections, makes one request on each, and holds them.
///
/// # Errors
/// When a connection fails.
pub async fn hold(address: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {PATH} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes())
            .await?;
        let mut answer = vec![0; 4096];
        let mut seen = 0;
        loop {
            let read = stream.read(&mut answer[seen..]).await?;
            if read == 0 {
                bail!("{address} closed a connection");
            }
            seen += read;
            if answer[..seen].ends_with(super::configuration::BODY.as_bytes()) {
                break;
            }
        }
        held.push(stream);
    }
    Ok(held)
}
