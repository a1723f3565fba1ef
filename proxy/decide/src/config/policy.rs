//! Policies of a route: retries, hashes, rewrites, redirects, direct responses, mirrors.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::matcher::{Fraction, HeaderMatcher, Regex};

/// The routing priority: which circuit breaker thresholds apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The usual one.
    #[default]
    Default,
    /// The high one.
    High,
}

/// Conditions of a retry, a bit each: see [`RetryOn::parse_any`] for the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(pub u32);

/// Envoy's retry policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// What is retried.
    pub retry_on: RetryOn,
    /// How often at most; Envoy's default is 1.
    pub num_retries: u32,
    /// The time one try may take; none is the route's timeout, zero too.
    pub per_try_timeout: Option<Duration>,
    /// The time one try may be silent.
    pub per_try_idle_timeout: Option<Duration>,
    /// Statuses retried with `retriable-status-codes`.
    pub retriable_status_codes: Vec<u16>,
    /// Response headers retried with `retriable-headers`; one must match.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Request headers of which one must match for any retry; empty allows all.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// The first back-off's bound; Envoy's default is 25 ms.
    pub base_interval: Duration,
    /// The largest back-off; Envoy's default is ten times the base.
    pub max_interval: Duration,
    /// Back-off that the response asks for.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    /// Whether hosts already tried are avoided (`envoy.retry_host_predicates.previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// Whether canary hosts are avoided (`envoy.retry_host_predicates.omit_canary_hosts`).
    pub omit_canary_hosts: bool,
    /// How often another host is drawn when the predicate refuses; Envoy's default is 1.
    pub host_selection_max_attempts: u32,
    /// `envoy.retry_priorities.previous_priorities`: priorities already tried are avoided, taking
    /// account of failures this often.
    pub previous_priorities_update_frequency: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            retry_on: RetryOn::default(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            rate_limited_back_off: None,
            avoid_previous_hosts: false,
            omit_canary_hosts: false,
            host_selection_max_attempts: 1,
            previous_priorities_update_frequency: None,
        }
    }
}

/// Back-off that the response asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitedBackOff {
    /// Response headers that say when, in order.
    pub reset_headers: Vec<ResetHeader>,
    /// Longer ones are ignored; Envoy's default is 300 s.
    pub max_interval: Duration,
}

/// A response header that says when to retry.
#[derive(Clone, Debug, PartialEq)]
pub struct ResetHeader {
    /// The header.
    pub name: HeaderName,
    /// How it says so.
    pub format: ResetHeaderFormat,
}

/// How a header says when to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetHeaderFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

/// One element of a route's hash policy.
#[derive(Clone, Debug, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Whether later elements are skipped once there is a hash.
    pub terminal: bool,
}

/// What a hash policy hashes.
#[derive(Clone, Debug, PartialEq)]
pub enum HashSource {
    /// A request header's values, optionally rewritten.
    Header {
        /// The header's name in lower case.
        name: Arc<str>,
        /// Applied to each value.
        rewrite: Option<RegexRewrite>,
    },
    /// A cookie; made where it is absent and `ttl` is set.
    Cookie {
        /// The cookie's name.
        name: Arc<str>,
        /// How long a made one lives; zero is a session cookie.
        ttl: Option<Duration>,
        /// Its path.
        path: Arc<str>,
    },
    /// The client's IP address.
    SourceIp,
    /// A query parameter's first value.
    QueryParameter(Arc<str>),
    /// A filter state object; never present here, so it adds nothing.
    FilterState(Arc<str>),
}

/// A pattern and what replaces it (`\1` is a group).
#[derive(Clone, Debug, PartialEq)]
pub struct RegexRewrite {
    /// What is replaced.
    pub pattern: Regex,
    /// By what.
    pub substitution: Arc<str>,
}

/// How the path is rewritten.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// The matched prefix or path becomes this.
    Prefix(Arc<str>),
    /// By an expression over the path without query.
    Regex(RegexRewrite),
    /// The whole path, keeping the query.
    Full(Arc<str>),
}

/// How the authority is rewritten.
#[derive(Clone, Debug, PartialEq)]
pub enum HostRewrite {
    /// To this.
    Literal(Arc<str>),
    /// To the chosen host's name (DNS clusters and endpoints with a hostname).
    Auto,
    /// To a request header's value.
    Header(HeaderName),
    /// By an expression over the path without query.
    PathRegex(RegexRewrite),
}

/// A mirror of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where to; or, where empty, by `cluster_header`.
    pub cluster: Arc<str>,
    /// The request header that names the cluster.
    pub cluster_header: Option<HeaderName>,
    /// Which share.
    pub share: Fraction,
    /// Whether the authority keeps its name instead of getting `-shadow`.
    pub disable_shadow_host_suffix: bool,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The scheme becomes https.
    pub https: bool,
    /// The scheme becomes this.
    pub scheme: Option<Arc<str>>,
    /// The host becomes this.
    pub host: Option<Arc<str>>,
    /// The port becomes this.
    pub port: Option<u16>,
    /// The path becomes this, with its own query if it has one.
    pub path: Option<Arc<str>>,
    /// The matched prefix becomes this.
    pub prefix: Option<Arc<str>>,
    /// The path is rewritten so.
    pub regex: Option<RegexRewrite>,
    /// Whether the query goes.
    pub strip_query: bool,
}

/// A direct response.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct {
    /// The status.
    pub status: StatusCode,
    /// The body; a format string where `format` is set.
    pub body: Arc<[u8]>,
    /// `content-type` of the body; none is `text/plain`.
    pub content_type: Option<Arc<str>>,
}

/// Envoy's `max_stream_duration` of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// The longest a stream may last; zero is unlimited, none is the connection manager's.
    pub max_stream_duration: Option<Duration>,
    /// Whether `grpc-timeout` counts, and its largest value (zero is unlimited).
    pub grpc_timeout_header_max: Option<Duration>,
    /// Taken from what `grpc-timeout` says.
    pub grpc_timeout_header_offset: Option<Duration>,
}
