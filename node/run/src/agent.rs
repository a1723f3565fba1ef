//! The parts that every task of the agent shares, and their start and end.

use crate::config::AgentConfig;
use crate::error::AgentError;
use crate::events::{self, EventRecorder};
use crate::images::Images;
use crate::pods::{self, Pods};
use crate::references::References;
use crate::services::host_port::HostPorts;
use crate::services::{self, Published, Services};
use crate::token::Tokens;
use crate::{garbage, peers, registration, server, store};
use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use trireme_client::{Client, ClientConfig};
use trireme_container::{Runtime, RuntimeConfig};
use trireme_image::{ImageStore, Registries};
use trireme_model::quantity::Quantity;
use trireme_network::dns::{self, Snapshot};
use trireme_network::{AddressPool, Cidr, PodNetwork, PodNetworkConfig};

/// Containers started at once: each is a few tens of milliseconds of CPU in fork, mounts and
/// cgroups; more at once only makes all of them slower.
const STARTS_PER_CPU: usize = 4;
/// How long tasks get to end when the agent does.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What the tasks of an agent share.
pub(crate) struct Agent {
    pub config: AgentConfig,
    pub client: Client,
    pub runtime: Runtime,
    pub images: Images,
    pub network: PodNetwork,
    pub references: References,
    pub tokens: Tokens,
    pub events: EventRecorder,
    pub services: watch::Receiver<Arc<Services>>,
    /// Ports of this node that lead to its pods.
    pub host_ports: watch::Sender<HostPorts>,
    /// This node's own object.
    pub node: watch::Receiver<Option<Arc<Node>>>,
    /// Somebody wants the node's status looked at now.
    pub node_changed: Notify,
    pub starts: Semaphore,
    pub pods: Pods,
    addresses: Mutex<Option<AddressPool>>,
    /// The node's pod range, also while the API is away.
    range: watch::Sender<Option<Cidr>>,
    problems: Mutex<BTreeMap<&'static str, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these leaves a consistent value.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Agent {
    /// The node's own address, if it is an IPv4 one.
    pub fn node_ip(&self) -> Option<Ipv4Addr> {
        match self.config.internal_ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }

    /// The node's pod range, as soon as it is known.
    pub async fn pod_cidr(&self) -> Cidr {
        let mut range = self.range.subscribe();
        loop {
            if let Some(cidr) = *range.borrow_and_update() {
                return cidr;
            }
            if range.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes an address for a pod; waits until the node has a range.
    pub async fn allocate(&self, uid: &str) -> Result<Ipv4Addr, String> {
        let range = self.pod_cidr().await;
        let mut pool = lock(&self.addresses);
        if pool.as_ref().is_none_or(|pool| pool.range() != range) {
            let existing = self.network.list().map_err(|error| error.to_string())?;
            let taken = existing
                .into_iter()
                .filter_map(|a| Some((a.address?, a.pod_uid)));
            *pool = Some(AddressPool::new(range, taken).map_err(|error| error.to_string())?);
        }
        match pool.as_mut() {
            Some(pool) => pool.allocate(uid).map_err(|error| error.to_string()),
            None => Err("the node has no pod range".to_owned()),
        }
    }

    /// Gives a pod's address back.
    pub fn release(&self, uid: &str) {
        if let Some(pool) = lock(&self.addresses).as_mut() {
            pool.release(uid);
        }
    }

    /// Something that keeps the node from being ready, or that it is over.
    pub fn set_network_problem(&self, part: &'static str, problem: Option<String>) {
        let mut problems = lock(&self.problems);
        let before = problems.clone();
        match problem {
            Some(problem) => problems.insert(part, problem),
            None => problems.remove(part),
        };
        if *problems != before {
            self.node_changed.notify_one();
        }
    }

    /// Why the node is not ready, if it is not.
    pub fn network_problem(&self) -> Option<String> {
        let problems = lock(&self.problems);
        let all: Vec<String> = problems
            .iter()
            .map(|(part, problem)| format!("{part}: {problem}"))
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn allocatable(&self, name: &str) -> Option<Quantity> {
        let node = self.node.borrow().clone()?;
        let text = node
            .status
            .as_ref()?
            .allocatable
            .as_ref()?
            .get(name)?
            .0
            .clone();
        Quantity::parse(&text).ok()
    }

    pub fn node_cpu_milli(&self) -> i128 {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as i128);
        self.allocatable("cpu").map_or(cpus * 1000, |q| q.milli())
    }

    pub fn node_memory_bytes(&self) -> i128 {
        self.allocatable("memory").map_or_else(
            || crate::machine::memory_bytes().map_or(0, |(_, total)| i128::from(total)),
            |q| q.value(),
        )
    }

    pub fn node_storage_bytes(&self) -> i128 {
        self.allocatable("ephemeral-storage")
            .map_or(0, |q| q.value())
    }
}

fn registries(config: &AgentConfig) -> Result<Registries, AgentError> {
    match &config.registries {
        Some(path) => Ok(Registries::load(path)?),
        None => Ok(Registries::default()),
    }
}

/// Takes the images out of the configuration: the store has them from here on, the agent's memory
/// does not.
async fn import_builtin(config: &mut AgentConfig, images: &ImageStore) -> Result<(), AgentError> {
    for image in std::mem::take(&mut config.builtin_images) {
        let parsed =
            crate::builtin::config(&image.config).map_err(|detail| AgentError::Config {
                name: config.name.clone(),
                detail: format!("built-in image {}: {detail}", image.reference),
            })?;
        images
            .import_builtin(&image.reference, &parsed, &image.layer)
            .await?;
    }
    Ok(())
}

async fn start_dns(
    config: &AgentConfig,
    names: watch::Receiver<Arc<Snapshot>>,
) -> Result<dns::Server, AgentError> {
    let address = config.cluster_dns;
    let claimed = tokio::task::spawn_blocking(move || dns::claim_address(address)).await;
    claimed.map_err(|error| {
        AgentError::io("claiming the DNS address", std::io::Error::other(error))
    })??;
    let resolv = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let server = dns::ServerConfig {
        address: SocketAddr::from((address, 53)),
        upstreams: dns::upstreams(&resolv, address),
    };
    dns::Server::start(server, names)
        .await
        .map_err(|error| AgentError::io("starting cluster DNS", std::io::Error::other(error)))
}

/// Runs an agent until `shutdown`; containers go on running afterwards.
pub(crate) async fn run(
    mut config: AgentConfig,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    if config.servers.is_empty() {
        return Err(AgentError::Config {
            name: config.name,
            detail: "no API server address is given".to_owned(),
        });
    }
    let IpAddr::V4(node_ip) = config.internal_ip else {
        return Err(AgentError::Config {
            name: config.name.clone(),
            detail: format!(
                "the internal address {} must be an IPv4 address",
                config.internal_ip
            ),
        });
    };
    for (name, value) in [
        ("service", &config.service_cidr),
        ("cluster", &config.cluster_cidr),
    ] {
        if let Err(error) = value.parse::<Cidr>() {
            return Err(AgentError::Config {
                name: config.name.clone(),
                detail: format!("{name} range {value:?}: {error}"),
            });
        }
    }
    std::fs::create_dir_all(&config.data)
        .map_err(|error| AgentError::io(format!("creating {}", config.data.display()), error))?;
    let identity = (
        config.client_cert_pem.as_str(),
        config.client_key_pem.as_str(),
    );
    let tls = trireme_client::client_config(&config.ca_pem, Some(identity))
        .map_err(|error| AgentError::Tls(error.to_string()))?;
    let client = Client::new(ClientConfig::new(config.servers.clone(), tls, "kubelet"))?;
    let serving = server::tls(&config)?;
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|error| AgentError::io(format!("listening on {}", config.listen), error))?;
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: config.data.join("runtime"),
        cgroup_root: config.cgroup_root.clone(),
        shim_binary: config.shim_binary.clone(),
        shim_args: config.shim_args.clone(),
    })
    .await?;
    let images = ImageStore::open(&config.data.join("images"), registries(&config)?).await?;
    import_builtin(&mut config, &images).await?;
    let network = PodNetworkConfig {
        directory: config.data.join("netns"),
        node_ip,
        mtu: None,
    };
    let network = tokio::task::spawn_blocking(move || PodNetwork::new(network))
        .await
        .map_err(|error| {
            AgentError::io("preparing pods' networks", std::io::Error::other(error))
        })??;
    let (view, services) = watch::channel(Arc::new(Services::default()));
    let (names, names_receiver) =
        watch::channel(Arc::new(Snapshot::new(&config.cluster_domain, Vec::new())));
    let dns = start_dns(&config, names_receiver).await?;
    let (events, event_writer) = events::channel(client.clone(), &config.name);
    let (references, reference_changes) = References::new(client.clone());
    let (node_sender, node) = watch::channel(None);
    let range_file = config.data.join("pod-cidr.json");
    let range: Option<Cidr> =
        store::read_json::<String>(&range_file).and_then(|text| text.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let agent = Arc::new(Agent {
        tokens: Tokens::new(client.clone()),
        images: Images::new(images),
        starts: Semaphore::new(cpus * STARTS_PER_CPU),
        pods: Pods::default(),
        addresses: Mutex::new(None),
        range: watch::channel(range).0,
        problems: Mutex::new(BTreeMap::new()),
        node_changed: Notify::new(),
        client,
        runtime,
        network,
        references,
        events,
        services,
        host_ports: watch::channel(HostPorts::default()).0,
        node,
        config,
    });
    tracing::info!(node = agent.config.name, listen = %agent.config.listen, "node agent started");

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(event_writer.run());
    tasks.spawn(follow_range(agent.clone(), range_file, shutdown.clone()));
    tasks.spawn(registration::follow_node(
        agent.clone(),
        node_sender,
        shutdown.clone(),
    ));
    tasks.spawn(registration::keep_status(agent.clone(), shutdown.clone()));
    tasks.spawn(registration::keep_lease(agent.clone(), shutdown.clone()));
    tasks.spawn(services::follow(
        agent.clone(),
        Published { view, names },
        shutdown.clone(),
    ));
    tasks.spawn(peers::follow(agent.clone(), shutdown.clone()));
    tasks.spawn(server::serve(
        agent.clone(),
        listener,
        serving,
        shutdown.clone(),
    ));
    tasks.spawn(garbage::collect(agent.clone(), shutdown.clone()));
    tasks.spawn(pods::follow(
        agent.clone(),
        reference_changes,
        shutdown.clone(),
    ));

    shutdown.cancelled().await;
    let ended = tokio::time::timeout(SHUTDOWN, async {
        // The event writer ends with the agent's last holder.
        drop(agent);
        while let Some(result) = tasks.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "a task of the agent failed");
            }
        }
    })
    .await;
    if ended.is_err() {
        tracing::warn!(
            left = tasks.len(),
            "tasks did not end in time and are cut off"
        );
        tasks.shutdown().await;
    }
    dns.shutdown().await;
    Ok(())
}

/// Keeps the node's pod range, on disk too.
async fn follow_range(agent: Arc<Agent>, file: PathBuf, shutdown: CancellationToken) {
    let mut node = agent.node.clone();
    loop {
        let text = node
            .borrow_and_update()
            .as_ref()
            .and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
        if let Some(text) = text {
            match text.parse::<Cidr>() {
                Ok(cidr) => {
                    let new = agent
                        .range
                        .send_if_modified(|range| range.replace(cidr) != Some(cidr));
                    if new && let Err(error) = store::write_json(&file, &text) {
                        tracing::warn!(%error, "the node's pod range was not kept");
                    }
                    agent.set_network_problem("network", None);
                }
                Err(error) => tracing::warn!(text, %error, "the node's pod range cannot be read"),
            }
        } else if agent.range.borrow().is_none() {
            agent.set_network_problem(
                "network",
                Some("the node has no pod address range yet".to_owned()),
            );
        }
        tokio::select! {
            changed = node.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}
