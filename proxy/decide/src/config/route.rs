//! Route configurations: virtual hosts, routes, actions.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::filter::FilterOverrides;
use super::header_change::HeaderChanges;
use super::http::Upgrade;
use super::matcher::{Fraction, HeaderMatcher, PathMatch, QueryMatcher};
use super::origin::Origin;
use super::policy::{
    Direct, HashPolicy, HostRewrite, MaxStreamDuration, Mirror, PathRewrite, Priority, Redirect,
    RetryPolicy,
};
use super::rate_limit::RateLimit;
use super::{ConfigError, CorsPolicy};
use crate::route::Domains;

/// What a route configuration is made of; [`RouteConfiguration::new`] checks and indexes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteParts {
    /// Its name.
    pub name: Arc<str>,
    /// Virtual hosts.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Header changes of this level.
    pub headers: HeaderChanges,
    /// Whether the most specific level's header changes come last and so win.
    pub most_specific_header_mutations_wins: bool,
    /// Whether a port in the request's authority is ignored when a virtual host is chosen.
    pub ignore_port_in_host_matching: bool,
    /// Headers removed from requests that come from outside.
    pub internal_only_headers: Vec<HeaderName>,
    /// Filter settings of this level.
    pub filters: FilterOverrides,
    /// Mirrors of this level.
    pub mirrors: Vec<Mirror>,
}

/// A route configuration with its domain index.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfiguration {
    parts: RouteParts,
    domains: Domains,
}

impl RouteConfiguration {
    /// Checks and indexes a route configuration.
    ///
    /// # Errors
    /// [`ConfigError`] where two virtual hosts share a domain or weights do not add up.
    pub fn new(parts: RouteParts) -> Result<RouteConfiguration, ConfigError> {
        let domains = Domains::new(&parts)?;
        Ok(RouteConfiguration { parts, domains })
    }

    /// The index over domains.
    #[must_use]
    pub fn domains(&self) -> &Domains {
        &self.domains
    }
}

impl std::ops::Deref for RouteConfiguration {
    type Target = RouteParts;

    fn deref(&self) -> &RouteParts {
        &self.parts
    }
}

/// Which requests must use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsRequirement {
    /// None.
    #[default]
    None,
    /// Those from outside; others are redirected to https.
    ExternalOnly,
    /// All.
    All,
}

/// A virtual host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Domains: exact, `*.suffix`, `prefix.*` or `*`.
    pub domains: Vec<Arc<str>>,
    /// Routes; the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Whether plain requests are redirected.
    pub require_tls: TlsRequirement,
    /// Header changes of this level.
    pub headers: HeaderChanges,
    /// Filter settings of this level.
    pub filters: FilterOverrides,
    /// CORS in the virtual host itself (Envoy's old place).
    pub cors: Option<Arc<CorsPolicy>>,
    /// Rate limit actions.
    pub rate_limits: Vec<RateLimit>,
    /// Whether upstream requests carry `x-envoy-attempt-count`.
    pub include_request_attempt_count: bool,
    /// Whether responses carry it.
    pub include_attempt_count_in_response: bool,
    /// The retry policy of routes that have none.
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Mirrors of routes that have none.
    pub mirrors: Vec<Mirror>,
    /// The most request bytes kept for retries and mirrors; none is the listener's buffer limit.
    pub request_body_buffer_limit: Option<u64>,
    /// The object that caused it.
    pub origin: Option<Origin>,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What to do with them.
    pub action: RouteAction,
    /// Header changes of this level.
    pub headers: HeaderChanges,
    /// Filter settings of this level.
    pub filters: FilterOverrides,
    /// The most request bytes kept for retries and mirrors.
    pub request_body_buffer_limit: Option<u64>,
    /// The object that caused it.
    pub origin: Option<Origin>,
}

/// Which requests a route takes: all of these must match.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Whether letters of prefix, exact and separated prefix count by case; Envoy's default is
    /// true.
    pub case_sensitive: bool,
    /// A share of requests, drawn once a request.
    pub runtime_fraction: Option<Fraction>,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
}

impl RouteMatch {
    /// A match of a path alone.
    #[must_use]
    pub fn path(path: PathMatch) -> RouteMatch {
        RouteMatch {
            path,
            case_sensitive: true,
            runtime_fraction: None,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        }
    }
}

/// What a route does.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteAction {
    /// Forwards to a cluster.
    Forward(Box<RouteForward>),
    /// Redirects.
    Redirect(Box<Redirect>),
    /// Answers itself.
    Direct(Direct),
    /// Nothing that this proxy does (`non_forwarding_action`): 503.
    NonForwarding,
}

/// Envoy's `RouteAction`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteForward {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// The answer where the cluster is unknown: 503 by default, 404 or 500.
    pub cluster_not_found_status: u16,
    /// Subset labels that hosts must have, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Arc<str>)>,
    /// How the path is rewritten.
    pub path_rewrite: Option<PathRewrite>,
    /// How the authority is rewritten.
    pub host_rewrite: Option<HostRewrite>,
    /// Whether a rewritten authority is kept in `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// The time until the response is complete, counted from the request's end; Envoy's default
    /// is 15 s, zero is unlimited.
    pub timeout: Option<Duration>,
    /// The time a stream may be silent; zero is unlimited, none is the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// The longest a stream may last.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Old spelling of a `grpc-timeout` maximum; none ignores the header.
    pub max_grpc_timeout: Option<Duration>,
    /// Taken from what `grpc-timeout` says.
    pub grpc_timeout_offset: Option<Duration>,
    /// Retries.
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Mirrors.
    pub mirrors: Vec<Mirror>,
    /// Which thresholds apply.
    pub priority: Priority,
    /// What is hashed for ring hash and Maglev.
    pub hash_policy: Vec<HashPolicy>,
    /// CORS in the action itself (Envoy's old place).
    pub cors: Option<Arc<CorsPolicy>>,
    /// Rate limit actions.
    pub rate_limits: Vec<RateLimit>,
    /// Whether the virtual host's rate limits apply besides the route's own.
    pub include_vh_rate_limits: bool,
    /// Upgrades allowed or refused here, over the connection manager's.
    pub upgrades: Vec<Upgrade>,
}

/// Envoy's default route timeout.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

impl RouteForward {
    /// An action with Envoy's defaults.
    #[must_use]
    pub fn new(cluster: ClusterSpecifier) -> RouteForward {
        RouteForward {
            cluster,
            cluster_not_found_status: 503,
            metadata_match: Vec::new(),
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            timeout: None,
            idle_timeout: None,
            max_stream_duration: None,
            max_grpc_timeout: None,
            grpc_timeout_offset: None,
            retry_policy: None,
            mirrors: Vec::new(),
            priority: Priority::Default,
            hash_policy: Vec::new(),
            cors: None,
            rate_limits: Vec::new(),
            include_vh_rate_limits: false,
            upgrades: Vec::new(),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterSpecifier {
    /// To one cluster.
    Cluster(Arc<str>),
    /// To the cluster that a request header names.
    Header(HeaderName),
    /// To one of several by weight.
    Weighted(WeightedClusters),
}

/// Clusters by weight: one draw a request, `draw % total`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedClusters {
    /// The clusters.
    pub clusters: Vec<WeightedCluster>,
    /// A request header whose number is the draw.
    pub random_value_header: Option<HeaderName>,
}

/// One of several clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedCluster {
    /// The cluster; where empty, `cluster_header` names it.
    pub name: Arc<str>,
    /// The request header that names it.
    pub cluster_header: Option<HeaderName>,
    /// Its weight.
    pub weight: u32,
    /// Subset labels besides the action's.
    pub metadata_match: Vec<(Arc<str>, Arc<str>)>,
    /// Header changes of this level, before the route's.
    pub headers: HeaderChanges,
    /// Filter settings of this level.
    pub filters: FilterOverrides,
    /// The authority becomes this.
    pub host_rewrite_literal: Option<Arc<str>>,
}
