//! Proxies as sidecars: each a process in a pod's network namespace, with a pod's interception.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use trireme_model::kinds;
use trireme_network::intercept::PROXY_USER;
use trireme_network::{Interception, PodNetwork, PodNetworkConfig, run_in};

use super::control_plane::ControlPlane;
use super::traffic::Caller;
use super::{MACHINE, PATIENCE, objects};
use crate::process::Process;

const SERVICE_ACCOUNT: &str = "default";
const TOKEN_AUDIENCE: &str = "istio-ca";
const READY_PAUSE: Duration = Duration::from_millis(20);

/// Makes pods.
pub struct Pods {
    directory: PathBuf,
    program: PathBuf,
    network: PodNetwork,
    /// host:port of the servers.
    servers: Vec<String>,
    /// The addresses of the services to call.
    called: Vec<String>,
    count: u16,
}

/// A workload's proxy, and connections through it.
pub struct Member {
    pub process: Process,
    pub name: String,
    /// To each service that is called, as the workload's own.
    pub callers: Vec<Caller>,
    network: PodNetwork,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.network.teardown(&self.name) {
            eprintln!("bench: {error}");
        }
    }
}

impl Pods {
    pub async fn new(
        directory: &Path,
        program: &Path,
        plane: &ControlPlane,
        called: Vec<String>,
    ) -> anyhow::Result<Pods> {
        let directory = directory.join("pods");
        fs::create_dir(&directory)?;
        // The proxies' user, as in a pod, must get at its program and files.
        let parent = directory.parent().context("a directory has a parent")?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        let own = directory.join("trireme-proxy");
        fs::copy(program, &own)?;
        fs::write(directory.join("root-cert.pem"), &plane.ca_pem)?;
        for namespace in [objects::NAMESPACE, objects::WIDE_NAMESPACE] {
            let token = token(plane, namespace).await?;
            fs::write(directory.join(format!("{namespace}.token")), token)?;
        }
        let network = PodNetwork::new(PodNetworkConfig {
            directory: directory.join("namespaces"),
            node_ip: MACHINE,
            mtu: Some(1500),
        })?;
        Ok(Pods {
            program: own,
            directory,
            network,
            servers: plane.addresses.clone(),
            called,
            count: 0,
        })
    }

    /// Starts a proxy.
    pub fn start(&mut self, namespace: &str) -> anyhow::Result<Member> {
        self.count += 1;
        let [high, low] = self.count.to_be_bytes();
        let address = Ipv4Addr::new(10, 42, high, low);
        let name = format!("caller-{}", self.count);
        let path = self.network.setup(&name, address)?;
        Interception::default().apply(&path)?;
        // Each asks another server first, as their service's address does.
        let mut servers = self.servers.clone();
        servers.rotate_left(usize::from(self.count) % self.servers.len());
        let mut command = Command::new(&self.program);
        command
            .args(["proxy", "sidecar", "--authorities"])
            .arg(self.directory.join("root-cert.pem"))
            .arg("--token")
            .arg(self.directory.join(format!("{namespace}.token")))
            .env("POD_NAME", &name)
            .env("POD_NAMESPACE", namespace)
            .env("INSTANCE_IP", address.to_string())
            .env("SERVICE_ACCOUNT", SERVICE_ACCOUNT)
            .env("ISTIO_META_WORKLOAD_NAME", "caller")
            .env("DISCOVERY_ADDRESS", servers.join(","))
            .stderr(File::create(self.directory.join(format!("{name}.log")))?)
            .uid(PROXY_USER)
            .gid(PROXY_USER);
        // Started by a thread that is inside, for the user it then is may not enter.
        let process = run_in(&path, || Process::start(command, &name))??;
        let callers = self.called.iter();
        let callers = callers.map(|service| Caller::new(path.clone(), service));
        Ok(Member {
            process,
            callers: callers.collect(),
            name,
            network: self.network.clone(),
        })
    }
}

impl Member {
    /// Waits until the proxy answers for every service.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for caller in &mut self.callers {
            loop {
                let error = match caller.call().await {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => format!("status {}", answer.status),
                    Err(error) => error.to_string(),
                };
                self.process.check()?;
                if Instant::now() > deadline {
                    bail!("{} does not serve: {error}", self.name);
                }
                tokio::time::sleep(READY_PAUSE).await;
            }
        }
        Ok(())
    }
}

/// A token of the namespace's service account, as a kubelet would ask for one.
async fn token(plane: &ControlPlane, namespace: &str) -> anyhow::Result<String> {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {"name": SERVICE_ACCOUNT, "namespace": namespace},
        "spec": {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": 3600},
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = plane
            .client
            .create_subresource(
                kinds::SERVICE_ACCOUNT,
                namespace,
                SERVICE_ACCOUNT,
                "token",
                &request,
            )
            .await;
        match answer {
            Ok(answer) => {
                let token = answer
                    .pointer("/status/token")
                    .and_then(|token| token.as_str());
                return Ok(token.context("the API answered no token")?.to_owned());
            }
            // A controller makes it with the namespace.
            Err(error) if error.is_not_found() && Instant::now() < deadline => {
                tokio::time::sleep(READY_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
