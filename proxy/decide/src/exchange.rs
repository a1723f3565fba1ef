//! One request from its head to the end of its response: a state machine, events in, effects out.
//!
//! The driver owns sockets, pools and timers. It calls [`Exchange::begin`] with a request's head,
//! carries out the [`Effect`]s, and reports what happens by [`Exchange::on`]. Time passes by
//! [`Event::Time`], due at [`Exchange::deadline`].
//!
//! ```text
//! begin ─ filters (CORS, fault, rate limits) ─ router ─ attempt ─ response ─ done
//!              │ delay, question                  ↑ back-off ↓ failed
//!              └ local reply ←───────────────────── limits, timeouts, resets
//! ```
//!
//! **Invariants**
//! - A request gets exactly one answer: one [`Effect::Reply`] or one [`Effect::Forward`], unless
//!   its client went away first; after an answer began it may only be broken off.
//! - At most one attempt is under way; every attempt ends by an answer's end, a failure that the
//!   driver reports, or [`Effect::Cancel`].
//! - Places under limits are held by values of the exchange, and given back when it ends or is
//!   dropped, wherever it is.
//! - Retries stay within the policy, and the cluster's limit or budget.

mod begin;
mod connection;
mod effect;
mod filters;
mod hop;
mod outcome;
mod path;
mod reply;
mod response;
mod router;
mod timer;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

pub use connection::{Connection, Context, Protocol};
pub use effect::{
    Attempt, Effect, Event, Mirrored, RateLimitAnswer, RateLimitQuestion, Reply, ResponseHead,
};
pub use outcome::Outcome;

use crate::config::{Origin, Priority};
use crate::cors::Grant;
use crate::fault::ActiveFault;
use crate::flags::Flags;
use crate::head::RequestHead;
use crate::ratelimit::Standing;
use crate::retry::Retries;
use crate::route::Place;
use crate::time::Nanos;
use crate::timeouts::Timeouts;
use crate::upstream::{ClusterState, Host, Lease};

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the filter of this index, waiting.
    Filter(usize, Wait),
    /// An attempt waits for its answer.
    Waiting,
    /// A retry waits until then.
    BackOff(Nanos),
    /// The answer is on its way.
    Streaming,
    /// Over.
    Done,
}

/// What a filter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The end of a delay.
    Delay(Nanos),
    /// The rate limit service, until then.
    RateLimit(Nanos),
}

/// The attempt under way.
#[derive(Debug)]
struct Current {
    host: Arc<Host>,
    /// Once it has a connection.
    lease: Option<Lease>,
    attached_at: Option<Nanos>,
    per_try: Option<Nanos>,
    stream: Option<Nanos>,
    last_activity: Nanos,
}

/// What the router knows of a request that it forwards.
#[derive(Debug)]
struct Forwarding {
    cluster: Arc<ClusterState>,
    name: Arc<str>,
    priority: Priority,
    labels: Vec<(Arc<str>, Arc<str>)>,
    hash: Option<u64>,
    timeouts: Timeouts,
    retries: Option<Retries>,
    attempts: u32,
    current: Option<Current>,
    /// The host of the last attempt that had one.
    last_host: Option<Arc<Host>>,
    global: Option<Nanos>,
    set_cookies: Vec<HeaderValue>,
    /// Whether the body is kept for another try.
    keeps_body: bool,
}

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    connection: Arc<Connection>,
    head: RequestHead,
    remote: std::net::SocketAddr,
    internal: bool,
    grpc: bool,
    /// Whether the request came with any `x-envoy-…` header that asks for something.
    envoy: bool,
    upgrade: Option<Box<str>>,
    /// The request's number, which decides shares.
    draw: u64,
    began: Nanos,
    began_unix_nanos: u64,
    place: Option<Place>,
    needs_tls: bool,
    stage: Stage,
    forwarding: Option<Box<Forwarding>>,
    request_ended: Option<Nanos>,
    response_began: Option<Nanos>,
    ended: Option<Nanos>,
    last_activity: Nanos,
    idle: Option<Duration>,
    stream_deadline: Option<Nanos>,
    request_deadline: Option<Nanos>,
    flags: Flags,
    details: Cow<'static, str>,
    transport_failure: Option<Box<str>>,
    status: Option<u16>,
    grpc_status: Option<u64>,
    answered_here: bool,
    cors: Option<Grant>,
    standing: Option<Standing>,
    limit_headers: Option<Box<HeaderMap>>,
    fault: Option<ActiveFault>,
}

impl Exchange {
    /// The request as it goes upstream now.
    #[must_use]
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// Takes the request's head for the attempt: a copy while another try may follow.
    #[must_use]
    pub fn attempt_head(&self) -> RequestHead {
        self.head.clone()
    }

    /// Whether the request's body must be kept, for retries or mirrors that may follow.
    #[must_use]
    pub fn keeps_body(&self) -> bool {
        self.forwarding
            .as_ref()
            .is_some_and(|forwarding| forwarding.keeps_body)
    }

    /// The most bytes of the body that are kept; past it, report [`Event::BodyTooLarge`]. None is
    /// the listener's buffer limit.
    #[must_use]
    pub fn body_limit(&self) -> Option<u64> {
        let place = self.place.as_ref()?;
        place
            .route()
            .request_body_buffer_limit
            .or(place.virtual_host().request_body_buffer_limit)
    }

    /// The protocol that the request wants to change to (`websocket`), where that is allowed.
    #[must_use]
    pub fn upgrade(&self) -> Option<&str> {
        self.upgrade.as_deref()
    }

    /// The place in the route configuration.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The cluster that the request goes to.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<ClusterState>> {
        self.forwarding
            .as_ref()
            .map(|forwarding| &forwarding.cluster)
    }

    /// The host of the attempt under way, or of the last.
    #[must_use]
    pub fn host(&self) -> Option<&Arc<Host>> {
        self.forwarding.as_ref()?.last_host.as_ref()
    }

    /// Attempts begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.forwarding
            .as_ref()
            .map_or(0, |forwarding| forwarding.attempts)
    }

    /// The client's address, by `x-forwarded-for` where that is trusted.
    #[must_use]
    pub fn remote(&self) -> std::net::SocketAddr {
        self.remote
    }

    /// Whether the request is gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether everything is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether an answer is on its way.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.stage == Stage::Streaming
    }

    /// The object that decided about the request: the route's, virtual host's or cluster's.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        let by_route = self.place.as_ref().and_then(Place::origin);
        by_route.or_else(|| self.cluster()?.config.origin.as_ref())
    }

    /// Tells that bytes of a body went either way; cheap, for every piece.
    pub fn touch(&mut self, now: Nanos) {
        self.last_activity = now;
        if let Some(current) = self
            .forwarding
            .as_mut()
            .and_then(|forwarding| forwarding.current.as_mut())
        {
            current.last_activity = now;
        }
    }
}
