//! One attempt: a connection from the pool, the request on it, and the head of the response.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use trireme_proxy_decide::config::Scheme;
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;
use trireme_proxy_decide::upstream::{ClusterState, Lease as Place};

use crate::body::Body;
use crate::h1::client::{self, SendError};
use crate::h2::{self, Lost};
use crate::net::{Local, Stream};
use crate::pool::{HostPool, Lease, PoolError, StreamSlot};

/// A request refused by a connection that was going away goes to another so often. Nothing of it was sent.
const MAX_MOVES: u32 = 2;

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
    Http2(h2::client::Sending, Option<StreamSlot>),
    Moved(Local<'static, Result<Received, Failure>>),
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

    /// Sends the request on the connection that was attached. What becomes of its scheme concerns HTTP/2 only.
    pub fn send(
        &mut self,
        head: &RequestHead,
        scheme: Scheme,
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
                let https = match scheme {
                    Scheme::MatchUpstream => self.pool.dialer.tls.is_some(),
                    Scheme::Kept | Scheme::Overwritten { .. } => head.https,
                };
                match sender.send(head, https, extra, body) {
                    Ok(sending) => Stage::Http2(sending, Some(slot)),
                    Err(body) => {
                        let extra = extra.map(|(name, value)| (name.clone(), value.clone()));
                        let (pool, cluster) = (self.pool.clone(), self.cluster.clone());
                        let head = RequestHead {
                            https,
                            ..head.clone()
                        };
                        Stage::Moved(Box::pin(moved(pool, cluster, head, extra, body)))
                    }
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
            Stage::Http2(sending, slot) => match Pin::new(sending).poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    let slot = slot.take();
                    self.stage = Stage::Over;
                    Poll::Ready(match (result, slot) {
                        (Ok(response), Some(slot)) => {
                            Progress::Head(Box::new(received(response, slot)))
                        }
                        (Ok(_), None) => Progress::Failed(Failure::Client),
                        (Err(error), _) => Progress::Failed(broken(error)),
                    })
                }
            },
            Stage::Moved(sending) => match sending.as_mut().poll(context) {
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

/// What the end of an HTTP/2 stream means for an attempt.
fn broken(error: h2::client::SendError) -> Failure {
    let lost = match error {
        h2::client::SendError::Request => return Failure::Client,
        h2::client::SendError::Lost(lost) => lost,
    };
    match lost {
        Lost::Refused => Failure::Broken(Broken::RemoteRefusedStream, String::new()),
        Lost::Reset(_) => Failure::Broken(Broken::RemoteReset, String::new()),
        Lost::Protocol(what) => Failure::Broken(Broken::ProtocolError, what.to_owned()),
        Lost::Connection(_) => Failure::Broken(Broken::ConnectionTermination, String::new()),
    }
}

fn received(response: h2::client::Received, slot: StreamSlot) -> Received {
    Received {
        status: response.status,
        headers: response.headers,
        body: response.body,
        upgrade: None,
        holds: Some(Box::new(slot)),
    }
}

/// Sends a request that its connection did not take any more on another.
async fn moved(
    pool: Rc<HostPool>,
    cluster: Arc<ClusterState>,
    head: RequestHead,
    extra: Option<(HeaderName, HeaderValue)>,
    body: Body,
) -> Result<Received, Failure> {
    let mut body = body;
    for _ in 0..MAX_MOVES {
        let Lease::Http2(sender, slot) = pool.acquire(&cluster).await.map_err(pool_failure)?.0
        else {
            return Err(Failure::Broken(
                Broken::ProtocolError,
                "the upstream changed its protocol".into(),
            ));
        };
        let extra = extra.as_ref().map(|(name, value)| (name, value));
        match sender.send(&head, head.https, extra, body) {
            Ok(sending) => {
                return sending
                    .await
                    .map(|response| received(response, slot))
                    .map_err(broken);
            }
            Err(unsent) => body = unsent,
        }
    }
    Err(Failure::Broken(
        Broken::RemoteRefusedStream,
        "connections kept going away".into(),
    ))
}
