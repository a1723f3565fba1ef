//! What `trireme up` made, written down before it is made, so that `trireme down` can remove it
//! even when `up` was killed half-way.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

const FILE: &str = "up.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Server,
    Node,
}

/// One machine of the cluster: a network namespace with one process in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
    pub namespace: PathBuf,
    /// The bridge's end of its cable.
    pub link: String,
    pub data: PathBuf,
    pub log: PathBuf,
    pub process: Option<ProcessId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Short and unique on this machine: part of every name made here.
    pub id: String,
    pub bridge: String,
    /// The bridge's own address; machines follow it.
    pub gateway: Ipv4Addr,
    pub machines: Vec<Machine>,
    /// Where this machine's own kubectl reaches the servers.
    pub api_port: u16,
    pub balancer: Option<ProcessId>,
    /// Forwarding before we turned it on.
    pub forwarding_was_on: Option<bool>,
}

impl State {
    pub fn load(data: &Path) -> Result<Option<Self>> {
        let path = data.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(format!("reading {}", path.display())),
        };
        let state = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} does not describe a cluster of `trireme up`",
                path.display()
            )
        })?;
        Ok(Some(state))
    }

    pub fn save(&self, data: &Path) -> Result<()> {
        let path = data.join(FILE);
        let fresh = data.join(format!("{FILE}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    pub fn servers(&self) -> impl Iterator<Item = &Machine> {
        self.machines
            .iter()
            .filter(|machine| machine.role == Role::Server)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.machines
            .iter()
            .filter(|machine| machine.role == Role::Node)
    }

    pub fn machine_mut(&mut self, name: &str) -> Option<&mut Machine> {
        self.machines
            .iter_mut()
            .find(|machine| machine.name == name)
    }
}
