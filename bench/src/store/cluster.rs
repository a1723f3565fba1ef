//! Three members of a system, as child processes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tonic::transport::Channel;

use super::wire::maintenance_client::MaintenanceClient;
use super::wire::{ResponseHeader, StatusRequest};
use crate::process;

/// A cluster that has no leader by then has failed to start.
const START_LIMIT: Duration = Duration::from_secs(20);

pub enum System {
    Etcd { program: PathBuf },
    Trireme { threads: usize },
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            System::Etcd { .. } => "etcd",
            System::Trireme { .. } => "trireme",
        }
    }
}

pub struct Cluster {
    name: &'static str,
    members: Vec<Member>,
}

struct Member {
    process: Child,
    client_address: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Cluster {
    pub async fn start(system: System, data: &Path) -> anyhow::Result<Cluster> {
        let peers = free_addresses()?;
        let clients = free_addresses()?;
        let mut members = Vec::new();
        for n in 0..3 {
            let mut command = match &system {
                System::Etcd { program } => {
                    let cluster: Vec<String> = (0..3)
                        .map(|n| format!("m{n}=http://{}", peers[n]))
                        .collect();
                    let mut command = Command::new(program);
                    command
                        .args([
                            "--name",
                            &format!("m{n}"),
                            "--logger",
                            "zap",
                            "--log-level",
                            "error",
                        ])
                        .args(["--initial-cluster", &cluster.join(",")])
                        .args(["--initial-cluster-state", "new"])
                        .args(["--data-dir", &format!("{}/etcd-{n}", data.display())]);
                    for (flag, address) in [
                        ("--listen-peer-urls", peers[n]),
                        ("--initial-advertise-peer-urls", peers[n]),
                        ("--listen-client-urls", clients[n]),
                        ("--advertise-client-urls", clients[n]),
                    ] {
                        command.args([flag, &format!("http://{address}")]);
                    }
                    command
                }
                System::Trireme { threads } => {
                    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
                    let mut command = Command::new(std::env::current_exe()?);
                    command
                        .args(["store-member", "--id", &(n + 1).to_string()])
                        .args(["--threads", &threads.to_string()])
                        .args(["--peers", &peers.join(",")])
                        .args(["--client-address", &clients[n].to_string()])
                        .args(["--directory", &format!("{}/trireme-{n}", data.display())]);
                    command
                }
            };
            // What it says goes beside its data; etcd is talkative whatever it is told.
            let log = std::fs::File::create(data.join(format!("{}-{n}.log", system.name())))?;
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let process = command
                .spawn()
                .with_context(|| format!("starting {command:?}"))?;
            members.push(Member {
                process,
                client_address: format!("http://{}", clients[n]),
            });
        }
        let cluster = Cluster {
            name: system.name(),
            members,
        };
        cluster.leader().await?;
        Ok(cluster)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn addresses(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.client_address.clone())
            .collect()
    }

    /// The client address of the member that leads.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let began = Instant::now();
        while began.elapsed() < START_LIMIT {
            for member in &self.members {
                if leads(&member.client_address).await.unwrap_or(false) {
                    return Ok(member.client_address.clone());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "{} has no leader after {} s",
            self.name,
            START_LIMIT.as_secs()
        )
    }

    /// CPU time that all members have used.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let each = self.members.iter().map(|member| member.process.id());
        let nanos: u64 = each.map(process::cpu_nanos).sum::<std::io::Result<_>>()?;
        Ok(Duration::from_nanos(nanos))
    }

    /// Memory that all members hold, in bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.members
            .iter()
            .map(|member| process::resident_bytes(member.process.id()))
            .sum()
    }

    pub fn stop(self) {}
}

async fn leads(address: &str) -> anyhow::Result<bool> {
    let channel = Channel::from_shared(address.to_owned())?.connect().await?;
    let status = MaintenanceClient::new(channel)
        .status(StatusRequest {})
        .await?
        .into_inner();
    let ResponseHeader { member_id, .. } = status.header.unwrap_or_default();
    Ok(member_id != 0 && status.leader == member_id)
}

fn free_addresses() -> anyhow::Result<Vec<std::net::SocketAddr>> {
    let listeners: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    Ok(listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?)
}
