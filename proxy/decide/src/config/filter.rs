//! Settings of HTTP filters, and their overrides a virtual host, route or weighted cluster.

use std::sync::Arc;
use std::time::Duration;

use super::matcher::{Fraction, HeaderMatcher, StringMatcher};
use super::rate_limit::LocalRateLimit;

/// Envoy's CORS policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CorsPolicy {
    /// Origins that are allowed.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`; none sends no such header.
    pub allow_methods: Option<Arc<str>>,
    /// `access-control-allow-headers`.
    pub allow_headers: Option<Arc<str>>,
    /// `access-control-expose-headers`.
    pub expose_headers: Option<Arc<str>>,
    /// `access-control-max-age`, seconds.
    pub max_age: Option<Arc<str>>,
    /// `access-control-allow-credentials: true`.
    pub allow_credentials: Option<bool>,
    /// The share of requests it is enforced for; none is all.
    pub enabled: Option<Fraction>,
    /// Where not enforced: the share that is only counted.
    pub shadow_enabled: Option<Fraction>,
    /// Whether a preflight whose origin does not match goes on to the upstream (Envoy's default
    /// is true).
    pub forward_not_matching_preflights: Option<bool>,
    /// Whether private network access preflights are answered.
    pub allow_private_network_access: bool,
}

/// Envoy's HTTP fault filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPolicy {
    /// Delay before forwarding.
    pub delay: Option<FaultDelay>,
    /// Answer instead of forwarding.
    pub abort: Option<FaultAbort>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Arc<str>>,
    /// Only requests with these headers.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests whose `x-envoy-downstream-service-node` is one of these.
    pub downstream_nodes: Vec<Arc<str>>,
    /// Most faults at a time; none is unlimited.
    pub max_active_faults: Option<u32>,
}

/// How long to delay, and which share.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultDelay {
    /// A fixed time for a share of requests.
    Fixed {
        /// How long.
        delay: Duration,
        /// Which share.
        share: Fraction,
    },
    /// The request says, in `x-envoy-fault-delay-request` (ms), for at most this share.
    Header {
        /// The largest share; `x-envoy-fault-delay-request-percentage` may say less.
        share: Fraction,
    },
}

/// What to answer, and which share.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAbort {
    /// An HTTP status for a share of requests.
    Http {
        /// The status.
        status: u16,
        /// Which share.
        share: Fraction,
    },
    /// A gRPC status for a share of requests.
    Grpc {
        /// The status.
        status: u32,
        /// Which share.
        share: Fraction,
    },
    /// The request says, in `x-envoy-fault-abort-request` or `-grpc-request`.
    Header {
        /// The largest share; `x-envoy-fault-abort-request-percentage` may say less.
        share: Fraction,
    },
}

/// Filter settings of one level (`typed_per_filter_config`). The most specific level that says
/// something wins: weighted cluster, route, virtual host, route configuration, filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterOverrides {
    /// The fault filter's.
    pub fault: Option<Arc<FaultPolicy>>,
    /// The CORS filter's.
    pub cors: Option<Arc<CorsPolicy>>,
    /// The local rate limit filter's.
    pub local_rate_limit: Option<Arc<LocalRateLimit>>,
    /// Filters switched off here, by the name they have in the chain.
    pub disabled: Vec<Arc<str>>,
}
