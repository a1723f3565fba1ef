//! Rate limits: the local token bucket, and descriptors for a rate limit service.

use std::sync::Arc;
use std::time::Duration;

use super::header_change::HeaderAddition;
use super::matcher::{Fraction, HeaderMatcher, QueryMatcher};
use crate::ratelimit::LimitState;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// The most it holds, and what it starts with.
    pub max_tokens: u32,
    /// Tokens added an interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

/// Envoy's local rate limit filter.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRateLimit {
    /// The name that tells buckets apart.
    pub stat_prefix: Arc<str>,
    /// The bucket; none limits nothing.
    pub bucket: Option<TokenBucket>,
    /// The share of requests it looks at.
    pub enabled: Fraction,
    /// The share of those it refuses when the bucket is empty.
    pub enforced: Fraction,
    /// The status of a refusal; Envoy's default is 429.
    pub status: u16,
    /// gRPC status RESOURCE_EXHAUSTED instead of UNAVAILABLE for refused gRPC requests.
    pub rate_limited_as_resource_exhausted: bool,
    /// Added to refusals.
    pub response_headers_to_add: Vec<HeaderAddition>,
    /// Added to requests that are refused but not enforced.
    pub request_headers_to_add: Vec<HeaderAddition>,
    /// Buckets for matching descriptors.
    pub descriptors: Vec<Descriptor>,
    /// Which stage's rate limit actions make descriptors.
    pub stage: u32,
    /// Whether the bucket is one a connection instead of one a proxy.
    pub per_connection: bool,
    /// Whether the default bucket is consumed too where a descriptor's bucket was; Envoy's
    /// default is true.
    pub always_consume_default_bucket: bool,
    /// Whether to send `x-ratelimit-*` headers (draft version 03).
    pub ratelimit_headers: bool,
    /// Rate limit actions of the filter itself, instead of the route's.
    pub rate_limits: Vec<RateLimit>,
    /// The buckets' levels: begin with the default.
    pub state: LimitState,
}

/// A bucket for requests whose descriptor has exactly these entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// The entries; an empty value matches every value of its key.
    pub entries: Vec<DescriptorEntry>,
    /// The bucket.
    pub bucket: TokenBucket,
}

/// One key and value of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DescriptorEntry {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Arc<str>,
}

/// Envoy's global rate limit filter.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitFilter {
    /// The domain sent to the service.
    pub domain: Arc<str>,
    /// The stage whose actions it uses.
    pub stage: u32,
    /// The cluster of the service.
    pub cluster: Arc<str>,
    /// How long to wait for the service; Envoy's default is 20 ms.
    pub timeout: Duration,
    /// Whether a request is refused (500) when the service does not answer.
    pub failure_mode_deny: bool,
    /// The status of a refusal; Envoy's default is 429.
    pub status: u16,
    /// gRPC status RESOURCE_EXHAUSTED instead of UNAVAILABLE for refused gRPC requests.
    pub rate_limited_as_resource_exhausted: bool,
    /// Whether to send `x-ratelimit-*` headers (draft version 03).
    pub ratelimit_headers: bool,
    /// Whether refusals carry no `x-envoy-ratelimited`.
    pub disable_x_envoy_ratelimited_header: bool,
}

/// One of a route's or virtual host's `rate_limits`: actions that make one descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// The stage.
    pub stage: u32,
    /// Each adds one entry; if one adds none (and does not say to skip), there is no descriptor.
    pub actions: Vec<DescriptorAction>,
}

/// What adds one entry to a descriptor.
#[derive(Clone, Debug, PartialEq)]
pub enum DescriptorAction {
    /// `source_cluster`: the local service cluster.
    SourceCluster,
    /// `destination_cluster`: the route's cluster.
    DestinationCluster,
    /// A request header's value.
    RequestHeader {
        /// The header.
        header: Arc<str>,
        /// The entry's key.
        key: Arc<str>,
        /// Whether an absent header adds no entry but keeps the descriptor.
        skip_if_absent: bool,
    },
    /// `remote_address`: the client's address.
    RemoteAddress,
    /// `masked_remote_address`: the client's network.
    MaskedRemoteAddress {
        /// Bits of an IPv4 address that count.
        v4_bits: u8,
        /// Bits of an IPv6 address that count.
        v6_bits: u8,
    },
    /// A fixed value.
    GenericKey {
        /// The entry's key; Envoy's default is `generic_key`.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
    },
    /// A fixed value for requests with (or without) certain headers.
    HeaderValueMatch(HeaderValueMatch),
    /// A fixed value for requests with (or without) certain query parameters.
    QueryParameterValueMatch {
        /// The entry's key; Envoy's default is `query_match`.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
        /// Whether all must match (true) or not all may (false).
        expect_match: bool,
        /// The parameters.
        parameters: Vec<QueryMatcher>,
    },
}

/// A fixed value for requests with (or without) certain headers.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderValueMatch {
    /// The entry's key; Envoy's default is `header_match`.
    pub key: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
    /// Whether all must match (true) or not all may (false).
    pub expect_match: bool,
    /// The headers.
    pub headers: Vec<HeaderMatcher>,
}
