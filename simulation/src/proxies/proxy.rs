//! A proxy's host: the product's workers and its xDS client on the simulated network, from a start to a crash.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use trireme_proxy::telemetry::istio::Peer;
use trireme_proxy::{Drain, Shared, Worker, xds};
use trireme_xds::node::NodeMetadata;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::{NodeId, NodeType};

use super::net::{Ports, SimulatedNet};
use super::objects::{NAMESPACE, PORT, SERVICE_ADDRESS};
use super::record::{Record, now_ms};

/// 2026-01-01T00:00:00Z, as the world's clock has it.
const BEGINNING_UNIX_NANOS: u64 = 1_767_225_600_000_000_000;
/// Where a sidecar's redirected connections arrive.
const OUTBOUND_PORT: u16 = 15_001;

pub fn name_of(proxy: u64) -> String {
    format!("proxy-{proxy}")
}

/// Where clients of a proxy connect to.
pub fn port_of(role: NodeType) -> u16 {
    match role {
        NodeType::Sidecar => OUTBOUND_PORT,
        NodeType::Router => PORT,
    }
}

/// Who a proxy says that it is.
pub fn node_of(proxy: u64, role: NodeType, address: std::net::IpAddr) -> Node {
    let id = NodeId {
        node_type: role,
        address,
        pod: name_of(proxy),
        namespace: NAMESPACE.to_owned(),
        domain: format!("{NAMESPACE}.svc.cluster.local"),
    };
    let metadata = NodeMetadata {
        name: name_of(proxy),
        namespace: NAMESPACE.to_owned(),
        labels: BTreeMap::new(),
        service_account: "default".to_owned(),
        node_name: String::new(),
        cluster_id: "Kubernetes".to_owned(),
        workload_name: name_of(proxy),
        generator: String::new(),
    };
    trireme_xds::node::node(&id, &metadata, "simulation", None)
}

/// A proxy that runs, as the world looks into it.
#[derive(Clone)]
pub struct Life {
    pub number: u64,
    /// When its clock began.
    pub began_ms: u64,
    pub workers: u32,
    pub shared: Arc<Shared>,
}

/// The proxies that run.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<BTreeMap<u64, Life>>>);

impl Running {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Life>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a proxy needs to start, and start again.
#[derive(Clone)]
pub struct Proxy {
    pub id: u64,
    pub seed: u64,
    pub workers: usize,
    pub node: Node,
    /// Servers of the control plane, in the order of preference.
    pub servers: Vec<String>,
    pub lives: Arc<AtomicU64>,
    pub running: Running,
    pub record: Record,
}

pub async fn run(proxy: Proxy) -> turmoil::Result {
    let number = 1 + proxy.lives.fetch_add(1, Ordering::Relaxed);
    let seed = proxy.seed.wrapping_add(number);
    let began_ms = now_ms();
    proxy.record.note(name_of(proxy.id), "starts");
    let unix_nanos = BEGINNING_UNIX_NANOS + began_ms * 1_000_000;
    let shared = Shared::new(Peer::default(), seed, unix_nanos);
    let ports = Ports::new(seed, SocketAddr::from((SERVICE_ADDRESS, PORT)));
    let net = |worker| -> Rc<dyn trireme_proxy::net::Net> {
        let ports = ports.clone();
        Rc::new(SimulatedNet { ports, worker })
    };
    trireme_proxy::spawn_background(&shared, &net(0));
    let options = xds::Options {
        servers: proxy.servers,
        authorities: None,
        server_name: None,
        token: None,
        node: proxy.node,
    };
    tokio::task::spawn_local(xds::run(shared.clone(), net(0), options));
    let life = Life {
        number,
        began_ms,
        workers: proxy.workers as u32,
        shared: shared.clone(),
    };
    proxy.running.lock().insert(proxy.id, life);
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..proxy.workers {
        let worker = Worker::new(shared.clone(), net(number), Drain::new());
        workers.spawn_local(async move { worker.run(std::future::pending()).await });
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(())
}
