//! The fault filter: delays and aborts, drawn independently, the delay first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand_core::RngCore;

use crate::config::{FaultAbort, FaultDelay, FaultPolicy, Fraction};
use crate::head::RequestHead;
use crate::route::matches_header;
use crate::text::parse_number;

const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENTAGE: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENTAGE: &str = "x-envoy-fault-abort-request-percentage";
const DOWNSTREAM_NODE: &str = "x-envoy-downstream-service-node";

/// How a request is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// With an HTTP status.
    Http(u16),
    /// With a gRPC status.
    Grpc(u32),
}

/// Faults under way in one proxy.
#[derive(Debug, Default)]
pub struct ActiveFaults(AtomicU32);

/// One fault under way; dropped, it is over.
#[derive(Debug)]
#[must_use]
pub struct ActiveFault(Arc<ActiveFaults>);

impl ActiveFaults {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more.
    pub fn begin(self: &Arc<Self>) -> ActiveFault {
        self.0.fetch_add(1, Ordering::Relaxed);
        ActiveFault(self.clone())
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the policy looks at the request at all.
#[must_use]
pub fn applies(
    policy: &FaultPolicy,
    head: &RequestHead,
    cluster: Option<&str>,
    active: u32,
) -> bool {
    policy.max_active_faults.is_none_or(|max| active < max)
        && policy
            .upstream_cluster
            .as_deref()
            .is_none_or(|wanted| cluster == Some(wanted))
        && (policy.downstream_nodes.is_empty()
            || head.first(DOWNSTREAM_NODE).is_some_and(|node| {
                policy
                    .downstream_nodes
                    .iter()
                    .any(|wanted| &**wanted == node)
            }))
        && policy
            .headers
            .iter()
            .all(|matcher| matches_header(matcher, head))
}

/// How long to delay the request; none where it is not delayed.
#[must_use]
pub fn delay(policy: &FaultPolicy, head: &RequestHead, rng: &mut dyn RngCore) -> Option<Duration> {
    let delay = match policy.delay.as_ref()? {
        FaultDelay::Fixed { delay, share } => share.covers(rng.next_u64()).then_some(*delay)?,
        FaultDelay::Header { share } => {
            let millis = parse_number(head.first(DELAY)?)?;
            at_most(*share, head, DELAY_PERCENTAGE)
                .covers(rng.next_u64())
                .then(|| Duration::from_millis(millis))?
        }
    };
    // Envoy counts whole milliseconds; less is no delay.
    (delay >= Duration::from_millis(1)).then_some(delay)
}

/// How to abort the request; none where it is not aborted.
#[must_use]
pub fn abort(policy: &FaultPolicy, head: &RequestHead, rng: &mut dyn RngCore) -> Option<Abort> {
    match policy.abort.as_ref()? {
        FaultAbort::Http { status, share } => {
            share.covers(rng.next_u64()).then_some(Abort::Http(*status))
        }
        FaultAbort::Grpc { status, share } => {
            share.covers(rng.next_u64()).then_some(Abort::Grpc(*status))
        }
        FaultAbort::Header { share } => {
            let http = head
                .first(ABORT)
                .and_then(parse_number)
                .filter(|status| (200..600).contains(status))
                .and_then(|status| u16::try_from(status).ok())
                .map(Abort::Http);
            let grpc = || {
                head.first(ABORT_GRPC)
                    .and_then(parse_number)
                    .and_then(|status| u32::try_from(status).ok())
                    .map(Abort::Grpc)
            };
            let abort = http.or_else(grpc)?;
            at_most(*share, head, ABORT_PERCENTAGE)
                .covers(rng.next_u64())
                .then_some(abort)
        }
    }
}

/// The share that the request asks for, at most the configured one.
fn at_most(share: Fraction, head: &RequestHead, name: &str) -> Fraction {
    let asked = head
        .first(name)
        .and_then(parse_number)
        .and_then(|asked| u32::try_from(asked).ok());
    Fraction {
        numerator: asked.map_or(share.numerator, |asked| asked.min(share.numerator)),
        denominator: share.denominator,
    }
}
