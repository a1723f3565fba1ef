//! One worker: a thread with its own listeners, connections and pools. Workers share the configuration, the state that
//! decisions keep (so that limits and ejections count for the whole process), and statistics.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::config::{Cluster, DownstreamTls, Priority, UpstreamBind, UpstreamTls};
use trireme_proxy_decide::flags::Flags;
use trireme_proxy_decide::format::StreamFacts;
use trireme_proxy_decide::upstream::{ClusterState, Host, Live};

use crate::drain::Drain;
use crate::inspect::Found;
use crate::listener::{self, Listeners, Served};
use crate::net::Net;
use crate::number::NumberHashing;
use crate::pool::{Dialer, HostPool};
use crate::shared::Shared;
use crate::telemetry::access_log::Writer;
use crate::telemetry::istio::{Metrics, Peer, Service};
use crate::telemetry::stats::ClusterStats;
use crate::tls::{self, TlsError};

/// How often pools without connections are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// Sessions kept for listeners and clusters; each is made again when it is not there.
const MAX_SESSIONS: usize = 1024;

/// Every run hashes alike; keys come from the configuration.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    host: usize,
    high: bool,
    http2: Option<bool>,
    source: Option<IpAddr>,
    server_name: Option<Arc<str>>,
}

struct PoolEntry {
    pool: Rc<HostPool>,
    config: Arc<Cluster>,
}

/// Counts connections of clients.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

/// One connection, while it lasts.
pub struct Counted(Arc<Shared>);

impl Connections {
    /// One more.
    #[must_use]
    pub fn count(&self) -> Counted {
        self.0.connection_opened();
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

struct Session<T, C> {
    of: Arc<T>,
    protocol: Option<bool>,
    secrets: u64,
    made: Arc<C>,
}

/// What telemetry needs of a cluster, found once.
#[derive(Clone)]
pub struct ClusterFacts {
    /// Envoy's statistics besides those that decisions count.
    pub stats: Arc<ClusterStats>,
    /// The service that it stands for.
    pub service: Option<Arc<Service>>,
    key: Arc<trireme_proxy_decide::upstream::ClusterStats>,
}

/// One worker.
pub struct Worker {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The network.
    pub net: Rc<dyn Net>,
    /// Its listeners.
    pub listeners: Listeners,
    /// For all its connections.
    pub drain: Drain,
    /// Counts its connections.
    pub connections: Connections,
    /// Istio's metrics.
    pub metrics: Arc<Metrics>,
    /// Access logs.
    pub access_log: Rc<Writer>,
    live: RefCell<Arc<Live>>,
    rng: RefCell<ChaCha8Rng>,
    pools: RefCell<Map<PoolKey, PoolEntry>>,
    facts: RefCell<HashMap<usize, ClusterFacts, NumberHashing>>,
    peers: RefCell<Map<Arc<str>, Arc<Peer>>>,
    server_sessions: RefCell<Vec<Session<DownstreamTls, rustls::ServerConfig>>>,
    client_sessions: RefCell<Vec<Session<UpstreamTls, rustls::ClientConfig>>>,
    listening: Cell<bool>,
}

/// Peers that are remembered by their text: workloads that call, not requests.
const MAX_PEERS: usize = 4096;

impl Worker {
    /// A worker without configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, net: Rc<dyn Net>, drain: Drain) -> Rc<Self> {
        shared.worker_starts();
        Rc::new(Self {
            connections: Connections(shared.clone()),
            metrics: shared.new_metrics(),
            rng: RefCell::new(ChaCha8Rng::seed_from_u64(shared.seed())),
            live: RefCell::new(shared.live()),
            net,
            listeners: Listeners::default(),
            drain,
            access_log: Rc::new(Writer::default()),
            pools: RefCell::default(),
            facts: RefCell::default(),
            peers: RefCell::default(),
            server_sessions: RefCell::default(),
            client_sessions: RefCell::default(),
            listening: Cell::new(false),
            shared,
        })
    }

    /// Serves until `stop`: puts each configuration in force as it comes.
    pub async fn run(self: &Rc<Self>, stop: impl Future<Output = ()>) {
        let mut configurations = self.shared.subscribe();
        configurations.mark_changed();
        let mut stop = std::pin::pin!(stop);
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            tokio::select! {
                biased;
                changed = configurations.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let live = configurations.borrow_and_update().clone();
                    self.apply(live).await;
                }
                _ = prune.tick() => self.prune(),
                () = &mut stop => break,
            }
        }
        self.listeners.close();
        self.access_log.flush();
    }

    async fn apply(self: &Rc<Self>, live: Arc<Live>) {
        *self.live.borrow_mut() = live.clone();
        self.retire_pools(&live);
        listener::apply(self, live.snapshot()).await;
        if !live.snapshot().listeners.is_empty() && !self.listening.replace(true) {
            self.shared.worker_listens();
        }
    }

    /// Pools of hosts that went away, and of clusters that are reached in another way now, close.
    fn retire_pools(&self, live: &Live) {
        let clusters = &live.snapshot().clusters;
        let mut gone = Vec::new();
        self.pools.borrow_mut().retain(|_, entry| {
            let same = clusters.get(&entry.config.name).is_some_and(|now| {
                Arc::ptr_eq(now, &entry.config)
                    || (now.connection == entry.config.connection
                        && now.http == entry.config.http
                        && now.tls == entry.config.tls
                        && now.tls_matches == entry.config.tls_matches)
            });
            let keep = same && !entry.pool.host.is_gone();
            if !keep {
                gone.push(entry.pool.clone());
            }
            keep
        });
        for pool in gone {
            pool.retire();
        }
        let known: Vec<usize> = live
            .in_use()
            .map(|cluster| Arc::as_ptr(&cluster.stats) as usize)
            .collect();
        self.facts.borrow_mut().retain(|key, _| known.contains(key));
    }

    fn prune(&self) {
        self.pools.borrow_mut().retain(|_, entry| {
            let keep = !entry.pool.is_empty();
            if !keep {
                entry.pool.retire();
            }
            keep
        });
    }

    /// The configuration in force.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// The time as decisions see it.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.shared.now()
    }

    /// 64 random bits.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// Lends the randomness to a decision.
    pub fn with_rng<T>(&self, decide: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
        decide(&mut self.rng.borrow_mut())
    }

    /// The number of the next connection.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.shared.next_connection()
    }

    pub(crate) fn listening(&self, address: SocketAddr, well: bool) {
        tracing::debug!(%address, well, "listen");
    }

    /// What telemetry needs of a cluster.
    #[must_use]
    pub fn facts(&self, cluster: &ClusterState) -> ClusterFacts {
        let key = Arc::as_ptr(&cluster.stats) as usize;
        let mut facts = self.facts.borrow_mut();
        let entry = facts.entry(key).or_insert_with(|| ClusterFacts {
            stats: self.shared.registry.cluster(&cluster.config.name),
            service: cluster
                .config
                .services
                .first()
                .map(|(host, name, namespace)| {
                    let text = |part: &Arc<str>| part.to_string();
                    Arc::new(Service {
                        host: text(host),
                        name: text(name),
                        namespace: text(namespace),
                    })
                }),
            key: cluster.stats.clone(),
        });
        debug_assert!(Arc::ptr_eq(&entry.key, &cluster.stats));
        entry.clone()
    }

    /// A workload by the text that endpoints and peers carry.
    #[must_use]
    pub fn peer(&self, text: &str) -> Arc<Peer> {
        let mut peers = self.peers.borrow_mut();
        if let Some(found) = peers.get(text) {
            return found.clone();
        }
        let made = Arc::new(Peer::parse(text));
        if peers.len() < MAX_PEERS {
            peers.insert(Arc::from(text), made.clone());
        }
        made
    }

    /// The connections to a host for this kind of request.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn pool(
        &self,
        cluster: &Arc<ClusterState>,
        host: &Arc<Host>,
        priority: Priority,
        http2: Option<bool>,
        peer: SocketAddr,
        authority: Option<&str>,
    ) -> Result<Rc<HostPool>, TlsError> {
        let config = &cluster.config;
        let source = (config.connection.bind == UpstreamBind::Downstream).then_some(peer);
        let server_name = match transport(config, host) {
            Some(tls) if tls.auto_sni || config.http.auto_sni => {
                authority.map(|name| Arc::from(hostname(name)))
            }
            _ => None,
        };
        let key = PoolKey {
            host: Arc::as_ptr(host) as usize,
            high: priority == Priority::High,
            http2,
            source: source.map(|source| source.ip()),
            server_name: server_name.clone(),
        };
        if let Some(entry) = self.pools.borrow().get(&key) {
            return Ok(entry.pool.clone());
        }
        let protocols: &[&str] = match http2 {
            Some(true) => &["h2"],
            Some(false) => &["http/1.1"],
            None => &["h2", "http/1.1"],
        };
        let dialer = self.dialer(
            cluster,
            host,
            Some(peer),
            http2,
            protocols,
            server_name.as_deref(),
        )?;
        let stats = self.facts(cluster).stats;
        let pool = HostPool::new(
            cluster.clone(),
            host.clone(),
            priority,
            dialer,
            stats,
            http2,
        );
        self.pools.borrow_mut().insert(
            key,
            PoolEntry {
                pool: pool.clone(),
                config: config.clone(),
            },
        );
        Ok(pool)
    }

    /// How to connect to a host.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn dialer(
        &self,
        cluster: &ClusterState,
        host: &Host,
        peer: Option<SocketAddr>,
        http2: Option<bool>,
        protocols: &[&str],
        server_name: Option<&str>,
    ) -> Result<Dialer, TlsError> {
        let config = &cluster.config;
        let tls = match transport(config, host) {
            None => None,
            Some(tls) => {
                let session = self.client_session(tls, http2, protocols)?;
                let name = tls::server_name(server_name.or(tls.sni.as_deref()), host.address.ip())?;
                Some((tokio_rustls::TlsConnector::from(session), name))
            }
        };
        Ok(Dialer {
            net: self.net.clone(),
            address: host.address,
            source: match config.connection.bind {
                UpstreamBind::Any => None,
                UpstreamBind::Address(address) => Some(SocketAddr::new(address, 0)),
                UpstreamBind::Downstream => peer.map(|peer| SocketAddr::new(peer.ip(), 0)),
            },
            tls,
            timeout: config.connection.connect_timeout,
        })
    }

    fn client_session(
        &self,
        tls: &Arc<UpstreamTls>,
        protocol: Option<bool>,
        protocols: &[&str],
    ) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let (number, secrets) = self.shared.secrets();
        let mut sessions = self.client_sessions.borrow_mut();
        sessions.retain(|one| one.secrets == number);
        if let Some(one) = sessions
            .iter()
            .find(|one| Arc::ptr_eq(&one.of, tls) && one.protocol == protocol)
        {
            return Ok(one.made.clone());
        }
        let made = tls::client(tls, &secrets, protocols)?;
        if sessions.len() >= MAX_SESSIONS {
            sessions.remove(0);
        }
        sessions.push(Session {
            of: tls.clone(),
            protocol,
            secrets: number,
            made: made.clone(),
        });
        Ok(made)
    }

    /// A session maker for a filter chain.
    ///
    /// # Errors
    /// When a secret is absent or broken.
    pub fn server_tls(
        &self,
        tls: &Arc<DownstreamTls>,
    ) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let (number, secrets) = self.shared.secrets();
        let mut sessions = self.server_sessions.borrow_mut();
        sessions.retain(|one| one.secrets == number);
        if let Some(one) = sessions.iter().find(|one| Arc::ptr_eq(&one.of, tls)) {
            return Ok(one.made.clone());
        }
        let made = tls::server(tls, &secrets)?;
        if sessions.len() >= MAX_SESSIONS {
            sessions.remove(0);
        }
        sessions.push(Session {
            of: tls.clone(),
            protocol: None,
            secrets: number,
            made: made.clone(),
        });
        Ok(made)
    }

    /// Logs a connection that no filter chain takes.
    pub(crate) fn no_filter_chain(
        &self,
        served: &Served,
        peer: SocketAddr,
        destination: SocketAddr,
        found: &Found,
    ) {
        self.access_log.log(
            &served.listener.access_logs,
            &StreamFacts {
                flags: Flags::NO_ROUTE_FOUND,
                response_code: Some(0),
                response_code_details: Some("filter_chain_not_found"),
                start_unix_nanos: self.shared.unix_nanos(Instant::now()),
                downstream_remote_address: Some(peer),
                downstream_direct_remote_address: Some(peer),
                downstream_local_address: Some(destination),
                requested_server_name: found.server_name.as_deref(),
                ..StreamFacts::default()
            },
        );
    }
}

/// TLS towards a host: by its labels, or the cluster's.
fn transport<'a>(config: &'a Cluster, host: &Host) -> Option<&'a Arc<UpstreamTls>> {
    for one in &config.tls_matches {
        let present = &host.labels.transport;
        if one.labels.iter().all(|wanted| present.contains(wanted)) {
            return one.tls.as_ref();
        }
    }
    config.tls.as_ref()
}

/// A host without its port.
fn hostname(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}
