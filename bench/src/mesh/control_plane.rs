//! Real servers, as processes that join each other.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trireme_client::{Client, ClientConfig, client_config};

use super::PATIENCE;
use crate::process::Process;

const FIRST_API_PORT: u16 = 6443;
const FIRST_PEER_PORT: u16 = 7443;
/// Between looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Servers are settled when what they use in a window of this length stays the same.
const WINDOW: Duration = Duration::from_secs(2);
/// "The same", as a share of the window before.
const SAME: f64 = 0.2;
/// And this much is nothing: 2 % of a core.
const NOTHING: f64 = 0.02;

pub struct ControlPlane {
    pub client: Client,
    /// host:port of each server.
    pub addresses: Vec<String>,
    pub ca_pem: String,
    servers: Vec<Process>,
}

impl ControlPlane {
    /// Starts `count` servers; returns when all are healthy voters.
    pub async fn start(
        program: &Path,
        directory: &Path,
        address: Ipv4Addr,
        count: u16,
    ) -> anyhow::Result<ControlPlane> {
        let data = |number: u16| directory.join(format!("server-{number}"));
        let mut servers = Vec::new();
        let mut addresses: Vec<String> = Vec::new();
        for number in 0..count {
            let api_port = FIRST_API_PORT + number;
            let mut command = Command::new(program);
            command
                .arg("server")
                .args(["--name", &format!("s{number}")])
                .args(["--address", &address.to_string()])
                .args(["--api-port", &api_port.to_string()])
                .args(["--peer-port", &(FIRST_PEER_PORT + number).to_string()])
                .arg("--data")
                .arg(data(number));
            if number == 0 {
                command.arg("--bootstrap");
            } else {
                command
                    .args(["--join", &addresses[0]])
                    .arg("--token-file")
                    .arg(data(0).join("token"));
            }
            let log = directory.join(format!("server-{number}.log"));
            command.stderr(File::create(&log)?);
            servers.push(Process::start(command, &format!("server s{number}"))?);
            addresses.push(format!("{address}:{api_port}"));
            if number == 0 {
                for file in ["token", "kubeconfig"] {
                    appears(&data(0).join(file), &mut servers[0], &log).await?;
                }
            }
        }
        let access = Access::read(&data(0).join("kubeconfig"))?;
        let identity = (access.certificate_pem.as_str(), access.key_pem.as_str());
        let tls = client_config(&access.ca_pem, Some(identity))?;
        let client = Client::new(ClientConfig::new(addresses.clone(), tls, "bench"))?;
        let plane = ControlPlane {
            client,
            addresses,
            ca_pem: access.ca_pem,
            servers,
        };
        plane.healthy().await?;
        Ok(plane)
    }

    async fn healthy(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count = match self.client.cluster_status().await {
                Ok(status) => {
                    let healthy = status.servers.iter().filter(|server| {
                        server.healthy && matches!(&*server.role, "leader" | "follower")
                    });
                    healthy.count()
                }
                Err(_) => 0,
            };
            if count == self.servers.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{count} of {} servers are healthy", self.servers.len());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Time on a core so far of all servers, nanoseconds.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        self.servers.iter().map(Process::cpu_nanos).sum()
    }

    /// Waits until the servers do the same from one window to the next; what they then use, nanoseconds of a core a
    /// second.
    pub async fn settle(&self) -> anyhow::Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = f64::INFINITY;
        loop {
            let (begin, spent) = (Instant::now(), self.cpu_nanos()?);
            tokio::time::sleep(WINDOW).await;
            #[allow(clippy::cast_precision_loss)]
            let used = (self.cpu_nanos()? - spent) as f64 / begin.elapsed().as_secs_f64();
            let same = (used - before).abs() <= SAME * before || used <= NOTHING * 1e9;
            if same && before.is_finite() {
                return Ok(used);
            }
            if Instant::now() > deadline {
                bail!(
                    "the servers do not come to rest: {:.1} % of a core",
                    used / 1e7
                );
            }
            before = used;
        }
    }
}

async fn appears(file: &Path, server: &mut Process, log: &PathBuf) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        server.check().with_context(said)?;
        if Instant::now() > deadline {
            bail!("{} does not appear; {}", file.display(), said());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

/// An administrator's credentials.
struct Access {
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl Access {
    fn read(kubeconfig: &Path) -> anyhow::Result<Access> {
        let document: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let decode = |place: &str| -> anyhow::Result<String> {
            let text = document.pointer(place).and_then(Value::as_str);
            let text = text.with_context(|| format!("{} has no {place}", kubeconfig.display()))?;
            Ok(String::from_utf8(STANDARD.decode(text)?)?)
        };
        Ok(Access {
            ca_pem: decode("/clusters/0/cluster/certificate-authority-data")?,
            certificate_pem: decode("/users/0/user/client-certificate-data")?,
            key_pem: decode("/users/0/user/client-key-data")?,
        })
    }
}
