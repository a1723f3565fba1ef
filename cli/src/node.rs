//! `trireme node`: joins once, then runs the agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use trireme_client::{JoinToken, tcp_dialer};
use trireme_node::AgentConfig;
use trireme_proto::v1::{JoinRequest, join_request};
use trireme_server::Directory;
use trireme_server::authority::{Credential, certificate_request};

use crate::hello;
use crate::server::{host_name, read_token};

const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct Options {
    /// The cluster's servers: HOST:PORT[,HOST:PORT...]
    #[arg(long, value_delimiter = ',')]
    join: Vec<String>,
    /// The join token; `trireme token` on a server prints it
    #[arg(long, env = "TRIREME_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the join token
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// This node's name; the machine's host name where not given
    #[arg(long)]
    name: Option<String>,
    /// The address that other machines reach this one at
    #[arg(long)]
    address: Option<IpAddr>,
    /// Where pods, images and credentials are kept
    #[arg(long, default_value = "/var/lib/trireme/node")]
    data: PathBuf,
    /// Registry mirrors and credentials, k3s's registries.yaml
    #[arg(long)]
    registries: Option<PathBuf>,
    /// Which resolvers to ask about names outside the cluster
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Labels of the node: KEY=VALUE
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Taints of the node: KEY=VALUE:EFFECT
    #[arg(long = "taint", value_name = "KEY=VALUE:EFFECT")]
    taints: Vec<String>,
    /// Parent of this node's cgroups, where several nodes share a machine
    #[arg(long)]
    cgroup_root: Option<String>,
}

/// What joining taught the node; kept, so that the token is needed once.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Joined {
    name: String,
    address: IpAddr,
    servers: Vec<String>,
    service_cidr: String,
    cluster_cidr: String,
    cluster_domain: String,
    cluster_dns: String,
}

pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    // Another part of the process may have installed it already; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let labels = options
        .labels
        .iter()
        .map(|label| {
            label
                .split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .with_context(|| format!("--label {label:?} is not KEY=VALUE"))
        })
        .collect::<Result<BTreeMap<_, _>>>()?;
    let missing = trireme_container::missing_controllers();
    if !missing.is_empty() {
        bail!(
            "this machine has no control groups for containers: no mounted hierarchy has {}; mount cgroup v2 at \
             /sys/fs/cgroup (systemd does so), and start again",
            missing.join(", ")
        );
    }
    let directory = Directory::open(&options.data)?;
    let known: Option<Joined> = directory
        .read("node.json")?
        .map(|text| serde_json::from_str(&text).context("node.json in the data directory"))
        .transpose()?;
    let joined = match known {
        Some(mut joined) => {
            if options
                .name
                .as_ref()
                .is_some_and(|name| *name != joined.name)
            {
                bail!(
                    "{} belongs to node {:?} (use another --data)",
                    options.data.display(),
                    joined.name
                );
            }
            for server in &options.join {
                if !joined.servers.contains(server) {
                    joined.servers.push(server.clone());
                }
            }
            joined
        }
        None => {
            let name = match options.name.clone() {
                Some(name) => name,
                None => host_name()?,
            };
            let address = options.address.context(
                "--address is needed: the address that other machines reach this one at",
            )?;
            if options.join.is_empty() {
                bail!("--join HOST:PORT is needed: any server of the cluster");
            }
            let token = read_token(options.token, options.token_file, false)?
                .context("joining needs a token")?;
            join(&directory, &name, address, &options.join, &token, &shutdown).await?
        }
    };
    let credential = |name: &str| -> Result<Credential> {
        directory
            .credential(name)?
            .with_context(|| format!("tls/{name}.pem is missing from the data directory"))
    };
    let node = credential("node")?;
    let mut config = AgentConfig::new(&joined.name, &options.data, joined.address);
    config.servers = joined.servers;
    config.ca_pem = directory
        .read("tls/ca.pem")?
        .context("tls/ca.pem is missing from the data directory")?;
    config.client_cert_pem = node.certificate_pem.clone();
    config.client_key_pem = node.key_pem.clone();
    config.serving_cert_pem = node.certificate_pem;
    config.serving_key_pem = node.key_pem;
    config.registries = options.registries;
    config.resolv_conf = options.resolv_conf;
    config.cluster_dns = joined
        .cluster_dns
        .parse()
        .context("the cluster's DNS address")?;
    config.cluster_domain = joined.cluster_domain;
    config.service_cidr = joined.service_cidr;
    config.cluster_cidr = joined.cluster_cidr;
    config.labels = labels;
    config.taints = options.taints;
    if let Some(root) = options.cgroup_root {
        if !root.starts_with('/') {
            bail!("--cgroup-root {root:?} is not an absolute path below the cgroup file system");
        }
        config.cgroup_root = root;
    }
    config.builtin_images = vec![hello::image()?];
    let executable = std::env::current_exe().context("this program's own path")?;
    match trireme_node::proxy_image(&executable) {
        Ok(image) => config.builtin_images.push(image),
        // Everything but the mesh works without it.
        Err(error) => tracing::error!(%error, "the proxy's image cannot be made"),
    }
    trireme_node::run(config, shutdown)
        .await
        .context("node agent")
}

async fn join(
    directory: &Directory,
    name: &str,
    address: IpAddr,
    servers: &[String],
    token: &JoinToken,
    shutdown: &CancellationToken,
) -> Result<Joined> {
    let (key_pem, request_pem) = certificate_request()?;
    let mut pause = RETRY_PAUSE;
    let reply = loop {
        let request = JoinRequest {
            token: token.to_string(),
            role: join_request::Role::Node.into(),
            name: name.to_owned(),
            addresses: vec![address.to_string()],
            certificate_request_pem: request_pem.clone(),
            peer_certificate_request_pem: String::new(),
        };
        match trireme_client::join(servers.to_vec(), token, request, tcp_dialer()).await {
            Ok(reply) => break reply,
            Err(error) => {
                let error = trireme_server::JoinError::from(error);
                if !error.is_transient() {
                    return Err(error.into());
                }
                tracing::warn!(%error, "not joined yet");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => bail!("stopped before it had joined"),
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    };
    let mut all = servers.to_vec();
    for server in reply.servers {
        if !all.contains(&server.api_address) {
            all.push(server.api_address);
        }
    }
    directory.write("tls/ca.pem", &reply.ca_pem)?;
    directory.write_credential(
        "node",
        &Credential {
            certificate_pem: reply.certificate_pem,
            key_pem,
        },
    )?;
    let joined = Joined {
        name: name.to_owned(),
        address,
        servers: all,
        service_cidr: reply.service_cidr,
        cluster_cidr: reply.cluster_cidr,
        cluster_domain: reply.cluster_domain,
        cluster_dns: reply.cluster_dns,
    };
    directory.write("node.json", &serde_json::to_string_pretty(&joined)?)?;
    Ok(joined)
}
