//! The systems that are measured, as processes.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

use super::configuration::{self, Ports};
use super::load::Protocol;
use super::{pinned, wait_for};

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

/// A process that ends with us.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    fn start(mut command: Command, name: &str) -> anyhow::Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Process {
            child,
            name: name.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// The process and those it started (nginx's worker).
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.id()];
        let children = format!("/proc/{0}/task/{0}/children", self.id());
        if let Ok(text) = std::fs::read_to_string(children) {
            family.extend(
                text.split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        family
    }

    /// Time on a core so far, nanoseconds.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for id in self.family() {
            for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
                let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
                let first = text
                    .split_whitespace()
                    .next()
                    .context("schedstat is empty")?;
                sum += first.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for id in self.family() {
            let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .context("no VmRSS")?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
            sum += kib * 1024;
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master first: it would replace its worker. Some may have ended by themselves.
        for id in self.family() {
            let _ = Command::new("kill")
                .arg("-9")
                .arg(id.to_string())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.wait();
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
