//! What the seed decides about a world of proxies, and the configuration that follows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use trireme_check::traffic::{Bounds, Taken};
use trireme_proxy_decide::config::{
    Cluster, ClusterKind, ClusterSpecifier, Endpoint, Endpoints, Filter, FilterChain,
    FilterChainMatch, HttpConnectionManager, Labels, LbPolicy, LeastRequest, Listener,
    ListenerFilters, LocalityEndpoints, Maglev, OutlierDetection, PanicThreshold, PathMatch,
    RetryBudget, RetryOn, RetryPolicy, RingHash, Route, RouteAction, RouteConfiguration,
    RouteForward, RouteMatch, RouteParts, RouteSource, Snapshot, Threshold, TrafficDirection,
    Update, VirtualHost,
};

use super::client::PROXY_PORT;
use super::upstream::PORT;

pub const MAIN: &str = "main";
pub const BLUE: &str = "blue";
pub const GREEN: &str = "green";
pub const CLUSTERS: [&str; 3] = [MAIN, BLUE, GREEN];
pub const PATH_OF_MAIN: &str = "/main/";
/// Its route names the color of the day; the other color's cluster is not there.
pub const PATH_OF_SWITCH: &str = "/switch/";
pub const ROUTE_TIMEOUT_MS: u64 = 1_000;
/// The longest that messages between a proxy and an upstream are held up.
pub const MAX_HOLD_MS: u64 = 1_000;
const PER_TRY_TIMEOUT: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Hosts that endpoint churn leaves.
const LEAST_HOSTS: usize = 4;

/// Upstreams by address.
#[derive(Clone, Default)]
pub struct Names(BTreeMap<IpAddr, String>);

impl Names {
    pub fn insert(&mut self, address: IpAddr, name: String) {
        self.0.insert(address, name);
    }

    pub fn of(&self, address: IpAddr) -> String {
        self.0
            .get(&address)
            .cloned()
            .unwrap_or_else(|| address.to_string())
    }

    pub fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

/// Everything that the seed decides at the beginning.
#[derive(Debug)]
pub struct Plan {
    pub proxies: u64,
    pub upstreams: usize,
    pub clients: u64,
    pub think_ms: u64,
    pub latency_ms: u64,
    pub fault_ms: u64,
    pub pause_ms: u64,
    pub lb: LbPolicy,
    pub outlier: OutlierDetection,
    pub threshold: Threshold,
    pub panic_percent: u32,
    pub retries: u32,
}

impl Plan {
    pub fn choose(random: &mut ChaCha8Rng) -> Plan {
        let tight = random.random_bool(0.6);
        let budget = random.random_bool(0.5).then(|| RetryBudget {
            percent: if random.random_bool(0.5) { 0.0 } else { 20.0 },
            min_retry_concurrency: random.random_range(1..=2),
        });
        let interval = Duration::from_millis(random.random_range(300..=800));
        let base_ejection_time = Duration::from_millis(random.random_range(1_500..=2_500));
        Plan {
            proxies: random.random_range(1..=2),
            upstreams: random.random_range(6..=8),
            clients: random.random_range(6..=16),
            think_ms: random.random_range(5..=40),
            latency_ms: random.random_range(1..=5),
            fault_ms: 20_000,
            pause_ms: random.random_range(300..=1_200),
            lb: match random.random_range(0..5) {
                0 => LbPolicy::RoundRobin { slow_start: None },
                1 => LbPolicy::LeastRequest(LeastRequest::default()),
                2 => LbPolicy::Random,
                3 => LbPolicy::RingHash(RingHash::default()),
                _ => LbPolicy::Maglev(Maglev { table_size: 251 }),
            },
            outlier: OutlierDetection {
                consecutive_5xx: random.random_range(1..=4),
                interval,
                base_ejection_time,
                max_ejection_time: base_ejection_time * 2,
                max_ejection_time_jitter: Duration::from_millis(random.random_range(0..=200)),
                max_ejection_percent: [20, 34, 50, 100][random.random_range(0..4)],
                enforcing_success_rate: 0,
                ..OutlierDetection::default()
            },
            threshold: Threshold {
                max_connections: if tight {
                    random.random_range(1..=4)
                } else {
                    1024
                },
                max_pending_requests: if tight {
                    random.random_range(4..=16)
                } else {
                    1024
                },
                max_requests: if tight {
                    random.random_range(8..=32)
                } else {
                    1024
                },
                max_retries: random.random_range(1..=3),
                retry_budget: budget,
                ..Threshold::default()
            },
            panic_percent: [0, 30, 50][random.random_range(0..3)],
            retries: random.random_range(0..=3),
        }
    }

    /// How long after healing an ejected host may stay away: its time, and a sweep.
    pub fn return_ms(&self) -> u64 {
        let outlier = &self.outlier;
        (outlier.max_ejection_time + outlier.max_ejection_time_jitter + outlier.interval)
            .as_millis() as u64
    }

    pub fn bounds(&self) -> BTreeMap<String, Bounds> {
        let threshold = &self.threshold;
        let budget = &threshold.retry_budget;
        let bounds = Bounds {
            // A request waits for a connection no longer than its route's timeout, and messages are held up no
            // longer than that.
            slack_ms: ROUTE_TIMEOUT_MS + MAX_HOLD_MS + 50,
            max_ejection_percent: u64::from(self.outlier.max_ejection_percent),
            panic_percent: u64::from(self.panic_percent),
            limits: Taken {
                connections: threshold.max_connections,
                pending: threshold.max_pending_requests,
                requests: threshold.max_requests,
                retries: budget
                    .map_or(threshold.max_retries, |budget| budget.min_retry_concurrency),
            },
            retry_budget_percent: budget.map_or(0, |budget| budget.percent as u64),
            retries_per_request: self.retries,
        };
        CLUSTERS
            .map(|name| (name.to_owned(), bounds.clone()))
            .into()
    }
}

/// What the control plane says now.
#[derive(Clone)]
pub struct Configuration {
    upstreams: Vec<SocketAddr>,
    /// Those that are endpoints now, by their place above.
    present: Vec<bool>,
    color: &'static str,
    /// Only so that something changes.
    revision: u64,
}

impl Configuration {
    pub fn new(addresses: &[IpAddr]) -> Configuration {
        Configuration {
            upstreams: addresses
                .iter()
                .map(|ip| SocketAddr::new(*ip, PORT))
                .collect(),
            present: vec![true; addresses.len()],
            color: BLUE,
            revision: 0,
        }
    }

    pub fn switch(&mut self) -> &'static str {
        self.color = if self.color == BLUE { GREEN } else { BLUE };
        self.color
    }

    pub fn touch(&mut self) {
        self.revision += 1;
    }

    /// Takes a host away, or gives one back.
    pub fn churn(&mut self, host: usize) -> bool {
        let present = self.present.iter().filter(|present| **present).count();
        if self.present[host] && present <= LEAST_HOSTS {
            return false;
        }
        self.present[host] ^= true;
        true
    }

    pub fn complete(&mut self) {
        self.present.fill(true);
    }

    fn endpoints(&self, name: &str) -> Endpoints {
        let present = self.upstreams.iter().zip(&self.present).enumerate();
        let of_cluster = present.filter(|(number, (_, present))| {
            **present && (name == MAIN || color_of(*number) == name)
        });
        let labels = Arc::new(Labels::default());
        let endpoints = of_cluster
            .map(|(_, (address, _))| Endpoint::new(*address, labels.clone()))
            .collect();
        let mut all = Endpoints::new(name);
        all.localities.push(LocalityEndpoints {
            endpoints,
            ..LocalityEndpoints::default()
        });
        all
    }

    fn cluster(&self, plan: &Plan, name: &str) -> Cluster {
        let mut cluster = Cluster::new(name, ClusterKind::Eds);
        cluster.lb = plan.lb;
        cluster.outlier = Some(plan.outlier);
        cluster.thresholds.default = plan.threshold;
        cluster.common_lb.panic_threshold = PanicThreshold {
            percent: f64::from(plan.panic_percent),
        };
        cluster.connection.connect_timeout = CONNECT_TIMEOUT;
        // A changed cluster keeps its hosts, counts and ejections.
        cluster.http.max_requests_per_connection = Some(1_000 + (self.revision % 2) as u32);
        cluster
    }

    fn routes(&self, plan: &Plan) -> Option<RouteConfiguration> {
        let policy = Arc::new(RetryPolicy {
            retry_on: RetryOn::parse_http("5xx,connect-failure,reset"),
            num_retries: plan.retries,
            per_try_timeout: Some(PER_TRY_TIMEOUT),
            avoid_previous_hosts: true,
            host_selection_max_attempts: 5,
            ..RetryPolicy::default()
        });
        let route = |path: &str, cluster: &str| {
            let mut forward = RouteForward::new(ClusterSpecifier::Cluster(Arc::from(cluster)));
            forward.timeout = Some(Duration::from_millis(ROUTE_TIMEOUT_MS));
            forward.retry_policy = (plan.retries > 0).then(|| policy.clone());
            Arc::new(Route {
                name: Arc::from(cluster),
                matches: RouteMatch::path(PathMatch::Prefix(Arc::from(path))),
                action: RouteAction::Forward(Box::new(forward)),
                headers: Default::default(),
                filters: Default::default(),
                request_body_buffer_limit: None,
                origin: None,
            })
        };
        let host = VirtualHost {
            name: Arc::from(format!("all-{}", self.revision)),
            domains: vec![Arc::from("*")],
            routes: vec![route(PATH_OF_MAIN, MAIN), route(PATH_OF_SWITCH, self.color)],
            include_request_attempt_count: true,
            ..VirtualHost::default()
        };
        // Only a bug of this file's could refuse it, and then nothing is answered.
        RouteConfiguration::new(RouteParts {
            name: Arc::from(ROUTES),
            virtual_hosts: vec![host],
            ..RouteParts::default()
        })
        .ok()
    }

    /// All of it, over what a proxy may have had: what is not named in it goes away.
    pub fn update(&self, plan: &Plan) -> Update {
        let other = if self.color == BLUE { GREEN } else { BLUE };
        let mut update = Update::default();
        for name in [MAIN, self.color] {
            update
                .clusters
                .push((Arc::from(name), Some(Arc::new(self.cluster(plan, name)))));
            update
                .endpoints
                .push((Arc::from(name), Some(Arc::new(self.endpoints(name)))));
        }
        update.clusters.push((Arc::from(other), None));
        update.endpoints.push((Arc::from(other), None));
        update
            .routes
            .push((Arc::from(ROUTES), self.routes(plan).map(Arc::new)));
        update
    }

    pub fn snapshot(&self, plan: &Plan) -> Snapshot {
        Snapshot::default()
            .with(&self.update(plan))
            .with_listener(listener())
    }
}

const ROUTES: &str = "routes";

pub fn color_of(upstream: usize) -> &'static str {
    if upstream.is_multiple_of(2) {
        BLUE
    } else {
        GREEN
    }
}

fn listener() -> Listener {
    let mut manager = HttpConnectionManager::new("simulation", RouteSource::Rds(Arc::from(ROUTES)));
    // Requests that the clients number are theirs.
    manager.generate_request_id = false;
    Listener {
        name: Arc::from("all"),
        address: SocketAddr::from(([0, 0, 0, 0], PROXY_PORT)),
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        transparent: false,
        direction: TrafficDirection::Outbound,
        listener_filters: ListenerFilters::default(),
        filter_chains: vec![FilterChain {
            name: Arc::from("http"),
            matches: FilterChainMatch::default(),
            tls: None,
            handshake_timeout: None,
            filter: Filter::Http(Arc::new(manager)),
            origin: None,
        }],
        default_filter_chain: None,
        buffer_limit_bytes: 1 << 20,
        connection_limit: None,
        access_logs: Vec::new(),
        origin: None,
    }
}
