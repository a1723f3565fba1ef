//! The configuration a proxy runs: what the control plane sent, parsed, checked and immutable.
//!
//! `trireme-xds` builds these types from Envoy's messages; the names follow Envoy's fields, so
//! that Envoy's reference explains each. Everything is `Arc`-shared: a new [`Snapshot`] shares
//! what did not change with the one before.

mod access_log;
mod cluster;
mod endpoint;
mod filter;
mod header_change;
mod http;
mod listener;
mod matcher;
mod origin;
mod policy;
mod rate_limit;
mod route;
mod snapshot;
mod tls;

pub use access_log::{AccessLog, AccessLogFormat, AccessLogSink};
pub use cluster::{
    Cluster, ClusterKind, CommonLb, DnsFamily, DnsOptions, HashFunction, HttpProtocol,
    HttpProtocolOptions, LbPolicy, LeastRequest, LocalityLb, Maglev, OutlierDetection,
    PanicThreshold, RetryBudget, RingHash, SlowStart, SubsetFallback, SubsetLb, SubsetSelector,
    TcpKeepalive, Threshold, Thresholds, TransportMatch, UpstreamBind, UpstreamConnection,
};
pub use endpoint::{
    Address, Endpoint, EndpointHealth, Endpoints, Labels, Locality, LocalityEndpoints,
};
pub use filter::{CorsPolicy, FaultAbort, FaultDelay, FaultPolicy, FilterOverrides};
pub use header_change::{AppendAction, HeaderAddition, HeaderChanges};
pub use http::{
    Codec, EscapedSlashes, ForwardClientCert, Http1Options, Http2Options, HttpConnectionManager,
    HttpFilter, LocalReplyMapper, RouteSource, RouterFilter, Scheme, ServerHeader, StripPort,
    Upgrade,
};
pub use listener::{
    Cidr, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilters, PortRanges, SourceType,
    TcpProxy, TrafficDirection,
};
pub use matcher::{
    Fraction, HeaderMatch, HeaderMatcher, PathMatch, QueryMatch, QueryMatcher, Regex, StringMatch,
    StringMatcher,
};
pub use origin::Origin;
pub use policy::{
    Direct, HashPolicy, HashSource, HostRewrite, MaxStreamDuration, Mirror, PathRewrite, Priority,
    RateLimitedBackOff, Redirect, RegexRewrite, ResetHeader, ResetHeaderFormat, RetryOn,
    RetryPolicy,
};
pub use rate_limit::{
    Descriptor, DescriptorAction, DescriptorEntry, HeaderValueMatch, LocalRateLimit, RateLimit,
    RateLimitFilter, TokenBucket,
};
pub(crate) use route::DEFAULT_TIMEOUT;
pub use route::{
    ClusterSpecifier, Route, RouteAction, RouteConfiguration, RouteForward, RouteMatch, RouteParts,
    TlsRequirement, VirtualHost, WeightedCluster, WeightedClusters,
};
pub use snapshot::{Snapshot, Update};
pub use tls::{DownstreamTls, SecretSource, UpstreamTls, ValidationContext};

/// Why a configuration is refused; the text becomes the NACK's detail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two virtual hosts of one route configuration name the same domain.
    #[error(
        "route configuration {configuration}: only unique values for domains are permitted; \
         duplicate entry of domain {domain} in virtual hosts {first} and {second}"
    )]
    DuplicateDomain {
        /// The route configuration's name.
        configuration: String,
        /// The domain named twice.
        domain: String,
        /// The virtual host that names it first.
        first: String,
        /// The virtual host that names it again.
        second: String,
    },
    /// A regular expression does not parse.
    #[error("invalid regular expression {pattern:?}: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weighted cluster's weights sum to zero or past 2^32−1.
    #[error("route {route}: sum of cluster weights {sum}: must be from 1 to 4294967295")]
    Weights {
        /// The route's name.
        route: String,
        /// What the weights sum to.
        sum: u64,
    },
    /// A header format string does not parse.
    #[error("header {header}: invalid format {format:?}: {reason}")]
    Format {
        /// The header's name.
        header: String,
        /// The format string.
        format: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field's value is outside its range.
    #[error("{object}: {field}: {reason}")]
    Field {
        /// The resource's name.
        object: String,
        /// The field's path in Envoy's message.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}
