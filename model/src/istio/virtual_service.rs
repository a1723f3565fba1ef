//! VirtualService: what happens to requests for a host.

use std::collections::BTreeMap;

use super::{Destination, Duration, Object, Percent, StringMatch};

pub type VirtualService = Object<VirtualServiceSpec>;

message! {
    pub struct VirtualServiceSpec {
        pub hosts: Vec<String>,
        /// Empty means `mesh`: every sidecar.
        pub gateways: Vec<String>,
        pub http: Vec<HttpRoute>,
        pub tls: Vec<TlsRoute>,
        pub tcp: Vec<TcpRoute>,
        /// Empty means every namespace.
        pub export_to: Vec<String>,
    }

    pub struct HttpRoute {
        pub name: String,
        /// Any of them; empty matches everything.
        pub r#match: Vec<HttpMatchRequest>,
        pub route: Vec<HttpRouteDestination>,
        pub redirect: Option<HttpRedirect>,
        pub direct_response: Option<HttpDirectResponse>,
        pub delegate: Option<Delegate>,
        pub rewrite: Option<HttpRewrite>,
        /// Zero, like absence, means none.
        pub timeout: Option<Duration>,
        pub retries: Option<HttpRetry>,
        pub fault: Option<HttpFaultInjection>,
        pub mirror: Option<Destination>,
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Of `mirror`; absent means all.
        pub mirror_percentage: Option<Percent>,
        pub cors_policy: Option<CorsPolicy>,
        pub headers: Option<Headers>,
    }

    pub struct Delegate {
        pub name: String,
        /// Empty means that of the VirtualService that delegates.
        pub namespace: String,
    }

    pub struct Headers {
        pub request: Option<HeaderOperations>,
        pub response: Option<HeaderOperations>,
    }

    pub struct HeaderOperations {
        pub set: BTreeMap<String, String>,
        pub add: BTreeMap<String, String>,
        pub remove: Vec<String>,
    }

    /// All that is given must hold.
    pub struct HttpMatchRequest {
        pub name: String,
        pub uri: Option<StringMatch>,
        pub scheme: Option<StringMatch>,
        pub method: Option<StringMatch>,
        pub authority: Option<StringMatch>,
        pub headers: BTreeMap<String, StringMatch>,
        pub without_headers: BTreeMap<String, StringMatch>,
        pub query_params: BTreeMap<String, StringMatch>,
        /// Zero means any.
        pub port: u32,
        pub source_labels: BTreeMap<String, String>,
        pub source_namespace: String,
        pub gateways: Vec<String>,
        pub ignore_uri_case: bool,
        pub stat_prefix: String,
    }

    pub struct HttpRouteDestination {
        pub destination: Destination,
        /// Zero for a single destination means all.
        pub weight: i32,
        pub headers: Option<Headers>,
    }

    pub struct RouteDestination {
        pub destination: Destination,
        pub weight: i32,
    }

    pub struct TlsRoute {
        pub r#match: Vec<TlsMatchAttributes>,
        pub route: Vec<RouteDestination>,
    }

    pub struct TcpRoute {
        pub r#match: Vec<L4MatchAttributes>,
        pub route: Vec<RouteDestination>,
    }

    pub struct TlsMatchAttributes {
        pub sni_hosts: Vec<String>,
        pub destination_subnets: Vec<String>,
        pub port: u32,
        pub source_labels: BTreeMap<String, String>,
        pub source_namespace: String,
        pub gateways: Vec<String>,
    }

    pub struct L4MatchAttributes {
        pub destination_subnets: Vec<String>,
        pub port: u32,
        pub source_subnet: String,
        pub source_labels: BTreeMap<String, String>,
        pub source_namespace: String,
        pub gateways: Vec<String>,
    }

    pub struct HttpRedirect {
        pub uri: String,
        pub prefix_rewrite: String,
        pub authority: String,
        pub scheme: String,
        pub port: Option<u32>,
        pub derive_port: Option<RedirectPort>,
        /// Zero means 301.
        pub redirect_code: u32,
    }

    pub struct HttpDirectResponse {
        pub status: u32,
        pub body: Option<HttpBody>,
    }

    /// One of the two.
    pub struct HttpBody {
        pub string: Option<String>,
        /// Base64.
        pub bytes: Option<String>,
    }

    pub struct HttpRewrite {
        pub uri: String,
        pub authority: String,
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    pub struct RegexRewrite {
        pub r#match: String,
        pub rewrite: String,
    }

    pub struct HttpRetry {
        /// Zero means no retries at all.
        pub attempts: i32,
        pub per_try_timeout: Option<Duration>,
        /// Conditions and status codes, separated by commas; empty means Istio's default.
        pub retry_on: String,
        pub retry_remote_localities: Option<bool>,
        pub retry_ignore_previous_hosts: Option<bool>,
        pub backoff: Option<Duration>,
    }

    pub struct HttpFaultInjection {
        pub delay: Option<FaultDelay>,
        pub abort: Option<FaultAbort>,
    }

    pub struct FaultDelay {
        pub fixed_delay: Option<Duration>,
        pub exponential_delay: Option<Duration>,
        /// Absent means all requests.
        pub percentage: Option<Percent>,
    }

    pub struct FaultAbort {
        pub http_status: Option<u32>,
        /// Name (`UNAVAILABLE`) or number of a gRPC status.
        pub grpc_status: Option<String>,
        pub http2_error: Option<String>,
        /// Absent means all requests.
        pub percentage: Option<Percent>,
    }

    pub struct HttpMirrorPolicy {
        pub destination: Destination,
        /// Absent means all requests.
        pub percentage: Option<Percent>,
    }

    pub struct CorsPolicy {
        pub allow_origins: Vec<StringMatch>,
        pub allow_methods: Vec<String>,
        pub allow_headers: Vec<String>,
        pub expose_headers: Vec<String>,
        pub max_age: Option<Duration>,
        pub allow_credentials: Option<bool>,
        pub unmatched_preflights: UnmatchedPreflights,
    }
}

choice! {
    pub enum RedirectPort {
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }

    pub enum UnmatchedPreflights {
        /// Forward.
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}
