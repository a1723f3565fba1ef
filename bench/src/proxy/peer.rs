//! The systems that are measured, as processes.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use super::configuration::{self, Ports};
use super::load::Protocol;
use super::{pinned, wait_for};
use crate::process::Process;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    Trireme,
    Envoy,
    Haproxy,
    Nginx,
}

impl fmt::Display for System {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            System::Trireme => "trireme",
            System::Envoy => "envoy",
            System::Haproxy => "haproxy",
            System::Nginx => "nginx",
        })
    }
}

impl System {
    /// nginx speaks HTTP/2 to clients only, and Debian's light one passes no TCP on.
    pub fn speaks(self, protocol: Protocol) -> bool {
        self != System::Nginx || protocol == Protocol::Http1
    }
}

/// What answers behind the proxies.
pub struct Upstream {
    pub http1: SocketAddr,
    _process: Process,
}

/// Where upstream and systems listen: ports of nobody else on this machine.
fn ports(system: System) -> Ports {
    let base = 21000
        + match system {
            System::Trireme => 10,
            System::Envoy => 20,
            System::Haproxy => 30,
            System::Nginx => 40,
        };
    Ports {
        http1: base,
        http2: base + 1,
        tcp: base + 2,
        admin: base + 3,
    }
}

/// # Errors
/// When nginx is not there, or does not start.
pub fn upstream(directory: &Path, cores: &str) -> anyhow::Result<Upstream> {
    let file = directory.join("upstream.conf");
    std::fs::write(&file, configuration::upstream(directory))?;
    let mut command = pinned(cores, Path::new("nginx"));
    command
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(directory.join("upstream.log"));
    let mut process = Process::start(command, "the upstream (nginx)")?;
    let http1 = SocketAddr::from(([127, 0, 0, 1], configuration::UPSTREAM_HTTP1));
    wait_for(http1, &mut process)?;
    Ok(Upstream {
        http1,
        _process: process,
    })
}

pub struct Peer {
    pub system: System,
    pub process: Process,
    ports: Ports,
}

impl Peer {
    pub fn start(
        system: System,
        directory: &Path,
        proxy: &Path,
        envoy: &Path,
        core: usize,
    ) -> anyhow::Result<Peer> {
        let ports = ports(system);
        let core = core.to_string();
        let file = directory.join(format!("{system}.conf"));
        let command = match system {
            System::Trireme => {
                std::fs::write(&file, configuration::trireme(&ports))?;
                let mut command = pinned(&core, proxy);
                command.arg("static").arg(&file).args([
                    "--status",
                    "none",
                    "--metrics",
                    "none",
                    "--admin",
                ]);
                command.arg(format!("127.0.0.1:{}", ports.admin));
                command
            }
            System::Envoy => {
                let file = directory.join("envoy.json");
                std::fs::write(&file, configuration::envoy(&ports))?;
                let mut command = pinned(&core, envoy);
                command.arg("-c").arg(&file);
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
                command
            }
            System::Haproxy => {
                std::fs::write(&file, configuration::haproxy(&ports))?;
                let mut command = pinned(&core, Path::new("haproxy"));
                command.arg("-f").arg(&file).arg("-db");
                command
            }
            System::Nginx => {
                std::fs::write(&file, configuration::nginx(&ports, directory))?;
                let mut command = pinned(&core, Path::new("nginx"));
                command
                    .arg("-c")
                    .arg(&file)
                    .arg("-e")
                    .arg(directory.join("nginx.log"));
                command
            }
        };
        let mut process = Process::start(command, &system.to_string())?;
        wait_for(
            SocketAddr::from(([127, 0, 0, 1], ports.http1)),
            &mut process,
        )?;
        Ok(Peer {
            system,
            process,
            ports,
        })
    }

    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        let port = match protocol {
            Protocol::Http1 => self.ports.http1,
            Protocol::Http2 => self.ports.http2,
            Protocol::Tcp => self.ports.tcp,
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}
