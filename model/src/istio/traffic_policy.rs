//! Traffic policies of DestinationRules: balancing, pools, ejection, TLS.

use std::collections::BTreeMap;

use super::{Duration, PortSelector};

message! {
    pub struct TrafficPolicy {
        pub load_balancer: Option<LoadBalancerSettings>,
        pub connection_pool: Option<ConnectionPoolSettings>,
        pub outlier_detection: Option<OutlierDetection>,
        pub tls: Option<ClientTlsSettings>,
        /// A port named here takes nothing from the fields above.
        pub port_level_settings: Vec<PortTrafficPolicy>,
        pub tunnel: Option<TunnelSettings>,
        pub proxy_protocol: Option<ProxyProtocol>,
        pub retry_budget: Option<RetryBudget>,
    }

    pub struct PortTrafficPolicy {
        pub port: Option<PortSelector>,
        pub load_balancer: Option<LoadBalancerSettings>,
        pub connection_pool: Option<ConnectionPoolSettings>,
        pub outlier_detection: Option<OutlierDetection>,
        pub tls: Option<ClientTlsSettings>,
    }

    pub struct TunnelSettings {
        /// `CONNECT` (also when empty) or `POST`.
        pub protocol: String,
        pub target_host: String,
        pub target_port: u32,
    }

    pub struct ProxyProtocol {
        pub version: ProxyProtocolVersion,
    }

    pub struct RetryBudget {
        /// Of active requests; absent means 20.
        pub percent: Option<f64>,
        /// Zero means 3.
        pub min_retry_concurrency: u32,
        pub budget_interval: Option<Duration>,
    }

    pub struct LoadBalancerSettings {
        pub simple: Option<SimpleLb>,
        pub consistent_hash: Option<ConsistentHash>,
        pub locality_lb_setting: Option<LocalityLbSetting>,
        pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
        pub warmup: Option<Warmup>,
    }

    /// One key and at most one algorithm; without an algorithm it is a hash ring.
    pub struct ConsistentHash {
        pub http_header_name: Option<String>,
        pub http_cookie: Option<HttpCookie>,
        pub use_source_ip: Option<bool>,
        pub http_query_parameter_name: Option<String>,
        pub ring_hash: Option<RingHash>,
        pub maglev: Option<Maglev>,
    }

    pub struct RingHash {
        /// Zero means 1,024.
        #[serde(deserialize_with = "crate::istio::traffic_policy::number")]
        pub minimum_ring_size: u64,
    }

    pub struct Maglev {
        /// Zero means 65,537.
        #[serde(deserialize_with = "crate::istio::traffic_policy::number")]
        pub table_size: u64,
    }

    pub struct HttpCookie {
        pub name: String,
        pub path: String,
        /// Given (also as zero), the proxy makes the cookie where a request has none.
        pub ttl: Option<Duration>,
        pub attributes: Vec<CookieAttribute>,
    }

    pub struct CookieAttribute {
        pub name: String,
        pub value: String,
    }

    /// Slow start: how a new endpoint's share grows.
    pub struct Warmup {
        pub duration: Option<Duration>,
        /// Absent means 10.
        pub minimum_percent: Option<f64>,
        /// Absent means 1: linear.
        pub aggression: Option<f64>,
    }

    pub struct LocalityLbSetting {
        pub distribute: Vec<LocalityDistribute>,
        pub failover: Vec<LocalityFailover>,
        pub failover_priority: Vec<String>,
        pub enabled: Option<bool>,
    }

    pub struct ZoneAwareLbSetting {
        pub enabled: Option<bool>,
        pub failover: Vec<LocalityFailover>,
        pub failover_priority: Vec<String>,
        pub min_cluster_size: Option<u64>,
    }

    pub struct LocalityDistribute {
        /// `region/zone/subzone`, each or the rest `*`.
        pub from: String,
        /// Percentages that sum to 100.
        pub to: BTreeMap<String, u32>,
    }

    pub struct LocalityFailover {
        pub from: String,
        pub to: String,
    }

    pub struct ConnectionPoolSettings {
        pub tcp: Option<TcpSettings>,
        pub http: Option<HttpSettings>,
    }

    /// Zero in a limit means Istio's default, 2^32−1.
    pub struct TcpSettings {
        pub max_connections: i32,
        /// Absent means 10 s.
        pub connect_timeout: Option<Duration>,
        pub tcp_keepalive: Option<TcpKeepalive>,
        pub max_connection_duration: Option<Duration>,
        pub idle_timeout: Option<Duration>,
    }

    pub struct TcpKeepalive {
        pub probes: u32,
        pub time: Option<Duration>,
        pub interval: Option<Duration>,
    }

    /// Zero in a limit means Istio's default, 2^32−1; `max_requests_per_connection` 0 means no limit.
    pub struct HttpSettings {
        pub http1_max_pending_requests: i32,
        pub http2_max_requests: i32,
        pub max_requests_per_connection: i32,
        pub max_retries: i32,
        pub idle_timeout: Option<Duration>,
        pub h2_upgrade_policy: H2UpgradePolicy,
        pub use_client_protocol: bool,
        pub max_concurrent_streams: i32,
        pub http2_keep_alive: Option<ConnectionKeepalive>,
    }

    pub struct ConnectionKeepalive {
        pub interval: Option<Duration>,
        pub timeout: Option<Duration>,
    }

    pub struct OutlierDetection {
        pub split_external_local_origin_errors: bool,
        pub consecutive_local_origin_failures: Option<u32>,
        pub consecutive_gateway_errors: Option<u32>,
        /// Absent means 5; 0 turns it off.
        pub consecutive_5xx_errors: Option<u32>,
        /// Between sweeps; absent means 10 s.
        pub interval: Option<Duration>,
        /// Absent means 30 s.
        pub base_ejection_time: Option<Duration>,
        /// Zero means 10.
        pub max_ejection_percent: i32,
        pub min_health_percent: i32,
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    pub struct ClientTlsSettings {
        pub mode: ClientTlsMode,
        pub client_certificate: String,
        pub private_key: String,
        pub ca_certificates: String,
        pub credential_name: String,
        pub subject_alt_names: Vec<String>,
        pub sni: String,
        pub insecure_skip_verify: Option<bool>,
        pub ca_crl: String,
    }
}

choice! {
    pub enum ProxyProtocolVersion {
        V1 = "V1",
        V2 = "V2",
    }

    pub enum SimpleLb {
        /// Least request.
        Unspecified = "UNSPECIFIED",
        Random = "RANDOM",
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        LeastRequest = "LEAST_REQUEST",
    }

    pub enum H2UpgradePolicy {
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }

    pub enum ClientTlsMode {
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        IstioMutual = "ISTIO_MUTUAL",
    }
}

/// A 64-bit number, which protobuf's JSON writes as a string.
fn number<'de, D: serde::Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match <Either as serde::Deserialize>::deserialize(input)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
