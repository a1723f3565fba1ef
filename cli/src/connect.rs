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
        let path = self.path();
        let servers = match State::load(&self.data)? {
            Some(state) if self.kubeconfig.is_none() => state
                .servers()
                .map(|machine| format!("{}:{}", machine.address, crate::up::API_PORT))
                .collect(),
            _ => Vec::new(),
        };
        client(&path, servers)
    }

    /// The cluster's CA.
    pub fn ca_pem(&self) -> Result<String> {
        Ok(Access::read(&self.path())?.ca_pem)
    }

    fn path(&self) -> PathBuf {
        self.kubeconfig
            .clone()
            .unwrap_or_else(|| self.data.join("kubeconfig"))
    }
}

/// What a kubeconfig's current user and cluster are.
struct Access {
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
    server: String,
}

impl Access {
    fn read(kubeconfig: &Path) -> Result<Access> {
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
            let encoded = value[field].as_str().with_context(|| wanted(field))?;
            let bytes = STANDARD.decode(encoded).with_context(|| wanted(field))?;
            String::from_utf8(bytes).with_context(|| wanted(field))
        };
        let server = cluster["server"].as_str();
        Ok(Access {
            ca_pem: decode(cluster, "certificate-authority-data")?,
            certificate_pem: decode(user, "client-certificate-data")?,
            key_pem: decode(user, "client-key-data")?,
            server: server.with_context(|| wanted("server"))?.to_owned(),
        })
    }
}

/// A client as the kubeconfig's current user; `servers` in place of its single address where known.
pub fn client(kubeconfig: &Path, mut servers: Vec<String>) -> Result<Client> {
    let access = Access::read(kubeconfig)?;
    if servers.is_empty() {
        let server = access.server.trim_start_matches("https://");
        servers.push(server.trim_end_matches('/').to_owned());
    }
    let identity = (access.certificate_pem.as_str(), access.key_pem.as_str());
    let tls = trireme_client::client_config(&access.ca_pem, Some(identity))?;
    Ok(Client::new(ClientConfig::new(servers, tls, "trireme"))?)
}
