//! How long a request may take: the route's timeouts, those its headers ask for, and gRPC's.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{DEFAULT_TIMEOUT, HttpConnectionManager, RetryPolicy, RouteForward};
use crate::head::RequestHead;
use crate::text::parse_number;

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const ALT_RESPONSE: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
const STREAM_DURATION: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request's timeouts; none is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's end to the response's.
    pub global: Option<Duration>,
    /// Of one attempt.
    pub per_try: Option<Duration>,
    /// Of an attempt's silence.
    pub per_try_idle: Option<Duration>,
    /// Of an attempt's whole life.
    pub upstream_stream: Option<Duration>,
    /// Whether a timeout is answered with 204 instead of 504.
    pub alt_response: bool,
}

/// A duration in whole milliseconds, none where zero: zero means unlimited everywhere here.
fn limited(duration: Duration) -> Option<Duration> {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    (millis > 0).then(|| Duration::from_millis(millis))
}

fn take_millis(headers: &mut HeaderMap, name: &HeaderName) -> Option<Option<Duration>> {
    let value = headers.remove(name)?;
    let millis = value.to_str().ok().and_then(parse_number)?;
    Some(limited(Duration::from_millis(millis)))
}

impl Timeouts {
    /// The timeouts of a request, whose headers that ask for some are taken out; `asks` is
    /// whether there may be any.
    pub(crate) fn of(
        forward: &RouteForward,
        policy: Option<&RetryPolicy>,
        cluster_max_stream: Option<Duration>,
        respect_expected: bool,
        head: &mut RequestHead,
        grpc: bool,
        asks: bool,
    ) -> Timeouts {
        let mut timeouts = Timeouts {
            per_try: policy
                .and_then(|policy| policy.per_try_timeout)
                .and_then(limited),
            per_try_idle: policy
                .and_then(|policy| policy.per_try_idle_timeout)
                .and_then(limited),
            upstream_stream: cluster_max_stream.and_then(limited),
            ..Timeouts::default()
        };
        if !uses_stream_duration(forward) {
            timeouts.global = match forward.max_grpc_timeout {
                Some(max) if grpc => grpc_global(head, max, forward.grpc_timeout_offset),
                _ => limited(forward.timeout.unwrap_or(DEFAULT_TIMEOUT)),
            };
        }
        if asks {
            timeouts.asked(respect_expected, &mut head.headers);
        }
        // One try that may take as long as everything needs no timeout of its own.
        if let (Some(per_try), Some(global)) = (timeouts.per_try, timeouts.global)
            && per_try >= global
        {
            timeouts.per_try = None;
        }
        timeouts
    }

    /// What the request's headers ask for.
    fn asked(&mut self, respect_expected: bool, headers: &mut HeaderMap) {
        let expected = respect_expected
            .then(|| headers.get(&EXPECTED_TIMEOUT))
            .flatten()
            .and_then(|value| value.to_str().ok())
            .map(parse_number);
        match expected {
            Some(Some(millis)) => self.global = limited(Duration::from_millis(millis)),
            Some(None) => {}
            None => {
                if let Some(asked) = take_millis(headers, &TIMEOUT) {
                    self.global = asked;
                }
            }
        }
        if let Some(asked) = take_millis(headers, &PER_TRY_TIMEOUT) {
            self.per_try = asked;
        }
        if let Some(asked) = take_millis(headers, &STREAM_DURATION) {
            self.upstream_stream = asked;
        }
        self.alt_response = headers.remove(&ALT_RESPONSE).is_some();
    }

    /// Tells the upstream how long it has: `x-envoy-expected-rq-timeout-ms`, and `grpc-timeout`
    /// where the route limits that.
    pub(crate) fn announce(
        &self,
        forward: &RouteForward,
        elapsed: Duration,
        envoy_headers: bool,
        grpc: bool,
        headers: &mut HeaderMap,
    ) {
        let Some(mut expected) = self.per_try.or(self.global) else {
            return;
        };
        if let Some(global) = self.global {
            expected = match global.checked_sub(elapsed) {
                Some(left) if !left.is_zero() => expected.min(left),
                // Zero would be unlimited.
                _ => Duration::from_millis(1),
            };
        }
        let millis = u64::try_from(expected.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        if envoy_headers {
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        if grpc
            && !uses_stream_duration(forward)
            && forward.max_grpc_timeout.is_some()
            && let Ok(value) = HeaderValue::from_str(&grpc_text(millis))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// Whether the route's timeout is replaced by a stream duration that obeys `grpc-timeout`.
fn uses_stream_duration(forward: &RouteForward) -> bool {
    forward
        .max_stream_duration
        .is_some_and(|duration| duration.grpc_timeout_header_max.is_some())
}

fn grpc_global(head: &RequestHead, max: Duration, offset: Option<Duration>) -> Option<Duration> {
    let asked = grpc_timeout(head).map(|asked| match offset {
        Some(offset) if offset < asked => asked - offset,
        _ => asked,
    });
    match (asked.and_then(limited), limited(max)) {
        (Some(asked), Some(max)) => Some(asked.min(max)),
        (asked, max) => asked.or(max),
    }
}

/// The longest a whole stream may last: the route's, else the connection manager's.
pub(crate) fn max_stream_duration(
    hcm: &HttpConnectionManager,
    forward: Option<&RouteForward>,
    head: &RequestHead,
) -> Option<Duration> {
    let own = forward.and_then(|forward| forward.max_stream_duration);
    if let Some(own) = own {
        if let Some(max) = own.grpc_timeout_header_max
            && let Some(asked) = grpc_timeout(head)
        {
            let asked = match limited(max) {
                Some(max) => asked.min(max),
                None => asked,
            };
            let asked = match own.grpc_timeout_header_offset {
                Some(offset) if offset < asked => asked - offset,
                _ => asked,
            };
            return limited(asked);
        }
        if let Some(duration) = own.max_stream_duration {
            return limited(duration);
        }
    }
    hcm.max_stream_duration.and_then(limited)
}

/// The time a stream may be silent: the route's, else the connection manager's.
pub(crate) fn stream_idle(
    hcm: &HttpConnectionManager,
    forward: Option<&RouteForward>,
) -> Option<Duration> {
    limited(
        forward
            .and_then(|forward| forward.idle_timeout)
            .unwrap_or(hcm.stream_idle_timeout),
    )
}

/// `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn grpc_timeout(head: &RequestHead) -> Option<Duration> {
    let value = head.headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let unit = value.chars().last()?;
    let digits = value.get(..value.len() - unit.len_utf8())?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number = parse_number(digits)?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        // Fractions of a millisecond count as one.
        'u' => Duration::from_millis(number.div_ceil(1000)),
        'n' => Duration::from_millis(number.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// A timeout in gRPC's notation: eight digits at most, so larger units as needed.
fn grpc_text(millis: u64) -> String {
    const MOST: u64 = 99_999_999;
    if millis <= MOST {
        return format!("{millis}m");
    }
    let secs = millis / 1000;
    if secs <= MOST {
        return format!("{secs}S");
    }
    let minutes = secs / 60;
    if minutes <= MOST {
        return format!("{minutes}M");
    }
    format!("{}H", (minutes / 60).min(MOST))
}
