//! A client from a kubeconfig.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::Value;
use trireme_client::{Client, ClientConfig};

use crate::up::state::State;

#[derive(Args, Debug, Clone)]
pub struct Place {
    /// Data directory of `trireme up`, or of a server
    #[arg(long, default_value = "/var/lib/trireme/up")]
    pub data: PathBuf,
    /// A kubeconfig instead
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

impl Place {
    pub fn client(&self) -> Result<Client> {
        let path = self
            .kubeconfig
            .clone()
            .unwrap_or_else(|| self.data.join("kubeconfig"));
        let servers = match State::load(&self.data)? {
            Some(state) if self.kubeconfig.is_none() => state
                .servers()
                .map(|machine| format!("{}:{}", machine.address, crate::up::API_PORT))
                .collect(),
            _ => Vec::new(),
        };
        client(&path, servers)
    }
}

/// A client as the kubeconfig's current user; `servers` in place of its single address where known.
pub fn client(kubeconfig: &Path, mut servers: Vec<String>) -> Result<Client> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!(
            "reading {} (is a cluster running? `trireme up` starts one; as root)",
            kubeconfig.display()
        )
    })?;
    let document: Value = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is not YAML", kubeconfig.display()))?;
    let wanted = |field: &str| format!("{} has no {field}", kubeconfig.display());
    let cluster = &document["clusters"][0]["cluster"];
    let user = &document["users"][0]["user"];
    let decode = |value: &Value, field: &str| -> Result<String> {
        let encoded = value.as_str().with_context(|| wanted(field))?;
        let bytes = STANDARD.decode(encoded).with_context(|| wanted(field))?;
        String::from_utf8(bytes).with_context(|| wanted(field))
    };
    let ca = decode(
        &cluster["certificate-authority-data"],
        "certificate-authority-data",
    )?;
    let certificate = decode(&user["client-certificate-data"], "client-certificate-data")?;
    let key = decode(&user["client-key-data"], "client-key-data")?;
    if servers.is_empty() {
        let server = cluster["server"]
            .as_str()
            .with_context(|| wanted("server"))?;
        servers.push(
            server
                .trim_start_matches("https://")
                .trim_end_matches('/')
                .to_owned(),
        );
    }
    let tls = trireme_client::client_config(&ca, Some((&certificate, &key)))?;
    Ok(Client::new(ClientConfig::new(servers, tls, "trireme"))?)
}
