//! Retries: what is retried, how often, after how long, and where.

mod condition;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use rand_core::RngCore;

use crate::breaker::{Breaker, Resource, Token};
use crate::config::{Priority, ResetHeaderFormat, RetryOn, RetryPolicy};
use crate::head::RequestHead;
use crate::route::{matches_any, matches_header, matches_values};
use crate::text::parse_number;
use crate::upstream::{ClusterStats, Host};

pub(crate) use condition::grpc_status;
pub use condition::{Broken, grpc_to_http};

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RETRIABLE_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const RETRIABLE_HEADERS: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What is decided about a try that failed or was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The answer stands.
    No,
    /// Again, after this long.
    After(Duration),
    /// It would be, but the retries are used up.
    LimitExceeded,
    /// It would be, but the limit or budget refuses.
    Overflow,
}

/// A request's retries.
#[derive(Debug)]
pub struct Retries {
    policy: Arc<RetryPolicy>,
    on: RetryOn,
    remaining: u64,
    extra_codes: Vec<u16>,
    extra_headers: Vec<HeaderName>,
    /// The bound of the next back-off, milliseconds.
    bound_ms: u64,
    /// The place of the retry that waits or is under way.
    token: Option<Token>,
    tried: Vec<Arc<Host>>,
}

impl Retries {
    /// The retries of a request, whose headers that ask for some are taken out; none where
    /// nothing would be retried. `asks` is whether there may be any such header.
    pub fn of(
        policy: Option<&Arc<RetryPolicy>>,
        head: &mut RequestHead,
        asks: bool,
    ) -> Option<Retries> {
        if !asks {
            let policy = policy.filter(|policy| policy.retry_on != RetryOn::default())?;
            return Some(Retries::merged(
                policy.clone(),
                policy.retry_on,
                head,
                false,
            ));
        }
        let by_header =
            head.headers.contains_key(&RETRY_ON) || head.headers.contains_key(&RETRY_GRPC_ON);
        let on = policy.map_or(RetryOn::default(), |policy| policy.retry_on);
        let retries = (by_header || on != RetryOn::default()).then(|| {
            let policy = policy.cloned().unwrap_or_default();
            Retries::merged(policy, on, head, true)
        });
        for name in [&RETRY_ON, &RETRY_GRPC_ON, &MAX_RETRIES] {
            head.headers.remove(name);
        }
        head.headers.remove(&RETRIABLE_CODES);
        head.headers.remove(&RETRIABLE_HEADERS);
        retries
    }

    fn merged(policy: Arc<RetryPolicy>, on: RetryOn, head: &RequestHead, asks: bool) -> Retries {
        let text = |name: &HeaderName| {
            asks.then(|| head.headers.get(name))
                .flatten()
                .and_then(|value| value.to_str().ok())
                .unwrap_or("")
        };
        let mut on = on;
        on.0 |= RetryOn::parse_http(text(&RETRY_ON)).0;
        on.0 |= RetryOn::parse_grpc(text(&RETRY_GRPC_ON)).0;
        let headers = &policy.retriable_request_headers;
        if !headers.is_empty() && !headers.iter().any(|wanted| matches_header(wanted, head)) {
            on = RetryOn::default();
        }
        let mut remaining = u64::from(policy.num_retries);
        if on != RetryOn::default()
            && let Some(asked) = parse_number(text(&MAX_RETRIES))
        {
            remaining = asked;
        }
        let list = |name: &HeaderName| {
            text(name)
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect::<Vec<String>>()
        };
        let base = millis(policy.base_interval).max(1);
        Retries {
            on,
            remaining,
            extra_codes: list(&RETRIABLE_CODES)
                .iter()
                .filter_map(|code| code.parse().ok())
                .collect(),
            extra_headers: list(&RETRIABLE_HEADERS)
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
            bound_ms: base,
            token: None,
            tried: Vec::new(),
            policy,
        }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether there may be another try.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.on != RetryOn::default() && self.remaining > 0
    }

    /// Hosts that were tried.
    #[must_use]
    pub fn tried(&self) -> &[Arc<Host>] {
        &self.tried
    }

    /// Remembers a host that was tried.
    pub fn remember(&mut self, host: &Arc<Host>) {
        self.tried.push(host.clone());
    }

    /// Decides about an answer.
    pub fn on_head(
        &mut self,
        status: u16,
        headers: &HeaderMap,
        unix_nanos: u64,
        limits: Limits<'_>,
        rng: &mut dyn RngCore,
    ) -> Decision {
        if !self.wants_head(status, headers) {
            return self.settle(limits);
        }
        let asked = self.asked_back_off(headers, unix_nanos);
        self.again(asked, limits, rng)
    }

    /// Decides about a try that broke before it was answered. `started` is whether the request
    /// reached the host at all.
    pub fn on_broken(
        &mut self,
        broken: Broken,
        started: bool,
        limits: Limits<'_>,
        rng: &mut dyn RngCore,
    ) -> Decision {
        if !self.on.wants_broken(broken, started) {
            return self.settle(limits);
        }
        self.again(None, limits, rng)
    }

    fn settle(&mut self, limits: Limits<'_>) -> Decision {
        if self.token.take().is_some() {
            ClusterStats::inc(&limits.stats.upstream_rq_retry_success);
        }
        Decision::No
    }

    fn again(
        &mut self,
        asked: Option<Duration>,
        limits: Limits<'_>,
        rng: &mut dyn RngCore,
    ) -> Decision {
        self.token = None;
        if self.remaining == 0 {
            ClusterStats::inc(&limits.stats.upstream_rq_retry_limit_exceeded);
            return Decision::LimitExceeded;
        }
        self.remaining -= 1;
        let Some(token) = limits.breaker.take(limits.priority, Resource::Retries) else {
            ClusterStats::inc(&limits.stats.upstream_rq_retry_overflow);
            return Decision::Overflow;
        };
        self.token = Some(token);
        ClusterStats::inc(&limits.stats.upstream_rq_retry);
        if let Some(asked) = asked {
            ClusterStats::inc(&limits.stats.upstream_rq_retry_backoff_ratelimited);
            // At least what was asked, and up to half as long again, so that not all come at once.
            let least = millis(asked);
            let more = rng.next_u64() % (least / 2).max(1);
            return Decision::After(Duration::from_millis(least.saturating_add(more)));
        }
        ClusterStats::inc(&limits.stats.upstream_rq_retry_backoff_exponential);
        let bound = self.bound_ms;
        let max = millis(self.policy.max_interval).max(1);
        // As Envoy: doubled while that stays within the maximum, then the maximum itself.
        self.bound_ms = if bound < max / 2 { bound * 2 } else { max };
        Decision::After(Duration::from_millis(rng.next_u64() % bound))
    }

    fn wants_head(&self, status: u16, headers: &HeaderMap) -> bool {
        if headers.contains_key(&RATE_LIMITED) {
            return self.on.contains(RetryOn::ENVOY_RATELIMITED);
        }
        if self.on.wants_status(status) {
            return true;
        }
        if self.on.contains(RetryOn::RETRIABLE_STATUS_CODES)
            && (self.policy.retriable_status_codes.contains(&status)
                || self.extra_codes.contains(&status))
        {
            return true;
        }
        if self.on.contains(RetryOn::RETRIABLE_HEADERS) {
            let configured = self
                .policy
                .retriable_headers
                .iter()
                .any(|wanted| match &wanted.key {
                    Some(key) => matches_values(wanted, headers, key),
                    None => {
                        let own = (&*wanted.name == ":status").then(|| status.to_string());
                        matches_any(wanted, own.into_iter().map(Cow::Owned))
                    }
                });
            if configured
                || self
                    .extra_headers
                    .iter()
                    .any(|name| headers.contains_key(name))
            {
                return true;
            }
        }
        self.on.wants_grpc(headers)
    }

    /// How long the answer asks to wait; none where it does not, or for too long.
    fn asked_back_off(&self, headers: &HeaderMap, unix_nanos: u64) -> Option<Duration> {
        let limited = self.policy.rate_limited_back_off.as_ref()?;
        limited.reset_headers.iter().find_map(|reset| {
            let number = parse_number(headers.get(&reset.name)?.to_str().ok()?)?;
            let secs = match reset.format {
                ResetHeaderFormat::Seconds => number,
                ResetHeaderFormat::UnixTimestamp => {
                    number.checked_sub(unix_nanos / 1_000_000_000)?
                }
            };
            let wait = Duration::from_secs(secs);
            (!wait.is_zero() && wait <= limited.max_interval).then_some(wait)
        })
    }
}

/// What bounds retries.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The cluster's breaker.
    pub breaker: &'a Breaker,
    /// The cluster's counters.
    pub stats: &'a ClusterStats,
    /// The request's priority.
    pub priority: Priority,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
