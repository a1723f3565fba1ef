//! `trireme server`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;
use trireme_server::{ServerOptions, Start};

#[derive(Args, Debug)]
pub struct Options {
    /// Begin a new cluster with this server
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Enter a cluster by any of its servers: HOST:PORT[,HOST:PORT...]
    #[arg(long, value_delimiter = ',')]
    join: Vec<String>,
    /// The join token; `trireme token` on a server prints it
    #[arg(long, env = "TRIREME_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the join token
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// This server's name; the machine's host name where not given
    #[arg(long)]
    name: Option<String>,
    /// The address that other machines reach this one at
    #[arg(long)]
    address: Option<IpAddr>,
    /// Where state and credentials are kept
    #[arg(long, default_value = "/var/lib/trireme/server")]
    data: PathBuf,
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// For Raft between servers
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
    /// Addresses of pods; a node gets a /24 of it (first server only)
    #[arg(long, default_value = "10.42.0.0/16")]
    cluster_cidr: String,
    /// Addresses of services (first server only)
    #[arg(long, default_value = "10.43.0.0/16")]
    service_cidr: String,
    /// Domain of the cluster's DNS names (first server only)
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Milliseconds between a leader's heartbeats; raise it, with the election timeout, on slow networks
    #[arg(long, default_value_t = 70)]
    heartbeat_ms: u64,
    /// Least milliseconds without a heartbeat before an election; the most is 5/3 of it
    #[arg(long, default_value_t = 210)]
    election_ms: u64,
    /// Seconds that what was overwritten stays readable, for watches that resume and lists in pages
    #[arg(long, env = "TRIREME_HISTORY_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    history_seconds: u64,
}

pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    let name = match options.name {
        Some(name) => name,
        None => host_name()?,
    };
    let known = options.data.join("server.json").exists();
    let start = if options.bootstrap {
        Start::Bootstrap
    } else if !options.join.is_empty() {
        let token = read_token(options.token, options.token_file, known)?;
        match token {
            Some(token) => Start::Join {
                servers: options.join,
                token,
            },
            None => Start::Resume,
        }
    } else {
        Start::Resume
    };
    let address = match options.address {
        Some(address) => address,
        // Only a new server needs to know it.
        None if known => IpAddr::from([127, 0, 0, 1]),
        None => bail!("--address is needed: the address that other machines reach this one at"),
    };
    if options.heartbeat_ms == 0 || options.election_ms < 2 * options.heartbeat_ms {
        bail!(
            "--election-ms {} must be at least twice --heartbeat-ms {}, and that more than 0",
            options.election_ms,
            options.heartbeat_ms
        );
    }
    let options = ServerOptions {
        data: options.data,
        name,
        address,
        api_port: options.api_port,
        peer_port: options.peer_port,
        start,
        cluster_cidr: options.cluster_cidr,
        service_cidr: options.service_cidr,
        cluster_domain: options.cluster_domain,
        cluster_dns: "169.254.20.10".to_owned(),
        timing: trireme_server::Timing {
            heartbeat_ms: options.heartbeat_ms,
            election_min_ms: options.election_ms,
            election_max_ms: options.election_ms * 5 / 3,
            ..trireme_server::Timing::default()
        },
        history: std::time::Duration::from_secs(options.history_seconds),
    };
    trireme_server::run(options, shutdown).await
}

pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("reading this machine's host name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The token from its flag or file; `None` where none is given and none is needed any more.
pub fn read_token(
    text: Option<String>,
    file: Option<PathBuf>,
    known: bool,
) -> Result<Option<trireme_client::JoinToken>> {
    let text = match (text, file) {
        (Some(text), _) => text,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .with_context(|| format!("reading the token from {}", file.display()))?,
        (None, None) if known => return Ok(None),
        (None, None) => {
            bail!("joining needs --token or --token-file; `trireme token` on a server prints it")
        }
    };
    Ok(Some(text.parse().context("the token")?))
}
