//! One connection from a client: requests one after the other, each answered before the next is read.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;

use super::decode::{BodyError, Decoder, Step};
use super::encode::{self, Framing};
use super::head::{self, HeadEnd, HeadError, RequestHead};
use super::transport::Transport;
use crate::body::Body;
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::net::Stream;
use crate::tunnel;

/// A head must be complete this long after its first byte. Envoy has no such limit by default; slow heads are an
/// attack, and no client takes a minute.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// What a client may send ahead of its turn; more waits in the kernel.
const MAX_AHEAD_BYTES: usize = 64 * 1024;
/// A body's pieces are gathered up to this much before they are written.
const GATHER_BYTES: usize = 16 * 1024;
/// How long a refused client may go on sending before the connection is reset (Envoy's delayed close).
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

/// What answers a request.
pub struct Reply {
    /// The response.
    pub response: Response<Body>,
    /// With status 101: the upstream's connection and what was read of it.
    pub upgrade: Option<(Stream, BytesMut)>,
    /// Close the connection after this.
    pub close: bool,
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            upgrade: None,
            close: false,
        }
    }
}

/// What ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client or we closed it between requests.
    Closed,
    /// It was refused.
    Refused(HeadError),
    /// It was idle for too long, or too slow.
    TimedOut,
    /// It became a tunnel, which ended.
    Upgraded,
    /// A message could not be completed.
    Aborted,
}

struct Shared {
    transport: Transport,
    decoder: Decoder,
    expects_continue: bool,
    failed: Option<BodyError>,
    /// Bodies of earlier requests must not read this one's.
    turn: u64,
}

/// A request's body.
pub struct Incoming {
    shared: Rc<RefCell<Shared>>,
    turn: u64,
}

impl Shared {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if self.expects_continue {
            self.expects_continue = false;
            self.transport
                .output
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            match self.decoder.step(&mut self.transport.input) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
            }
            if self.transport.unsent() > 0
                && let Poll::Ready(Err(error)) = self.transport.poll_flush(context)
            {
                return Poll::Ready(Some(Err(self.fail(BodyError::Connection(error.kind())))));
            }
            match ready!(self.transport.poll_fill(context)) {
                Ok(0) => return Poll::Ready(Some(Err(self.fail(BodyError::Truncated)))),
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(self.fail(BodyError::Connection(error.kind())))));
                }
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> BodyError {
        self.failed = Some(error.clone());
        error
    }

    /// Ready when the client is gone. Reads ahead meanwhile, but only so much.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.transport.input.len() < MAX_AHEAD_BYTES {
            match ready!(self.transport.poll_fill(context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }
}

impl Incoming {
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.turn != self.turn {
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        }
        shared.poll_data(context)
    }

    pub(crate) fn is_done(&self) -> bool {
        let shared = self.shared.borrow();
        shared.turn != self.turn || shared.decoder.is_done()
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        self.shared.borrow().decoder.remaining()
    }
}

/// How a connection is served.
pub struct Options {
    /// A connection without a request is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// After an upgrade, a connection on which nothing moves is closed after this long.
    pub tunnel_idle_timeout: Option<Duration>,
    /// Requests after which it is closed.
    pub max_requests: Option<u64>,
    /// Says when to ask clients to go.
    pub drain: Drain,
    /// The value of `server` in replies of our own.
    pub server_name: HeaderValue,
    /// What heads may have.
    pub limits: head::Limits,
}

enum Next {
    Head(RequestHead),
    Ended(Ended),
}

async fn read_head(
    shared: &Rc<RefCell<Shared>>,
    deadline: &mut Deadline,
    options: &Options,
) -> Next {
    let mut end = HeadEnd::new(options.limits.bytes);
    let mut timed_head = false;
    deadline.set(options.idle_timeout.map(|timeout| Instant::now() + timeout));
    let mut closing = pin!(options.drain.closed());
    std::future::poll_fn(|context| {
        let mut shared = shared.borrow_mut();
        let shared = &mut *shared;
        loop {
            match end.found(&shared.transport.input) {
                Ok(Some(length)) => {
                    let bytes = head::take(&mut shared.transport.input, length);
                    return Poll::Ready(match head::request(&bytes, &options.limits) {
                        Ok(head) => Next::Head(head),
                        Err(error) => Next::Ended(Ended::Refused(error)),
                    });
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Next::Ended(Ended::Refused(error))),
            }
            let empty = shared.transport.input.is_empty();
            if !empty && !timed_head {
                timed_head = true;
                deadline.set(Some(Instant::now() + HEAD_TIMEOUT));
            }
            match shared.transport.poll_fill(context) {
                Poll::Ready(Ok(0)) if empty => return Poll::Ready(Next::Ended(Ended::Closed)),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Ended(Ended::Aborted)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if empty {
                        shared.transport.rest();
                        if closing.as_mut().poll(context).is_ready() {
                            return Poll::Ready(Next::Ended(Ended::Closed));
                        }
                    }
                    ready!(deadline.poll(context));
                    return Poll::Ready(Next::Ended(Ended::TimedOut));
                }
            }
        }
    })
    .await
}

/// Runs the handler until it answers, or the client is gone.
async fn answered<F: Future<Output = Reply>>(
    shared: &Rc<RefCell<Shared>>,
    handling: F,
) -> Option<Reply> {
    let mut handling = pin!(handling);
    std::future::poll_fn(|context| {
        if let Poll::Ready(reply) = handling.as_mut().poll(context) {
            return Poll::Ready(Some(reply));
        }
        let mut shared = shared.borrow_mut();
        if shared.failed.is_some() {
            return Poll::Ready(None);
        }
        if shared.decoder.is_done() && shared.poll_gone(context).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

enum Written {
    Whole,
    Broken,
}

async fn write_body(shared: &Rc<RefCell<Shared>>, mut framing: Framing, mut body: Body) -> Written {
    let mut complete = false;
    std::future::poll_fn(|context| {
        loop {
            let waiting = shared.borrow().transport.unsent();
            if complete || waiting >= GATHER_BYTES {
                if ready!(shared.borrow_mut().transport.poll_flush(context)).is_err() {
                    return Poll::Ready(Written::Broken);
                }
                if complete {
                    return Poll::Ready(Written::Whole);
                }
            }
            // Not borrowed: the body may be the request's own, echoed.
            match std::pin::Pin::new(&mut body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && encode::piece(
                            &mut shared.borrow_mut().transport.output,
                            &mut framing,
                            &data,
                        )
                        .is_err()
                    {
                        return Poll::Ready(Written::Broken);
                    }
                }
                Poll::Ready(None) => {
                    if encode::end(&mut shared.borrow_mut().transport.output, framing).is_err() {
                        return Poll::Ready(Written::Broken);
                    }
                    complete = true;
                }
                Poll::Ready(Some(Err(_))) => {
                    // What was promised cannot be kept: the reset connection tells the client.
                    let _ = shared.borrow_mut().transport.poll_flush(context);
                    return Poll::Ready(Written::Broken);
                }
                Poll::Pending => {
                    let mut shared = shared.borrow_mut();
                    if let Poll::Ready(Err(_)) = shared.transport.poll_flush(context) {
                        return Poll::Ready(Written::Broken);
                    }
                    if shared.decoder.is_done() && shared.poll_gone(context).is_ready() {
                        return Poll::Ready(Written::Broken);
                    }
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Lets the client read the last response before the connection goes, though it still sends: closing with unread
/// input would reset it.
async fn linger(shared: &Rc<RefCell<Shared>>) {
    let mut read = 0;
    let closing = std::future::poll_fn(|context| {
        let mut shared = shared.borrow_mut();
        if ready!(shared.transport.poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        loop {
            shared.transport.discard();
            match ready!(shared.transport.poll_fill(context)) {
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

/// The reply to what could not be understood, as Envoy words it.
async fn refuse(shared: &Rc<RefCell<Shared>>, status: StatusCode, options: &Options) {
    let body = status.canonical_reason().unwrap_or_default();
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert("date", crate::date::now());
    headers.insert("server", options.server_name.clone());
    {
        let mut shared = shared.borrow_mut();
        let output = &mut shared.transport.output;
        encode::response_head(
            output,
            status,
            &mut headers,
            &Method::GET,
            Some(body.len() as u64),
            true,
            false,
        );
        output.extend_from_slice(body.as_bytes());
    }
    linger(shared).await;
}

/// Serves one connection until it ends.
pub async fn serve<H, F>(transport: Transport, options: Options, mut handler: H) -> Ended
where
    H: FnMut(Request<Body>) -> F,
    F: Future<Output = Reply>,
{
    let shared = Rc::new(RefCell::new(Shared {
        transport,
        decoder: Decoder::length(0),
        expects_continue: false,
        failed: None,
        turn: 0,
    }));
    let mut deadline = Deadline::new();
    let mut served = 0_u64;
    loop {
        let head = match read_head(&shared, &mut deadline, &options).await {
            Next::Head(head) => head,
            Next::Ended(ended) => {
                if let Ended::Refused(error) = ended {
                    refuse(&shared, error.status(), &options).await;
                }
                return ended;
            }
        };
        deadline.set(None);
        served += 1;
        let (method, asks_upgrade) = (head.method.clone(), head.upgrade);
        let (mut close, old) = (head.close, head.old);
        let turn = {
            let mut shared = shared.borrow_mut();
            shared.turn += 1;
            shared.decoder = head.body;
            shared.expects_continue = head.expects_continue;
            shared.turn
        };
        let body = if head.body.is_done() {
            Body::Empty
        } else {
            Body::Request(Incoming {
                shared: shared.clone(),
                turn,
            })
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.headers_mut() = head.headers;
        let Some(reply) = answered(&shared, handler(request)).await else {
            let malformed = matches!(shared.borrow().failed, Some(BodyError::Chunk(_)));
            if malformed {
                refuse(&shared, StatusCode::BAD_REQUEST, &options).await;
            }
            return Ended::Aborted;
        };
        let (mut parts, body) = reply.response.into_parts();
        if let Some((upstream, early)) = reply.upgrade.filter(|_| asks_upgrade) {
            let (downstream, input, unsent) = {
                let mut shared = shared.borrow_mut();
                let protocol = parts.headers.get(UPGRADE).cloned();
                parts
                    .headers
                    .insert(CONNECTION, HeaderValue::from_static("upgrade"));
                if let Some(protocol) = protocol {
                    parts.headers.insert(UPGRADE, protocol);
                }
                let output = &mut shared.transport.output;
                encode::response_head(
                    output,
                    parts.status,
                    &mut parts.headers,
                    &method,
                    None,
                    false,
                    false,
                );
                output.extend_from_slice(&early);
                let closed: Stream = Box::new(tokio::io::empty());
                let transport = std::mem::replace(
                    &mut shared.transport,
                    Transport::new(closed, BytesMut::new()),
                );
                transport.into_parts()
            };
            let downstream = tunnel::Side {
                io: downstream,
                unsent,
            };
            let upstream = tunnel::Side {
                io: upstream,
                unsent: input.to_vec(),
            };
            tunnel::join(
                downstream,
                upstream,
                options.tunnel_idle_timeout,
                &mut tunnel::Uncounted,
            )
            .await;
            // The exchange that the body belongs to ends with the tunnel.
            drop(body);
            return Ended::Upgraded;
        }
        close |= reply.close
            || options.drain.is_draining()
            || options.max_requests.is_some_and(|most| served >= most)
            || !shared.borrow().decoder.is_done()
            || shared.borrow().failed.is_some();
        let framing = {
            let known = if body.is_end_stream() {
                Some(0)
            } else {
                body.size_hint().exact()
            };
            let output = &mut shared.borrow_mut().transport.output;
            encode::response_head(
                output,
                parts.status,
                &mut parts.headers,
                &method,
                known,
                close,
                old,
            )
        };
        close |= framing == Framing::UntilClose;
        if let Written::Broken = write_body(&shared, framing, body).await {
            return Ended::Aborted;
        }
        if close {
            linger(&shared).await;
            return Ended::Closed;
        }
    }
}
