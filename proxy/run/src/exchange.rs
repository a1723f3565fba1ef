//! Carries out what an exchange decides: attempts, timers, local replies, mirrors; and when it is over, counts and logs
//! it. One task drives a request from its head to its last byte; dropping it anywhere is the client's leaving.

use std::any::Any;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, DATE, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use trireme_proxy_decide::config::HttpProtocol;
use trireme_proxy_decide::exchange::{
    Attempt as Wanted, Context, Effect, Event, Exchange, Mirrored, Protocol as Spoken,
    RateLimitAnswer, Reply as Local, ResponseHead,
};
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;
use trireme_proxy_decide::upstream::Live;

use crate::attempt::{Attempt, Failure, Progress, Received};
use crate::body::Body;
use crate::deadline::Deadline;
use crate::h1::BodyError;
use crate::h1::server::Reply;
use crate::http::HttpConnection;
use crate::net::{self, Stream};
use crate::replay::{Arrival, MAX_RECORDED_BYTES, Recorder};
use crate::telemetry::istio::Peer;
use crate::{mirror, rate_limit};

/// What the client's proxy tells the server's about its workload; it goes no further than one hop.
pub static PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");

/// Part of an offer of HTTP/2 in the clear.
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The answer to give once the request's effects are carried out.
enum Answer {
    Local(Box<Local>),
    Forward,
    Abort,
}

/// A request under way.
pub struct Running {
    http: Rc<HttpConnection>,
    exchange: Exchange,
    effects: Vec<Effect>,
    deadline: Deadline,
    recorder: Option<Recorder>,
    arrival: Arrival,
    attempt: Option<Attempt>,
    progress: Option<Progress>,
    received: Option<Box<Received>>,
    response_head: ResponseHead,
    mirrors: Vec<Mirrored>,
    question: Option<net::Local<'static, RateLimitAnswer>>,
    source: Option<std::sync::Arc<Peer>>,
    response_bytes: u64,
    finished: bool,
}

/// Lends the surroundings to a decision.
fn decide<T>(http: &HttpConnection, then: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let worker = &http.worker;
    let live: std::sync::Arc<Live> = worker.live();
    let now = Instant::now();
    worker.with_rng(|rng| {
        then(&mut Context {
            live: &live,
            now: worker.shared.at(now),
            unix_nanos: worker.shared.unix_nanos(now),
            rng,
            service_cluster: &worker.shared.service_cluster,
            faults: &worker.shared.faults,
        })
    })
}

/// The head of an HTTP/1.1 request as decisions see it. The authority is taken out of `host`, or out of an absolute
/// target.
pub fn head_of(request: http::request::Parts, tls: bool) -> RequestHead {
    let mut headers = request.headers;
    if headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"h2c"))
    {
        // An offer (RFC 7540 §3.2, withdrawn by RFC 9113), which Envoy passes over, too.
        headers.remove(UPGRADE);
        headers.remove(&HTTP2_SETTINGS);
    }
    let parts = request.uri.into_parts();
    let host = headers.remove(HOST);
    let authority = parts
        .authority
        .and_then(|authority| {
            HeaderValue::from_maybe_shared(Bytes::copy_from_slice(authority.as_str().as_bytes()))
                .ok()
        })
        .or(host)
        .unwrap_or_else(|| HeaderValue::from_static(""));
    let path = parts
        .path_and_query
        .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    RequestHead {
        method: request.method,
        https: tls,
        authority,
        path,
        headers,
    }
}

impl Running {
    fn on(&mut self, event: Event<'_>) {
        let Self {
            http,
            exchange,
            effects,
            ..
        } = self;
        decide(http, |context| exchange.on(event, context, effects));
    }

    /// Carries out what is to be done, until it has to be waited.
    fn carry_out(&mut self) -> Option<Answer> {
        let mut answer = None;
        let mut at = 0;
        // Effects may lead to events, which append effects.
        while at < self.effects.len() {
            let effect = std::mem::replace(&mut self.effects[at], Effect::Cancel);
            at += 1;
            match effect {
                Effect::Attempt(wanted) => self.begin_attempt(wanted),
                Effect::Cancel => {
                    self.attempt = None;
                    self.progress = None;
                    self.received = None;
                }
                Effect::Reply(reply) => answer = Some(Answer::Local(Box::new(reply))),
                Effect::Forward => answer = Some(Answer::Forward),
                Effect::ResetDownstream => answer = Some(Answer::Abort),
                Effect::Mirror(mirrored) => self.mirrors.push(mirrored),
                Effect::AskRateLimit(question) => {
                    self.question = Some(rate_limit::ask(&self.http.worker, question));
                }
                Effect::Ejected(change) => tracing::debug!(?change, "outlier"),
            }
        }
        self.effects.clear();
        answer
    }

    fn begin_attempt(&mut self, wanted: Wanted) {
        let http = &self.http;
        let protocol = match wanted.cluster.config.http.protocol {
            // Changing the protocol is HTTP/1.1's.
            _ if self.exchange.upgrade().is_some() => Some(false),
            HttpProtocol::Http1 => Some(false),
            HttpProtocol::Http2 => Some(true),
            HttpProtocol::Downstream => Some(http.connection.protocol == Spoken::Http2),
            HttpProtocol::Alpn => None,
        };
        let authority = Some(self.exchange.head().authority());
        let pool = http.worker.pool(
            &wanted.cluster,
            &wanted.host,
            wanted.priority,
            protocol,
            http.downstream.peer,
            authority,
        );
        match pool {
            Ok(pool) => {
                let (attempt, progress) = Attempt::begin(pool, wanted.cluster);
                self.attempt = Some(attempt);
                self.progress = progress;
            }
            Err(error) => {
                let failure = Failure::Broken(Broken::LocalConnectionFailure, error.to_string());
                self.progress = Some(Progress::Failed(failure));
            }
        }
    }

    fn send(&mut self) {
        let body = match &self.recorder {
            None => Body::Empty,
            Some(recorder) => {
                if !self.exchange.keeps_body() && self.mirrors.is_empty() {
                    recorder.seal();
                }
                Body::Replay(recorder.replay())
            }
        };
        let metadata = self.http.outbound_metadata(&self.exchange);
        if let Some(attempt) = &mut self.attempt {
            attempt.send(
                self.exchange.head(),
                self.http.connection.hcm.scheme,
                metadata.as_ref().map(|value| (&PEER_METADATA, value)),
                body,
            );
        }
    }

    /// Takes what an attempt came to.
    fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Attached(place) => {
                self.on(Event::Attached(place));
                if self
                    .effects
                    .iter()
                    .all(|effect| !matches!(effect, Effect::Cancel))
                {
                    self.send();
                }
            }
            Progress::Head(received) => {
                self.attempt = None;
                let end = received.upgrade.is_none() && received.body.is_end_stream();
                let mut received = received;
                let mut head = ResponseHead {
                    status: received.status,
                    headers: std::mem::take(&mut received.headers),
                };
                self.received = Some(received);
                self.on(Event::Head {
                    head: &mut head,
                    end,
                });
                self.response_head = head;
            }
            Progress::Failed(Failure::Overflow) => {
                self.attempt = None;
                self.on(Event::Overflow);
            }
            Progress::Failed(Failure::Broken(broken, reason)) => {
                self.attempt = None;
                self.on(Event::Broken(broken, &reason));
            }
            // The client's connection is broken; whoever serves it drops this.
            Progress::Failed(Failure::Client) => self.attempt = None,
        }
    }

    /// Tells of the request's body: whether it has come, and whether it is too large.
    fn look_at_body(&mut self, task: &mut Task<'_>) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        if self.arrival.complete {
            return;
        }
        let arrival = recorder.arrival(task);
        let before = std::mem::replace(&mut self.arrival, arrival);
        if arrival.bytes != before.bytes {
            let now = self.http.worker.now();
            self.exchange.touch(now);
        }
        if arrival.overflowed && !before.overflowed {
            self.mirrors.clear();
            self.on(Event::BodyTooLarge);
        }
        if arrival.complete {
            self.on(Event::RequestEnd);
            self.send_mirrors();
        }
    }

    fn send_mirrors(&mut self) {
        if self.mirrors.is_empty() {
            return;
        }
        let body = match &self.recorder {
            None => Some(Bytes::new()),
            Some(recorder) => recorder.copy(),
        };
        let mirrors = std::mem::take(&mut self.mirrors);
        if let Some(body) = body {
            for mirrored in mirrors {
                mirror::send(&self.http, mirrored, body.clone());
            }
        }
        if let Some(recorder) = &self.recorder
            && !self.exchange.keeps_body()
        {
            recorder.seal();
        }
    }

    /// Ready when the deadline is reached; the event has been told then.
    fn poll_time(&mut self, task: &mut Task<'_>) -> Poll<()> {
        let at = self
            .exchange
            .deadline()
            .map(|at| self.http.worker.shared.instant(at));
        self.deadline.set(at);
        if self.deadline.poll(task).is_pending() {
            return Poll::Pending;
        }
        self.on(Event::Time);
        Poll::Ready(())
    }

    /// Drives the request until there is something to answer.
    fn poll_answer(&mut self, task: &mut Task<'_>) -> Poll<Answer> {
        loop {
            if let Some(answer) = self.carry_out() {
                return Poll::Ready(answer);
            }
            if let Some(progress) = self.progress.take() {
                self.take(progress);
                continue;
            }
            if let Some(question) = &mut self.question
                && let Poll::Ready(answer) = question.as_mut().poll(task)
            {
                self.question = None;
                self.on(Event::RateLimit(answer));
                continue;
            }
            if let Some(attempt) = &mut self.attempt
                && let Poll::Ready(progress) = attempt.poll(task)
            {
                self.look_at_body(task);
                self.take(progress);
                continue;
            }
            self.look_at_body(task);
            if !self.effects.is_empty() {
                continue;
            }
            if self.poll_time(task).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Counts and logs, once.
    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.attempt = None;
        let http = self.http.clone();
        http.put_deadline(std::mem::take(&mut self.deadline));
        let request_bytes = self.arrival.bytes;
        http.finished(
            &self.exchange,
            self.source.take(),
            &self.response_head.headers,
            request_bytes,
            self.response_bytes,
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            self.on(Event::DownstreamGone);
            self.carry_out();
            self.finish();
        }
    }
}

/// Adds the date where there is none.
fn dated(headers: &mut HeaderMap) {
    if !headers.contains_key(DATE) {
        headers.insert(DATE, crate::date::now());
    }
}

fn local(mut running: Box<Running>, reply: Local) -> Reply {
    let head_only = running.exchange.head().method == Method::HEAD;
    let mut headers = reply.headers;
    dated(&mut headers);
    let body = if head_only {
        Body::Empty
    } else {
        match reply.body {
            std::borrow::Cow::Borrowed(bytes) => Body::text(Bytes::from_static(bytes)),
            std::borrow::Cow::Owned(bytes) => Body::text(bytes),
        }
    };
    if let Body::Full(bytes) = &body {
        running.response_bytes = bytes.len() as u64;
    }
    running.response_head = ResponseHead {
        status: reply.status,
        headers: headers.clone(),
    };
    running.on(Event::ResponseEnd);
    running.carry_out();
    running.finish();
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = headers;
    Reply::from(response)
}

fn forwarded(mut running: Box<Running>) -> Reply {
    let mut headers = std::mem::take(&mut running.response_head.headers);
    dated(&mut headers);
    let status = running.response_head.status;
    let (body, upgrade, holds) = match running.received.take() {
        Some(received) => (received.body, received.upgrade, received.holds),
        None => (Body::Empty, None, None),
    };
    if running.http.logs() {
        running.response_head.headers = headers.clone();
    }
    let body = if body.is_end_stream() && upgrade.is_none() {
        // With a request that is still coming, the exchange ends when the client's side does.
        running.on(Event::ResponseEnd);
        running.carry_out();
        running.finish();
        Body::Empty
    } else {
        let upgraded = upgrade.is_some();
        Body::Boxed(Box::pin(Tracked {
            inner: body,
            running,
            upgraded,
            _holds: holds,
        }))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Reply {
        response,
        upgrade: upgrade.map(|(io, early): (Stream, BytesMut)| (io, early)),
        close: false,
    }
}

/// Answers a request. It begins at once, so that what waits is small: a connection may have many of them.
pub fn handle(
    http: Rc<HttpConnection>,
    head: RequestHead,
    body: Body,
) -> impl Future<Output = Reply> + use<> {
    http.began();
    let mut head = head;
    let source = http.inbound_peer(&mut head.headers);
    let ended = body.is_end_stream();
    let mut effects = Vec::with_capacity(4);
    let exchange = decide(&http, |context| {
        Exchange::begin(&http.connection, head, ended, context, &mut effects)
    });
    let recorder = (!ended).then(|| {
        let limit = exchange
            .body_limit()
            .and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(http.buffer_limit).min(MAX_RECORDED_BYTES);
        Recorder::new(body, limit)
    });
    let running = Box::new(Running {
        deadline: http.take_deadline(),
        exchange,
        effects,
        recorder,
        arrival: Arrival {
            bytes: 0,
            complete: ended,
            overflowed: false,
        },
        attempt: None,
        progress: None,
        received: None,
        response_head: ResponseHead::default(),
        mirrors: Vec::new(),
        question: None,
        source,
        response_bytes: 0,
        finished: false,
        http,
    });
    answered(running, ended)
}

async fn answered(mut running: Box<Running>, ended: bool) -> Reply {
    let answer = std::future::poll_fn(|task| {
        let answer = running.poll_answer(task);
        if ended {
            running.send_mirrors();
        }
        answer
    })
    .await;
    match answer {
        Answer::Local(reply) => local(running, *reply),
        Answer::Forward => forwarded(running),
        Answer::Abort => {
            running.finish();
            let mut reply = Reply::from(Response::new(Body::Boxed(Box::pin(BrokenOff))));
            reply
                .response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
            reply.close = true;
            reply
        }
    }
}

/// A body that breaks off.
struct BrokenOff;

impl http_body::Body for BrokenOff {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::Cancelled)))
    }
}

/// A response's body on its way to the client.
struct Tracked {
    inner: Body,
    running: Box<Running>,
    upgraded: bool,
    _holds: Option<Box<dyn Any>>,
}

impl Tracked {
    fn end(&mut self, event: Event<'_>) {
        self.running.on(event);
        self.running.carry_out();
        if self.running.exchange.is_done() {
            self.running.finish();
        }
    }

    fn failed(&mut self, error: &BodyError) {
        let broken = match error {
            BodyError::Connection(_) => Broken::ConnectionTermination,
            BodyError::Truncated | BodyError::Chunk(_) | BodyError::Length => Broken::ProtocolError,
            BodyError::Reset(_) | BodyError::Cancelled => Broken::RemoteReset,
        };
        self.end(Event::Broken(broken, ""));
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.running.finished {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.inner).poll_frame(task) {
            Poll::Ready(None) => {
                this.end(Event::ResponseEnd);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.running.response_bytes += data.len() as u64;
                    let now = this.running.http.worker.now();
                    this.running.exchange.touch(now);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.running.on(Event::Trailers(trailers));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.failed(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                this.running.look_at_body(task);
                loop {
                    if matches!(
                        this.running.carry_out(),
                        Some(Answer::Abort | Answer::Local(_))
                    ) {
                        this.running.finish();
                        return Poll::Ready(Some(Err(BodyError::Cancelled)));
                    }
                    if this.running.poll_time(task).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.upgraded && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if !self.running.finished && (self.upgraded || self.inner.is_end_stream()) {
            self.end(Event::ResponseEnd);
        }
    }
}
