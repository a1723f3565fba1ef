//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::filter::{CorsPolicy, FaultPolicy};
use super::header_change::HeaderAddition;
use super::listener::Cidr;
use super::rate_limit::{LocalRateLimit, RateLimitFilter};
use super::route::RouteConfiguration;
use crate::format::Format;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// ALPN or the connection's first bytes say.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, also without TLS.
    Http2,
}

/// Where routes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// In the listener.
    Inline(Arc<RouteConfiguration>),
    /// From the route discovery service, by name.
    Rds(Arc<str>),
}

/// What becomes of the response's `server` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// It is the proxy's name.
    #[default]
    Overwrite,
    /// The proxy's name where the upstream sent none.
    AppendIfAbsent,
    /// As the upstream sent it.
    PassThrough,
}

/// What becomes of `%2F` and the like in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// They are decoded and the client is redirected there.
    UnescapeAndRedirect,
    /// They are decoded.
    UnescapeAndForward,
}

/// What becomes of a port in the request's authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// It stays.
    #[default]
    Keep,
    /// It goes where it is the listener's.
    Matching,
    /// It goes.
    Any,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Kept where the connection is mTLS.
    ForwardOnly,
    /// The client's is appended where the connection is mTLS.
    AppendForward,
    /// The client's replaces it where the connection is mTLS.
    SanitizeSet,
    /// Kept always.
    AlwaysForwardOnly,
}

/// Options of HTTP/1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// Whether HTTP/1.0 is answered.
    pub accept_http_10: bool,
    /// Whether the spelling of header names is kept.
    pub preserve_header_case: bool,
    /// Whether absolute URLs are refused; Envoy accepts them by default.
    pub refuse_absolute_url: bool,
    /// Whether trailers are kept.
    pub enable_trailers: bool,
}

/// Options of HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at a time on one connection; none is Envoy's default (1,024).
    pub max_concurrent_streams: Option<u32>,
    /// A stream's window; none is Envoy's default (16 MiB).
    pub initial_stream_window: Option<u32>,
    /// A connection's window; none is Envoy's default (24 MiB).
    pub initial_connection_window: Option<u32>,
    /// Whether CONNECT with `:protocol` is accepted.
    pub allow_connect: bool,
    /// A ping after this idle time.
    pub keepalive_interval: Option<Duration>,
    /// How long to wait for its answer.
    pub keepalive_timeout: Option<Duration>,
}

/// An upgrade that is allowed or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `websocket`, `CONNECT`, …; compared without case.
    pub kind: Arc<str>,
    /// Whether it is allowed.
    pub enabled: bool,
}

/// The router filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterFilter {
    /// Whether `x-envoy-*` headers are neither added nor believed.
    pub suppress_envoy_headers: bool,
    /// Whether `x-envoy-expected-rq-timeout-ms` of the request is believed.
    pub respect_expected_rq_timeout: bool,
}

/// An HTTP filter, in the chain's order.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilter {
    /// CORS; policies are in routes.
    Cors {
        /// The filter's name.
        name: Arc<str>,
        /// The policy where no route has one.
        policy: Option<Arc<CorsPolicy>>,
    },
    /// Faults.
    Fault {
        /// The filter's name.
        name: Arc<str>,
        /// The faults where no route has any.
        policy: Arc<FaultPolicy>,
    },
    /// The local rate limit.
    LocalRateLimit {
        /// The filter's name.
        name: Arc<str>,
        /// The limit where no route has one.
        limit: Arc<LocalRateLimit>,
    },
    /// The global rate limit.
    RateLimit {
        /// The filter's name.
        name: Arc<str>,
        /// The service and its ways.
        filter: Arc<RateLimitFilter>,
    },
    /// The router: the last.
    Router(RouterFilter),
    /// One that changes nothing here (statistics, ALPN, metadata exchange), by name.
    Other(Arc<str>),
}

/// A change to local replies.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalReplyMapper {
    /// Only these statuses; empty is all.
    pub statuses: Vec<u16>,
    /// Only replies with one of these response flags; empty is all.
    pub flags: Vec<Arc<str>>,
    /// The status becomes this.
    pub status: Option<u16>,
    /// The body becomes this.
    pub body: Option<Format>,
    /// `content-type` of the body.
    pub content_type: Option<Arc<str>>,
    /// Headers added.
    pub headers_to_add: Vec<HeaderAddition>,
}

/// What becomes of a request's scheme (`scheme_header_transformation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// It is the client's.
    #[default]
    Kept,
    /// It is `https`, or `http`, whatever the client said.
    Overwritten {
        /// `https`
        https: bool,
    },
    /// It tells how the upstream is spoken to.
    MatchUpstream,
}

/// Envoy's HTTP connection manager.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConnectionManager {
    /// The name in statistics.
    pub stat_prefix: Arc<str>,
    /// Which HTTP.
    pub codec: Codec,
    /// The routes.
    pub routes: RouteSource,
    /// The filters in order.
    pub filters: Vec<HttpFilter>,
    /// The `server` header's value; Envoy's default is `envoy`.
    pub server_name: Arc<str>,
    /// What becomes of `server`.
    pub server_header: ServerHeader,
    /// `via` added to both.
    pub via: Option<Arc<str>>,
    /// Whether the peer's address is the client's (an edge), not `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Trusted proxies before this one.
    pub xff_num_trusted_hops: u32,
    /// Whether `x-forwarded-for` is not appended to.
    pub skip_xff_append: bool,
    /// Clients that count as internal (`internal_address_config`); their `x-envoy-*` headers are
    /// believed. Envoy's default is none.
    pub internal_addresses: Vec<Cidr>,
    /// What becomes of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// Whether `.` and `..` are resolved before routing.
    pub normalize_path: bool,
    /// Whether `//` becomes `/` before routing.
    pub merge_slashes: bool,
    /// What becomes of `%2F`.
    pub escaped_slashes: EscapedSlashes,
    /// What becomes of the authority's port.
    pub strip_port: StripPort,
    /// Whether a trailing dot of the authority goes.
    pub strip_trailing_host_dot: bool,
    /// What becomes of `:scheme`.
    pub scheme: Scheme,
    /// Whether `x-request-id` is made where absent.
    pub generate_request_id: bool,
    /// Whether an edge keeps the client's `x-request-id`.
    pub preserve_external_request_id: bool,
    /// Whether responses carry `x-request-id`.
    pub always_set_request_id_in_response: bool,
    /// Silence of a stream; Envoy's default is 5 min, zero is unlimited.
    pub stream_idle_timeout: Duration,
    /// The whole request's arrival; zero is unlimited.
    pub request_timeout: Duration,
    /// The request headers' arrival; zero is unlimited.
    pub request_headers_timeout: Duration,
    /// A connection without streams; Envoy's default is 1 h, zero is unlimited.
    pub idle_timeout: Duration,
    /// The longest a connection lasts before it drains.
    pub max_connection_duration: Option<Duration>,
    /// The longest a stream lasts.
    pub max_stream_duration: Option<Duration>,
    /// How long between the first GOAWAY and the last; Envoy's default is 5 s.
    pub drain_timeout: Duration,
    /// Requests on one connection; none or zero is unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// Bytes of request headers; Envoy's default is 60 KiB.
    pub max_request_headers_bytes: u32,
    /// Headers of a request; Envoy's default is 100.
    pub max_headers_count: u32,
    /// Options of HTTP/1.
    pub http1: Http1Options,
    /// Options of HTTP/2.
    pub http2: Http2Options,
    /// Upgrades allowed.
    pub upgrades: Vec<Upgrade>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
    /// Changes to local replies, the first that matches.
    pub local_replies: Vec<LocalReplyMapper>,
}

impl HttpConnectionManager {
    /// A connection manager with Envoy's defaults and the router as only filter.
    #[must_use]
    pub fn new(stat_prefix: &str, routes: RouteSource) -> HttpConnectionManager {
        HttpConnectionManager {
            stat_prefix: Arc::from(stat_prefix),
            codec: Codec::Auto,
            routes,
            filters: vec![HttpFilter::Router(RouterFilter::default())],
            server_name: Arc::from("envoy"),
            server_header: ServerHeader::Overwrite,
            via: None,
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            internal_addresses: Vec::new(),
            forward_client_cert: ForwardClientCert::Sanitize,
            normalize_path: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
            strip_port: StripPort::Keep,
            strip_trailing_host_dot: false,
            scheme: Scheme::Kept,
            generate_request_id: true,
            preserve_external_request_id: false,
            always_set_request_id_in_response: false,
            stream_idle_timeout: Duration::from_secs(300),
            request_timeout: Duration::ZERO,
            request_headers_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(3600),
            max_connection_duration: None,
            max_stream_duration: None,
            drain_timeout: Duration::from_secs(5),
            max_requests_per_connection: None,
            max_request_headers_bytes: 60 * 1024,
            max_headers_count: 100,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            upgrades: Vec::new(),
            access_logs: Vec::new(),
            local_replies: Vec::new(),
        }
    }

    /// The router filter's options.
    #[must_use]
    pub fn router(&self) -> RouterFilter {
        self.filters
            .iter()
            .find_map(|filter| match filter {
                HttpFilter::Router(router) => Some(*router),
                _ => None,
            })
            .unwrap_or_default()
    }
}
