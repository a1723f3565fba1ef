//! A connection to an upstream. Whoever has a request writes it into the connection's output and waits for the head of
//! its response; one task reads and writes for all of them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use trireme_proxy_decide::config::Http2Options;
use trireme_proxy_decide::head::RequestHead;

use super::connection::{Connection, Options, Role};
use super::frame::{self, Reason};
use super::gather::Gather;
use super::message::{Limits, is_connection_specific};
use super::server::{Clock, Ended};
use super::stream::{Handle, Incoming, Lost, Outgoing, Shared, Unsent};
use super::{CONNECTION_WINDOW_BYTES, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES};
use crate::body::Body;
use crate::h1::Transport;
use crate::h1::head::{MAX_HEAD_BYTES, MAX_HEADERS};
use crate::net::Stream;

/// Reads in one turn, so that others on the worker have theirs.
const MAX_READS: u32 = 4;

/// Sends requests on a connection.
#[derive(Clone)]
pub struct Sender(Shared);

impl Drop for Sender {
    fn drop(&mut self) {
        // The driver ends with the last of them.
        self.0.borrow_mut().touched();
    }
}

/// Drives a connection; it must be polled.
pub struct Driver {
    shared: Shared,
    clock: Clock,
    gather: Gather,
}

/// Starts HTTP/2 towards an upstream. The driver must be spawned.
#[must_use]
pub fn connect(io: Stream, http2: &Http2Options) -> (Sender, Driver) {
    let options = Options {
        max_streams: 0,
        stream_window: http2.initial_stream_window.unwrap_or(STREAM_WINDOW_BYTES),
        connection_window: http2
            .initial_connection_window
            .unwrap_or(CONNECTION_WINDOW_BYTES),
        connect_protocol: false,
        limits: Limits {
            bytes: MAX_HEAD_BYTES,
            headers: MAX_HEADERS,
        },
    };
    let transport = Transport::new(io, BytesMut::new());
    let shared = Rc::new(RefCell::new(Connection::new(
        transport,
        Role::Client,
        options,
    )));
    let timeout = http2.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT);
    let driver = Driver {
        shared: shared.clone(),
        clock: Clock::new(None, http2.keepalive_interval, timeout),
        gather: Gather::default(),
    };
    (Sender(shared), driver)
}

/// A response whose body follows.
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SendError {
    /// The stream ended before its time.
    #[error("the stream ended: {0:?}")]
    Lost(Lost),
    /// The request's own body failed.
    #[error("the request's body failed")]
    Request,
}

/// A request under way.
pub struct Sending {
    whole: Option<(Handle, Option<Outgoing>)>,
}

impl Sender {
    /// Whether requests can be sent still.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_open()
    }

    /// Requests at a time that the upstream allows.
    #[must_use]
    pub fn max_streams(&self) -> u32 {
        self.0.borrow().max_streams()
    }

    /// Sends a request, with one header more that concerns this hop only. Dropping what is returned cancels it.
    ///
    /// # Errors
    /// Gives the body back where the connection takes no requests any more.
    pub fn send(
        &self,
        head: &RequestHead,
        https: bool,
        extra: Option<(&HeaderName, &HeaderValue)>,
        body: Body,
    ) -> Result<Sending, Body> {
        let (end, length) = (body.is_end_stream(), body.size_hint().exact());
        let mut connection = self.0.borrow_mut();
        let connection = &mut *connection;
        let Some(number) = connection.open(head.method.clone()) else {
            return Err(body);
        };
        let output = &mut connection.transport.output;
        let encoder = &mut connection.encoder;
        let at = frame::begin_headers(output);
        encoder.begin(output);
        encoder.method(output, &head.method);
        // Without a path of its own (RFC 9113 §8.5).
        if head.method != Method::CONNECT {
            encoder.scheme(output, https);
            encoder.path(output, head.path.as_str().as_bytes());
        }
        if !head.authority.is_empty() {
            encoder.authority(output, head.authority.as_bytes());
        }
        for (name, value) in &head.headers {
            if !is_connection_specific(name) {
                encoder.header(output, name, value);
            }
        }
        if let Some(length) = length
            && !end
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            encoder.header(output, &CONTENT_LENGTH, &HeaderValue::from(length));
        }
        if let Some((name, value)) = extra {
            encoder.header(output, name, value);
        }
        frame::finish_headers(output, at, number, end);
        if let Some(stream) = connection.streams.get_mut(&number) {
            stream.sent = end;
        }
        connection.touched();
        let handle = Handle {
            connection: self.0.clone(),
            number,
            given_up: Reason::CANCEL,
        };
        Ok(Sending {
            whole: Some((handle, (!end).then(|| Outgoing::new(body)))),
        })
    }
}

impl Future for Sending {
    type Output = Result<Received, SendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some((handle, outgoing)) = &mut this.whole else {
            return Poll::Pending;
        };
        if let Some(sending) = outgoing {
            match sending.poll(handle, context) {
                Poll::Ready(Err(Unsent::Body(_))) => {
                    this.whole = None;
                    return Poll::Ready(Err(SendError::Request));
                }
                // The response says what became of it.
                Poll::Ready(_) => *outgoing = None,
                Poll::Pending => {}
            }
        }
        match std::task::ready!(handle.poll_head(context)) {
            Err(lost) => {
                this.whole = None;
                Poll::Ready(Err(SendError::Lost(lost)))
            }
            Ok((status, headers, ended)) => {
                let body = match this.whole.take() {
                    Some((handle, outgoing)) if !ended => {
                        Body::Stream(Incoming::of_response(handle, outgoing))
                    }
                    _ => Body::Empty,
                };
                Poll::Ready(Ok(Received {
                    status,
                    headers,
                    body,
                }))
            }
        }
    }
}

impl Driver {
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.gather.turn();
        let mut connection = self.shared.borrow_mut();
        let mut reads = 0;
        loop {
            let held = connection.is_held();
            let read = connection.poll_read(context);
            match read {
                Poll::Ready(Ok(0)) => {
                    connection.ended();
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_)) => {
                    // What is wrong is told, where the upstream listens still.
                    let _ = connection.poll_flush(context);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
            let busy = !connection.streams.is_empty();
            let clock = self.clock.poll(&mut connection, busy, context);
            if let Poll::Ready(Err(_) | Ok(Ended::TimedOut | Ended::Closed)) = clock {
                return Poll::Ready(());
            }
            if !self.gather.waits(&connection, context)
                && let Poll::Ready(Err(_)) = connection.poll_flush(context)
            {
                return Poll::Ready(());
            }
            // Nobody else has it, and nobody can send on it any more.
            let alone = Rc::strong_count(&self.shared) == 1;
            if connection.streams.is_empty() && (alone || connection.is_closing()) {
                return Poll::Ready(());
            }
            reads += 1;
            if read.is_pending() && (!held || connection.is_held()) {
                if connection.streams.is_empty() {
                    connection.rest();
                }
                return Poll::Pending;
            }
            if reads == MAX_READS {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.shared.borrow_mut().driving(Some(context));
        let turn = this.turn(context);
        if !this.gather.is_waiting() {
            this.shared.borrow_mut().driving(None);
        }
        turn
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Who waits on it hears that nobody drives it any more.
        self.shared.borrow_mut().ended();
    }
}
