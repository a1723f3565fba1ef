//! Clusters: how hosts are found, balanced, limited, watched and spoken to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoints;
use super::http::Http2Options;
use super::origin::Origin;
use super::tls::UpstreamTls;

/// How a cluster's hosts are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    /// In the configuration.
    Static,
    /// From the endpoint discovery service.
    Eds,
    /// Every address of each name.
    StrictDns,
    /// The first address of the name, new connections to the newest.
    LogicalDns,
    /// The connection's original destination.
    OriginalDst,
}

/// Which addresses DNS is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, and IPv4 where there is none (Envoy's default).
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 where there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How DNS is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// How often; Envoy's default is 5 s.
    pub refresh_rate: Duration,
    /// Whether records' times to live are obeyed instead.
    pub respect_ttl: bool,
    /// Which addresses.
    pub family: DnsFamily,
    /// Whether hosts stay after an empty or failed answer was cached; always so in Envoy for
    /// failures.
    pub wait_for_warm_on_init: bool,
}

impl Default for DnsOptions {
    fn default() -> DnsOptions {
        DnsOptions {
            refresh_rate: Duration::from_secs(5),
            respect_ttl: false,
            family: DnsFamily::Auto,
            wait_for_warm_on_init: true,
        }
    }
}

/// Slow start of new hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long a host is new.
    pub window: Duration,
    /// Aggression; 1 is linear.
    pub aggression: f64,
    /// Least share of the weight, percent; Envoy's default is 10.
    pub min_weight_percent: f64,
}

/// Which hash a ring uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash64 with seed 0.
    #[default]
    XxHash,
    /// MurmurHash2 as in libstdc++.
    MurmurHash2,
}

/// Settings of least request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRequest {
    /// Hosts drawn; Envoy's default is 2.
    pub choice_count: u32,
    /// How much active requests count for weighted hosts; Envoy's default is 1.
    pub active_request_bias: f64,
    /// Slow start.
    pub slow_start: Option<SlowStart>,
    /// Whether every host is looked at instead of a few.
    pub full_scan: bool,
}

impl Default for LeastRequest {
    fn default() -> LeastRequest {
        LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
            slow_start: None,
            full_scan: false,
        }
    }
}

/// Settings of ring hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHash {
    /// Least entries; Envoy's default is 1,024.
    pub minimum_ring_size: u64,
    /// Most entries; Envoy's default is 8 Mi.
    pub maximum_ring_size: u64,
    /// The hash.
    pub hash_function: HashFunction,
}

impl Default for RingHash {
    fn default() -> RingHash {
        RingHash {
            minimum_ring_size: 1024,
            maximum_ring_size: 8 * 1024 * 1024,
            hash_function: HashFunction::XxHash,
        }
    }
}

/// Settings of Maglev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Entries, a prime; Envoy's default is 65,537.
    pub table_size: u64,
}

impl Default for Maglev {
    fn default() -> Maglev {
        Maglev { table_size: 65_537 }
    }
}

/// How a host is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin {
        /// Slow start.
        slow_start: Option<SlowStart>,
    },
    /// The less busy of a few.
    LeastRequest(LeastRequest),
    /// Any.
    Random,
    /// Consistent by a ring.
    RingHash(RingHash),
    /// Consistent by a table.
    Maglev(Maglev),
    /// The cluster's own: original destination.
    ClusterProvided,
}

/// Below which share of healthy hosts all are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PanicThreshold {
    /// Percent, truncated to whole percents when compared, as Envoy does; zero disables panic.
    pub percent: f64,
}

impl Default for PanicThreshold {
    fn default() -> PanicThreshold {
        PanicThreshold { percent: 50.0 }
    }
}

/// How localities count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalityLb {
    /// Not at all: hosts of a priority are one list.
    #[default]
    None,
    /// By their weights.
    Weighted,
    /// Zone-aware: the proxy's own zone first. Treated as none, since the control plane orders
    /// localities by priority instead.
    ZoneAware,
}

/// Envoy's `CommonLbConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CommonLb {
    /// The panic threshold.
    pub panic_threshold: PanicThreshold,
    /// Whether panic refuses instead of using all hosts.
    pub fail_traffic_on_panic: bool,
    /// Localities.
    pub locality: LocalityLb,
    /// Whether connections to a host close when its health changes.
    pub close_connections_on_host_set_change: bool,
    /// Whether ring and table use hosts' names instead of addresses.
    pub use_hostname_for_hashing: bool,
}

/// Envoy's subset balancing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubsetLb {
    /// Which keys make subsets.
    pub selectors: Vec<SubsetSelector>,
    /// What a request without (or with unknown) labels gets.
    pub fallback: SubsetFallback,
    /// The default subset's labels, sorted by key.
    pub default_subset: Vec<(Arc<str>, Arc<str>)>,
    /// Whether panic looks at the whole cluster instead.
    pub panic_mode_any: bool,
}

/// Keys that make subsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubsetSelector {
    /// The keys, sorted.
    pub keys: Vec<Arc<str>>,
    /// Its own fallback; none is the cluster's.
    pub fallback: Option<SubsetFallback>,
}

/// What a request gets that no subset matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetFallback {
    /// No host.
    #[default]
    NoFallback,
    /// Any host.
    AnyEndpoint,
    /// The default subset.
    DefaultSubset,
}

/// Limits of one priority. A limit admits while current < max.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Connections; Envoy's default is 1,024.
    pub max_connections: u32,
    /// Requests waiting for a connection; Envoy's default is 1,024.
    pub max_pending_requests: u32,
    /// Requests; Envoy's default is 1,024.
    pub max_requests: u32,
    /// Retries; Envoy's default is 3. Ignored where there is a budget.
    pub max_retries: u32,
    /// Connection pools; Envoy's default is unlimited.
    pub max_connection_pools: u32,
    /// Retries as a share of requests.
    pub retry_budget: Option<RetryBudget>,
    /// Whether statistics tell what remains.
    pub track_remaining: bool,
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: u32::MAX,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Retries as a share of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests; Envoy's default is 20.
    pub percent: f64,
    /// Retries always allowed; Envoy's default is 3.
    pub min_retry_concurrency: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget {
            percent: 20.0,
            min_retry_concurrency: 3,
        }
    }
}

/// Limits of both priorities, and of each host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// The usual priority's.
    pub default: Threshold,
    /// The high priority's.
    pub high: Threshold,
    /// Connections of one host (`per_host_thresholds`); none is unlimited.
    pub max_connections_per_host: Option<u32>,
}

/// Envoy's outlier detection with Envoy's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Consecutive 5xx that eject; zero never.
    pub consecutive_5xx: u32,
    /// Percent of such detections that eject.
    pub enforcing_consecutive_5xx: u32,
    /// Consecutive 502, 503, 504 that eject; zero never.
    pub consecutive_gateway_failure: u32,
    /// Percent of such detections that eject; Envoy's default is 0.
    pub enforcing_consecutive_gateway_failure: u32,
    /// Whether local failures are told from those the host answers.
    pub split_external_local_origin_errors: bool,
    /// Consecutive local failures that eject, where split.
    pub consecutive_local_origin_failure: u32,
    /// Percent of such detections that eject.
    pub enforcing_consecutive_local_origin_failure: u32,
    /// How often is swept.
    pub interval: Duration,
    /// The first ejection's time.
    pub base_ejection_time: Duration,
    /// The longest ejection's time; at least the base.
    pub max_ejection_time: Duration,
    /// Added to an ejection's time, drawn up to this.
    pub max_ejection_time_jitter: Duration,
    /// Hosts that may be ejected, percent.
    pub max_ejection_percent: u32,
    /// Whether one host may always be ejected, whatever the percentage.
    pub always_eject_one_host: bool,
    /// Hosts with enough requests that success rates need.
    pub success_rate_minimum_hosts: u32,
    /// Requests of an interval that count as enough.
    pub success_rate_request_volume: u32,
    /// The factor of the standard deviation, thousandths.
    pub success_rate_stdev_factor: u32,
    /// Percent of detections by success rate that eject.
    pub enforcing_success_rate: u32,
    /// The same by success rate of local origin, where split.
    pub enforcing_local_origin_success_rate: u32,
    /// Failures that eject, percent.
    pub failure_percentage_threshold: u32,
    /// Percent of detections by failure percentage that eject; Envoy's default is 0.
    pub enforcing_failure_percentage: u32,
    /// The same of local origin, where split; Envoy's default is 0.
    pub enforcing_failure_percentage_local_origin: u32,
    /// Hosts with enough requests that failure percentages need.
    pub failure_percentage_minimum_hosts: u32,
    /// Requests of an interval that count as enough.
    pub failure_percentage_request_volume: u32,
    /// Whether a success of active health checking un-ejects.
    pub successful_active_health_check_uneject_host: bool,
}

impl Default for OutlierDetection {
    fn default() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            split_external_local_origin_errors: false,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            failure_percentage_threshold: 85,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            successful_active_health_check_uneject_host: true,
        }
    }
}

/// Which HTTP a cluster's endpoints are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
    /// What the client speaks (`use_downstream_protocol_config`).
    Downstream,
    /// What ALPN says (`auto_config`).
    Alpn,
}

/// Options of HTTP towards endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpProtocolOptions {
    /// Which HTTP.
    pub protocol: HttpProtocol,
    /// Options of HTTP/2.
    pub http2: Http2Options,
    /// Silence after which an idle connection closes; none is Envoy's default (1 h), zero is
    /// unlimited.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection; none or zero is unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// The longest a connection lasts.
    pub max_connection_duration: Option<Duration>,
    /// The longest a stream lasts.
    pub max_stream_duration: Option<Duration>,
    /// Whether the spelling of header names is kept.
    pub preserve_header_case: bool,
    /// Whether SNI is the request's authority.
    pub auto_sni: bool,
    /// Whether the certificate must be for it.
    pub auto_san_validation: bool,
    /// Headers of a response; none is Envoy's default (100).
    pub max_response_headers_count: Option<u32>,
}

/// TCP keep-alive of connections to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes until a connection is dead.
    pub probes: Option<u32>,
    /// Seconds of silence until the first.
    pub time_secs: Option<u32>,
    /// Seconds between.
    pub interval_secs: Option<u32>,
}

/// The local end of connections to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamBind {
    /// The system's choice.
    Any,
    /// This address (`127.0.0.6` for connections to the workload).
    Address(IpAddr),
    /// The client's, transparently.
    Downstream,
}

/// How connections to endpoints are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamConnection {
    /// How long connecting may take; Envoy's default is 5 s.
    pub connect_timeout: Duration,
    /// TCP keep-alive; none is off.
    pub keepalive: Option<TcpKeepalive>,
    /// The local end.
    pub bind: UpstreamBind,
    /// Soft limit of buffers, bytes; Envoy's default is 1 MiB.
    pub buffer_limit_bytes: u32,
    /// Whether the PROXY protocol's header is sent, and its version.
    pub proxy_protocol: Option<u8>,
}

impl Default for UpstreamConnection {
    fn default() -> UpstreamConnection {
        UpstreamConnection {
            connect_timeout: Duration::from_secs(5),
            keepalive: None,
            bind: UpstreamBind::Any,
            buffer_limit_bytes: 1 << 20,
            proxy_protocol: None,
        }
    }
}

/// TLS for endpoints with certain labels (`transport_socket_matches`).
#[derive(Clone, Debug, PartialEq)]
pub struct TransportMatch {
    /// Its name.
    pub name: Arc<str>,
    /// Labels an endpoint must have in `envoy.transport_socket_match`, sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// TLS; none is plain.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// Envoy's cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// The name in statistics; none is `name`.
    pub alt_stat_name: Option<Arc<str>>,
    /// How hosts are found.
    pub kind: ClusterKind,
    /// The name asked of endpoint discovery; none is `name`.
    pub eds_service_name: Option<Arc<str>>,
    /// Hosts in the configuration: of `Static`, and names of the DNS kinds.
    pub endpoints: Option<Arc<Endpoints>>,
    /// How DNS is asked.
    pub dns: DnsOptions,
    /// How a host is chosen.
    pub lb: LbPolicy,
    /// What goes for every way of choosing.
    pub common_lb: CommonLb,
    /// Subsets; none has none.
    pub subsets: Option<Arc<SubsetLb>>,
    /// Limits.
    pub thresholds: Thresholds,
    /// Outlier detection; none is off.
    pub outlier: Option<OutlierDetection>,
    /// Options of HTTP.
    pub http: HttpProtocolOptions,
    /// How connections are made.
    pub connection: UpstreamConnection,
    /// TLS; none is plain.
    pub tls: Option<Arc<UpstreamTls>>,
    /// TLS by endpoints' labels, the first that matches; where none does, `tls`.
    pub tls_matches: Vec<TransportMatch>,
    /// Preconnection for each host: connections anticipated for each stream; 1 is none.
    pub per_upstream_preconnect_ratio: f64,
    /// Original destination: the header that may name the host.
    pub original_dst_header: Option<Arc<str>>,
    /// Original destination: the port that replaces the connection's.
    pub original_dst_port: Option<u16>,
    /// Services behind it from `istio.services`: host, name, namespace. For telemetry.
    pub services: Vec<(Arc<str>, Arc<str>, Arc<str>)>,
    /// The object that caused it (a destination rule or service entry).
    pub origin: Option<Origin>,
}

impl Cluster {
    /// A cluster with Envoy's defaults: round robin, default limits, no outlier detection.
    #[must_use]
    pub fn new(name: &str, kind: ClusterKind) -> Cluster {
        Cluster {
            name: Arc::from(name),
            alt_stat_name: None,
            kind,
            eds_service_name: None,
            endpoints: None,
            dns: DnsOptions::default(),
            lb: LbPolicy::RoundRobin { slow_start: None },
            common_lb: CommonLb::default(),
            subsets: None,
            thresholds: Thresholds::default(),
            outlier: None,
            http: HttpProtocolOptions::default(),
            connection: UpstreamConnection::default(),
            tls: None,
            tls_matches: Vec::new(),
            per_upstream_preconnect_ratio: 1.0,
            original_dst_header: None,
            original_dst_port: None,
            services: Vec::new(),
            origin: None,
        }
    }

    /// The name under which endpoint discovery knows its hosts.
    #[must_use]
    pub fn endpoints_name(&self) -> &Arc<str> {
        self.eds_service_name.as_ref().unwrap_or(&self.name)
    }
}
