//! What an exchange is told, and what it wants done.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::config::{Origin, Priority, RateLimitFilter};
use crate::flags::Flags;
use crate::head::RequestHead;
use crate::outlier::Change;
use crate::ratelimit::Entries;
use crate::retry::Broken;
use crate::upstream::{ClusterState, Host, Lease};

/// A response without its body.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The request's body, and trailers, have come in full.
    RequestEnd,
    /// The request's body is larger than what may be kept; it is passed on, and no longer kept.
    BodyTooLarge,
    /// The attempt got a stream on a connection.
    Attached(Lease),
    /// A limit of the pool refused the attempt.
    Overflow,
    /// The attempt broke: no connection, or a reset. The detail is the transport's own word.
    Broken(Broken, &'a str),
    /// An informational answer (1xx, not 101) came and is passed on.
    Informational,
    /// The answer's head came; where it is passed on it is changed in place.
    Head {
        /// The head.
        head: &'a mut ResponseHead,
        /// Whether nothing follows.
        end: bool,
    },
    /// The answer's trailers came; the end follows.
    Trailers(&'a HeaderMap),
    /// The answer has come in full and was passed on.
    ResponseEnd,
    /// The client went away or reset its stream.
    DownstreamGone,
    /// The rate limit service answered.
    RateLimit(RateLimitAnswer),
    /// Time passed.
    Time,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Begin an attempt: ask the host's pool, send [`super::Exchange::attempt_head`] and the body.
    Attempt(Attempt),
    /// End the attempt under way: give up its place in the pool or reset its stream, and report
    /// nothing more of it.
    Cancel,
    /// Answer so; the request's rest may be discarded.
    Reply(Reply),
    /// Pass the answer on: its head, as it is changed now, then body and trailers.
    Forward,
    /// Break off the answer that is on its way.
    ResetDownstream,
    /// Send a copy of the request, body included, and ignore its answer.
    Mirror(Mirrored),
    /// Ask the rate limit service.
    AskRateLimit(RateLimitQuestion),
    /// Outlier detection ejected a host: for logs.
    Ejected(Change),
}

/// An attempt to begin.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// 1 is the first.
    pub number: u32,
    /// The cluster.
    pub cluster: Arc<ClusterState>,
    /// The host.
    pub host: Arc<Host>,
    /// Which limits count.
    pub priority: Priority,
}

/// An answer of the proxy's own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, `content-length` included; of gRPC its status too.
    pub headers: HeaderMap,
    /// The body; not sent in answer to HEAD.
    pub body: Cow<'static, [u8]>,
    /// Why, in flags.
    pub flags: Flags,
    /// Why, in Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The object that caused it, where one did.
    pub origin: Option<Origin>,
}

/// A copy of a request to send.
#[derive(Clone, Debug)]
pub struct Mirrored {
    /// The cluster.
    pub cluster: Arc<ClusterState>,
    /// The host.
    pub host: Arc<Host>,
    /// The request.
    pub head: RequestHead,
    /// How long it may take; none is unlimited.
    pub timeout: Option<Duration>,
}

/// A question to the rate limit service.
#[derive(Clone, Debug)]
pub struct RateLimitQuestion {
    /// The service and its ways.
    pub filter: Arc<RateLimitFilter>,
    /// The request's descriptors.
    pub descriptors: Vec<Entries>,
}

/// What the rate limit service answered.
#[derive(Clone, Debug)]
pub enum RateLimitAnswer {
    /// The request may pass.
    Ok {
        /// Added to the request.
        request_headers: HeaderMap,
        /// Added to the response.
        response_headers: HeaderMap,
    },
    /// It may not.
    OverLimit {
        /// Added to the response.
        response_headers: HeaderMap,
        /// The response's body.
        body: Vec<u8>,
    },
    /// No answer, or none that makes sense.
    Error,
}
