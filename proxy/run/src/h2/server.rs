//! A client's connection: one task drives it and all of its streams. It reads once, lets every stream that has
//! something to do have its turn, and writes once.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream as _};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;

use super::connection::{Arrived, Broken, Connection, Options, Role};
use super::frame::{self, Reason};
use super::gather::Gather;
use super::message::{Request, is_connection_specific};
use super::stream::{Handle, Incoming, Outgoing, Shared};
use crate::body::Body;
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::h1::Transport;

/// Reads in one turn, so that others on the worker have theirs.
const MAX_READS: u32 = 4;
/// How long a client that was told to go may go on sending before the connection is reset (Envoy's delayed close).
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

/// How a connection is served.
pub struct Serving {
    /// What is allowed.
    pub options: Options,
    /// A connection without streams is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// A ping after this long without a sign of the client.
    pub keepalive_interval: Option<Duration>,
    /// How long its answer may take.
    pub keepalive_timeout: Duration,
    /// Says when to ask clients to go.
    pub drain: Drain,
}

/// What ended a connection well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it, or we did, once its streams were done.
    Closed,
    /// It was idle for too long.
    TimedOut,
}

/// Answers one request, to the last byte of its response.
async fn answered(handle: Handle, method: Method, handling: impl Future<Output = Response<Body>>) {
    let mut handle = handle;
    let response = {
        let mut handling = pin!(handling);
        std::future::poll_fn(|context| {
            if handle.poll_lost(context).is_ready() {
                return Poll::Ready(None);
            }
            handling.as_mut().poll(context).map(Some)
        })
        .await
    };
    let Some(response) = response else { return };
    let (parts, body) = response.into_parts();
    let bodiless = method == Method::HEAD
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let end = bodiless || body.is_end_stream();
    // Asked before the borrow: the body may be of this connection, too.
    let length = body.size_hint().exact();
    {
        let mut connection = handle.connection.borrow_mut();
        let connection = &mut *connection;
        let Some(stream) = connection
            .streams
            .get_mut(&handle.number)
            .filter(|stream| stream.lost.is_none())
        else {
            return;
        };
        stream.answered = true;
        stream.sent = end;
        let output = &mut connection.transport.output;
        let at = frame::begin_headers(output);
        connection.encoder.begin(output);
        connection.encoder.status(output, parts.status);
        for (name, value) in &parts.headers {
            if !is_connection_specific(name) {
                connection.encoder.header(output, name, value);
            }
        }
        if !bodiless
            && let Some(length) = length
            && !parts.headers.contains_key(CONTENT_LENGTH)
        {
            let length = HeaderValue::from(length);
            connection.encoder.header(output, &CONTENT_LENGTH, &length);
        }
        frame::finish_headers(output, at, handle.number, end);
        connection.touched();
    }
    drop(parts);
    if end {
        return;
    }
    let mut outgoing = Outgoing::new(body);
    let sent = std::future::poll_fn(|context| outgoing.poll(&handle, context)).await;
    if sent.is_err() {
        // What was promised cannot be kept.
        handle.given_up = Reason::INTERNAL_ERROR;
    }
}

/// When the connection has to be looked at though nothing came.
pub(super) struct Clock {
    idle: Deadline,
    idle_timeout: Option<Duration>,
    was_busy: bool,
    keepalive: Deadline,
    interval: Option<Duration>,
    timeout: Duration,
    asked: bool,
}

impl Clock {
    pub(super) fn new(
        idle_timeout: Option<Duration>,
        interval: Option<Duration>,
        timeout: Duration,
    ) -> Self {
        let now = Instant::now();
        let mut clock = Self {
            idle: Deadline::new(),
            idle_timeout,
            was_busy: false,
            keepalive: Deadline::new(),
            interval,
            timeout,
            asked: false,
        };
        clock.idle.set(idle_timeout.map(|timeout| now + timeout));
        clock.keepalive.set(interval.map(|interval| now + interval));
        clock
    }

    /// Ready with how the connection ends.
    pub(super) fn poll(
        &mut self,
        connection: &mut Connection,
        busy: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<Ended, Broken>> {
        if let Some(interval) = self.interval {
            if connection.heard() {
                self.asked &= !connection.ping_answered();
                if !self.asked {
                    self.keepalive.set(Some(Instant::now() + interval));
                }
            }
            while self.keepalive.poll(context).is_ready() {
                if self.asked {
                    return Poll::Ready(Err(connection.fail(Broken::Silent)));
                }
                self.asked = true;
                connection.ping();
                connection.touched();
                self.keepalive.set(Some(Instant::now() + self.timeout));
            }
        }
        let Some(timeout) = self.idle_timeout else {
            return Poll::Pending;
        };
        if std::mem::replace(&mut self.was_busy, busy) && !busy {
            self.idle.set(Some(Instant::now() + timeout));
        }
        while self.idle.poll(context).is_ready() {
            if !busy {
                return Poll::Ready(Ok(Ended::TimedOut));
            }
            self.idle.set(Some(Instant::now() + timeout));
        }
        Poll::Pending
    }
}

/// Serves one connection until it ends. Draining sends GOAWAY and lets streams finish.
///
/// # Errors
/// What broke the connection.
pub async fn serve<H, F>(
    transport: Transport,
    serving: Serving,
    handler: H,
) -> Result<Ended, Broken>
where
    H: Fn(Request, Body) -> F,
    F: Future<Output = Response<Body>>,
{
    let shared: Shared = Rc::new(RefCell::new(Connection::new(
        transport,
        Role::Server,
        serving.options,
    )));
    let ended = streams(&shared, &serving, handler).await;
    let polite = match ended {
        Ok(_) => true,
        // It is told what it did wrong.
        Err(broken) => matches!(broken, Broken::Protocol(..)),
    };
    if polite {
        linger(&shared).await;
    }
    ended
}

async fn streams<H, F>(shared: &Shared, serving: &Serving, handler: H) -> Result<Ended, Broken>
where
    H: Fn(Request, Body) -> F,
    F: Future<Output = Response<Body>>,
{
    let begin = |arrived: Arrived| {
        let handle = Handle {
            connection: shared.clone(),
            number: arrived.stream,
            given_up: Reason::CANCEL,
        };
        let body = if arrived.ended {
            Body::Empty
        } else {
            Body::Stream(Incoming::of_request(shared, arrived.stream))
        };
        let method = arrived.request.method.clone();
        answered(handle, method, handler(arrived.request, body))
    };
    let mut clock = Clock::new(
        serving.idle_timeout,
        serving.keepalive_interval,
        serving.keepalive_timeout,
    );
    let mut gather = Gather::default();
    let mut streams = FuturesUnordered::new();
    let mut arrived = Vec::new();
    let mut asked = pin!(serving.drain.asked());
    let mut draining = false;
    // The client's first bytes may have been read by who looked at them.
    let mut understood = shared.borrow_mut().understand();
    std::future::poll_fn(|context| {
        shared.borrow_mut().driving(Some(context));
        gather.turn();
        let mut reads = 0;
        let result = loop {
            let mut connection = shared.borrow_mut();
            let held = connection.is_held();
            let read = connection.poll_read(context);
            match read {
                _ if understood.is_err() => break Poll::Ready(understood.map(|()| Ended::Closed)),
                Poll::Ready(Ok(0)) => break Poll::Ready(Ok(Ended::Closed)),
                Poll::Ready(Err(broken)) => break Poll::Ready(Err(broken)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
            connection.take_arrived(&mut arrived);
            drop(connection);
            for one in arrived.drain(..) {
                streams.push(begin(one));
            }
            let mut turn = Pin::new(&mut streams);
            while let Poll::Ready(Some(())) = turn.as_mut().poll_next(context) {}
            let mut connection = shared.borrow_mut();
            if !draining && asked.as_mut().poll(context).is_ready() {
                draining = true;
                connection.ask_to_go();
            }
            if draining && connection.ping_answered() {
                connection.close_to_new();
            }
            if let Poll::Ready(result) = clock.poll(&mut connection, !streams.is_empty(), context) {
                if result.is_ok() {
                    connection.ask_to_go();
                    connection.close_to_new();
                }
                break Poll::Ready(result);
            }
            if !gather.waits(&connection, context)
                && let Poll::Ready(Err(broken)) = connection.poll_flush(context)
            {
                break Poll::Ready(Err(broken));
            }
            if streams.is_empty() && connection.is_closing() {
                break Poll::Ready(Ok(Ended::Closed));
            }
            reads += 1;
            let more = read.is_ready() || (held && !connection.is_held());
            if !more {
                if streams.is_empty() {
                    connection.rest();
                }
                break Poll::Pending;
            }
            if reads == MAX_READS {
                context.waker().wake_by_ref();
                break Poll::Pending;
            }
        };
        if !gather.is_waiting() {
            shared.borrow_mut().driving(None);
        }
        understood = Ok(());
        result
    })
    .await
}

/// Lets the client read our last frames though it still sends: closing with unread input would reset the connection.
async fn linger(shared: &Shared) {
    let mut read = 0;
    let closing = std::future::poll_fn(|context| {
        let transport = &mut shared.borrow_mut().transport;
        if ready!(transport.poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        loop {
            transport.discard();
            match ready!(transport.poll_fill(context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(more) => read += more,
            }
            if read > LINGER_BYTES {
                return Poll::Ready(());
            }
        }
    });
    let _ = tokio::time::timeout(LINGER, closing).await;
}
