//! One connection to an upstream: a request at a time, driven by whoever waits for the response. There is no task of
//! its own; while it is idle its owner watches it with [`Connection::poll_idle`].

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use thiserror::Error;
use trireme_proxy_decide::head::RequestHead;

use super::decode::{BodyError, Decoder, Step};
use super::encode::{self, Framing};
use super::head::{self, HeadEnd, HeadError, MAX_HEAD_BYTES};
use super::transport::Transport;
use crate::body::Body;
use crate::net::Stream;

/// A body's pieces are gathered up to this much before they are written.
const GATHER_BYTES: usize = 16 * 1024;
/// Informational responses before the real one; more are an attack.
const MAX_INFORMATIONAL: u32 = 16;

/// Why there is no response.
#[derive(Debug, Error)]
pub enum SendError {
    /// The upstream ended or reset the connection.
    #[error("the upstream closed the connection: {0}")]
    Closed(std::io::ErrorKind),
    /// The upstream does not speak HTTP/1.1.
    #[error("the upstream's response is malformed: {0}")]
    Protocol(#[from] HeadError),
    /// The request's own body failed.
    #[error("the request's body: {0}")]
    Request(BodyError),
}

/// A connection to an upstream.
pub struct Connection {
    transport: Transport,
    /// Requests sent on it.
    pub requests: u64,
    /// What the connection occupies while it lives, such as a slot of a limit.
    pub holds: Option<Box<dyn Any>>,
}

/// Where connections go that can be used again.
pub trait Home {
    /// Takes one back.
    fn give_back(&self, connection: Box<Connection>);
}

impl Connection {
    /// Around a fresh connection.
    #[must_use]
    pub fn new(io: Stream, holds: Option<Box<dyn Any>>) -> Self {
        Self {
            transport: Transport::new(io, BytesMut::new()),
            requests: 0,
            holds,
        }
    }

    /// Ready when the idle connection is of no further use: the upstream closed it, or sent what nobody asked for.
    pub fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.transport.rest();
        self.transport.poll_fill(context).map(|_| ())
    }
}

/// A response.
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
    /// With status 101: the connection and what was read of it.
    pub upgrade: Option<(Stream, BytesMut)>,
}

/// The request's side of an exchange.
struct Outgoing {
    body: Option<Box<Body>>,
    framing: Framing,
}

impl Outgoing {
    /// Writes as much of the body as is there and as the connection takes. Ready when all is written.
    fn poll(
        &mut self,
        transport: &mut Transport,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        let closed = |error: std::io::Error| SendError::Closed(error.kind());
        loop {
            if self.body.is_none() || transport.unsent() >= GATHER_BYTES {
                ready!(transport.poll_flush(context)).map_err(closed)?;
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(()));
            };
            match Pin::new(&mut **body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        encode::piece(&mut transport.output, &mut self.framing, &data)
                            .map_err(SendError::Request)?;
                    }
                }
                Poll::Ready(None) => {
                    self.body = None;
                    encode::end(&mut transport.output, self.framing).map_err(SendError::Request)?;
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(SendError::Request(error)));
                }
                Poll::Pending => {
                    // What is there is not kept back for what may come.
                    if let Poll::Ready(Err(error)) = transport.poll_flush(context) {
                        return Poll::Ready(Err(closed(error)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// A request under way.
pub struct Sending {
    connection: Option<Box<Connection>>,
    outgoing: Outgoing,
    method: Method,
    end: HeadEnd,
    informational: u32,
    home: Option<Rc<dyn Home>>,
}

/// Sends a request, with one header more that concerns this hop only. The response's body gives the connection back to `home` when it is complete; dropping anything
/// earlier closes the connection.
#[must_use]
pub fn send(
    mut connection: Box<Connection>,
    head: &RequestHead,
    extra: Option<(&HeaderName, &HeaderValue)>,
    body: Body,
    home: Option<Rc<dyn Home>>,
) -> Sending {
    connection.requests += 1;
    let has_body = !body.is_end_stream();
    let known = body.size_hint().exact();
    let output = &mut connection.transport.output;
    let framing = encode::request_head(output, head, extra, known, has_body);
    let outgoing = Outgoing {
        body: has_body.then(|| Box::new(body)),
        framing,
    };
    Sending {
        connection: Some(connection),
        outgoing,
        method: head.method.clone(),
        end: HeadEnd::new(MAX_HEAD_BYTES),
        informational: 0,
        home,
    }
}

impl Future for Sending {
    type Output = Result<Received, SendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(mut connection) = this.connection.take() else {
            return Poll::Ready(Err(SendError::Closed(std::io::ErrorKind::NotConnected)));
        };
        let transport = &mut connection.transport;
        let sent = match this.outgoing.poll(transport, context) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(SendError::Request(error))) => {
                return Poll::Ready(Err(SendError::Request(error)));
            }
            // The upstream may have answered before it closed.
            Poll::Ready(Err(_)) | Poll::Pending => false,
        };
        loop {
            if let Some(length) = this.end.found(&transport.input)? {
                let bytes = head::take(&mut transport.input, length);
                let received = head::response(&bytes, &this.method)?;
                let switching = received.status == StatusCode::SWITCHING_PROTOCOLS;
                if received.status.is_informational() && !switching {
                    this.informational += 1;
                    if this.informational > MAX_INFORMATIONAL {
                        return Poll::Ready(Err(HeadError::Malformed(
                            "too many informational responses",
                        )
                        .into()));
                    }
                    this.end = HeadEnd::new(MAX_HEAD_BYTES);
                    continue;
                }
                if switching {
                    let (io, input, _) = connection.transport.into_parts();
                    return Poll::Ready(Ok(Received {
                        status: received.status,
                        headers: received.headers,
                        body: Body::Boxed(Box::pin(Held {
                            _holds: connection.holds,
                        })),
                        upgrade: Some((io, input)),
                    }));
                }
                let mut incoming = Incoming {
                    connection: Some(connection),
                    decoder: received.body,
                    outgoing: Outgoing {
                        body: this.outgoing.body.take(),
                        framing: this.outgoing.framing,
                    },
                    sent,
                    reusable: !received.close,
                    home: this.home.take(),
                };
                let body = if incoming.decoder.is_done() {
                    incoming.finish();
                    Body::Empty
                } else {
                    Body::Response(incoming)
                };
                return Poll::Ready(Ok(Received {
                    status: received.status,
                    headers: received.headers,
                    body,
                    upgrade: None,
                }));
            }
            match transport.poll_fill(context) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(SendError::Closed(std::io::ErrorKind::UnexpectedEof)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(SendError::Closed(error.kind())));
                }
                Poll::Pending => {
                    this.connection = Some(connection);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Keeps what a connection occupied until its tunnel ends.
struct Held {
    _holds: Option<Box<dyn Any>>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }
}

/// A response's body.
pub struct Incoming {
    connection: Option<Box<Connection>>,
    decoder: Decoder,
    outgoing: Outgoing,
    sent: bool,
    reusable: bool,
    home: Option<Rc<dyn Home>>,
}

impl Incoming {
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let transport = &mut connection.transport;
        if !self.sent {
            match self.outgoing.poll(transport, context) {
                Poll::Ready(Ok(())) => self.sent = true,
                Poll::Ready(Err(SendError::Request(error))) => {
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        loop {
            match self.decoder.step(&mut transport.input) {
                Ok(Step::Data(data)) => {
                    if self.decoder.is_done() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(transport.poll_fill(context)) {
                Ok(0) if self.decoder.ends_with_connection() => {
                    self.connection = None;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Truncated))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Connection(error.kind())))),
            }
        }
    }

    /// The response is complete: the connection goes home, if nothing is left on it.
    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let clean =
            self.sent && connection.transport.input.is_empty() && !connection.transport.ended;
        if self.reusable
            && clean
            && let Some(home) = self.home.take()
        {
            home.give_back(connection);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.connection.is_none()
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }
}
