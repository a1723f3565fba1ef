//! One attempt: a connection from the pool, the request on it, and the head of the response.

use std::any::Any;
use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version};
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;
use trireme_proxy_decide::upstream::{ClusterState, Lease as Place};

use crate::body::Body;
use crate::h1::client::{self, SendError};
use crate::net::{Local, Stream};
use crate::pool::{HostPool, Lease, PoolError};

/// A request refused by a connection that was going away goes to another so often. Nothing of it was sent.
const MAX_MOVES: u32 = 2;

/// Keep-alive and Proxy-Connection are hop by hop, too.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A response whose body follows.
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
    /// With status 101: the upstream's connection and what was read of it.
    pub upgrade: Option<(Stream, BytesMut)>,
    /// What it occupies until its body has ended.
    pub holds: Option<Box<dyn Any>>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// A limit refused.
    Overflow,
    /// It broke.
    Broken(Broken, String),
    /// The client's side of the body failed; the client's connection deals with it.
    Client,
}

enum Stage {
    Acquiring(Local<'static, Result<(Lease, Place), PoolError>>),
    Attached(Lease),
    Http1(client::Sending),
    Http2(Local<'static, Result<Received, Failure>>),
    Over,
}

/// What an attempt comes to next.
pub enum Progress {
    /// It has a place on a connection; [`Attempt::send`] is to follow.
    Attached(Place),
    /// The response's head.
    Head(Box<Received>),
    /// It failed.
    Failed(Failure),
}

/// One attempt.
pub struct Attempt {
    pool: Rc<HostPool>,
    cluster: Arc<ClusterState>,
    stage: Stage,
}

fn pool_failure(error: PoolError) -> Failure {
    match error {
        PoolError::Overflow => Failure::Overflow,
        PoolError::Timeout => Failure::Broken(Broken::ConnectionTimeout, String::new()),
        PoolError::Connect(reason) => Failure::Broken(Broken::RemoteConnectionFailure, reason),
    }
}

impl Attempt {
    /// Begins one. What is ready at once is given back with it.
    #[must_use]
    pub fn begin(pool: Rc<HostPool>, cluster: Arc<ClusterState>) -> (Self, Option<Progress>) {
        let (stage, progress) = match pool.acquire_ready(&cluster) {
            Some(Ok((lease, place))) => (Stage::Attached(lease), Some(Progress::Attached(place))),
            Some(Err(error)) => (Stage::Over, Some(Progress::Failed(pool_failure(error)))),
            None => {
                let (pool, cluster) = (pool.clone(), cluster.clone());
                (
                    Stage::Acquiring(Box::pin(async move { pool.acquire(&cluster).await })),
                    None,
                )
            }
        };
        (
            Self {
                pool,
                cluster,
                stage,
            },
            progress,
        )
    }

    /// Sends the request on the connection that was attached.
    pub fn send(
        &mut self,
        head: &RequestHead,
        extra: Option<(&HeaderName, &HeaderValue)>,
        body: Body,
    ) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = match stage {
            Stage::Attached(Lease::Http1(connection)) => {
                let home: Rc<dyn client::Home> = self.pool.clone();
                Stage::Http1(client::send(connection, head, extra, body, Some(home)))
            }
            Stage::Attached(Lease::Http2(sender, slot)) => {
                let lease = Lease::Http2(sender, slot);
                match request(head, extra, body, self.pool.dialer.tls.is_some()) {
                    Ok(request) => {
                        let sending =
                            over_http2(self.pool.clone(), self.cluster.clone(), lease, request);
                        Stage::Http2(Box::pin(sending))
                    }
                    Err(failure) => Stage::Http2(Box::pin(std::future::ready(Err(failure)))),
                }
            }
            other => other,
        };
    }

    /// What it comes to next.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        match &mut self.stage {
            Stage::Acquiring(acquiring) => match acquiring.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((lease, place))) => {
                    self.stage = Stage::Attached(lease);
                    Poll::Ready(Progress::Attached(place))
                }
                Poll::Ready(Err(error)) => {
                    self.stage = Stage::Over;
                    Poll::Ready(Progress::Failed(pool_failure(error)))
                }
            },
            Stage::Http1(sending) => match Pin::new(sending).poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.stage = Stage::Over;
                    Poll::Ready(match result {
                        Ok(received) => Progress::Head(Box::new(Received {
                            status: received.status,
                            headers: received.headers,
                            body: received.body,
                            upgrade: received.upgrade,
                            holds: None,
                        })),
                        Err(SendError::Closed(_)) => Progress::Failed(Failure::Broken(
                            Broken::ConnectionTermination,
                            String::new(),
                        )),
                        Err(SendError::Protocol(error)) => Progress::Failed(Failure::Broken(
                            Broken::ProtocolError,
                            error.to_string(),
                        )),
                        Err(SendError::Request(_)) => Progress::Failed(Failure::Client),
                    })
                }
            },
            Stage::Http2(sending) => match sending.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.stage = Stage::Over;
                    Poll::Ready(match result {
                        Ok(received) => Progress::Head(Box::new(received)),
                        Err(failure) => Progress::Failed(failure),
                    })
                }
            },
            Stage::Attached(_) | Stage::Over => Poll::Pending,
        }
    }
}

/// The request as HTTP/2 has it.
fn request(
    head: &RequestHead,
    extra: Option<(&HeaderName, &HeaderValue)>,
    body: Body,
    tls: bool,
) -> Result<Request<Body>, Failure> {
    let malformed = |what: String| Failure::Broken(Broken::ProtocolError, what);
    let authority = Authority::try_from(head.authority.as_bytes())
        .map_err(|error| malformed(format!("authority: {error}")))?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls || head.https {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    });
    parts.authority = Some(authority);
    parts.path_and_query = Some(head.path.clone());
    let uri = Uri::from_parts(parts).map_err(|error| malformed(error.to_string()))?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let mut headers = head.headers.clone();
    for name in [
        &CONNECTION,
        &TRANSFER_ENCODING,
        &UPGRADE,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
    if let Some((name, value)) = extra {
        headers.insert(name.clone(), value.clone());
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// What HTTP/2's error means for an attempt.
fn broken(error: &hyper::Error) -> Failure {
    let reason = error
        .source()
        .and_then(|source| source.downcast_ref::<::h2::Error>());
    let Some(reason) = reason else {
        return Failure::Broken(Broken::ConnectionTermination, String::new());
    };
    let kind = match reason.reason() {
        _ if reason.is_io() => Broken::ConnectionTermination,
        Some(::h2::Reason::REFUSED_STREAM) if reason.is_remote() => Broken::RemoteRefusedStream,
        Some(_) if reason.is_go_away() => Broken::ConnectionTermination,
        Some(_) if reason.is_remote() => Broken::RemoteReset,
        Some(::h2::Reason::PROTOCOL_ERROR) => Broken::ProtocolError,
        _ => Broken::ConnectionTermination,
    };
    Failure::Broken(kind, String::new())
}

async fn over_http2(
    pool: Rc<HostPool>,
    cluster: Arc<ClusterState>,
    lease: Lease,
    request: Request<Body>,
) -> Result<Received, Failure> {
    let (mut lease, mut request) = (lease, request);
    let mut moves = 0;
    loop {
        let Lease::Http2(mut sender, slot) = lease else {
            return Err(Failure::Broken(
                Broken::ProtocolError,
                "the upstream changed its protocol".into(),
            ));
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let ended = hyper::body::Body::is_end_stream(&body);
                return Ok(Received {
                    status: parts.status,
                    headers: parts.headers,
                    body: if ended {
                        Body::Empty
                    } else {
                        Body::Stream(body)
                    },
                    upgrade: None,
                    holds: Some(Box::new(slot)),
                });
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if moves < MAX_MOVES => {
                    moves += 1;
                    request = unsent;
                    drop(slot);
                    lease = pool.acquire(&cluster).await.map_err(pool_failure)?.0;
                }
                _ => return Err(broken(&error.into_error())),
            },
        }
    }
}
