//! Upstreams, whose mood the world decides: HTTP/1.1 on one port, HTTP/2 on another.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use trireme_check::traffic::Arrival;
use turmoil::net::{TcpListener, TcpStream};

use super::objects::{MAIN, SWITCH, VERSION_HEADER};
use super::plan::color_of;
use super::record::{Record, now_ms};
use super::wire::Reader;

pub const HTTP1_PORT: u16 = 8080;
pub const HTTP2_PORT: u16 = 8081;
/// A proxy that is gone without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

pub fn name_of(upstream: usize) -> String {
    format!("upstream-{}", upstream + 1)
}

/// What an upstream does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Answers with this status.
    Failing(u16),
    /// Never answers.
    Stalling,
    Slow {
        milliseconds: u64,
    },
    /// Well and failing by turns.
    Flapping {
        period_ms: u64,
    },
    /// Closes the connection, or resets the stream, instead of answering.
    Closing,
    /// Answers half and closes.
    Halving,
    /// Answers half and says no more.
    HalfStalling,
}

#[derive(Clone)]
pub struct Upstream {
    pub number: usize,
    pub mood: Arc<Mutex<Mood>>,
    pub record: Record,
}

/// How an answer goes on after what is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    End,
    Break,
    Silence,
}

/// What is answered.
struct Answer {
    status: u16,
    body: String,
    then: Then,
}

impl Upstream {
    pub fn name(&self) -> String {
        name_of(self.number)
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(|p| p.into_inner()) = mood;
    }

    fn mood(&self) -> Mood {
        let mood = *self.mood.lock().unwrap_or_else(|p| p.into_inner());
        match mood {
            Mood::Flapping { period_ms } => match (now_ms() / period_ms).is_multiple_of(2) {
                true => Mood::Well,
                false => Mood::Failing(503),
            },
            other => other,
        }
    }

    /// None closes, or says nothing, without an answer.
    async fn answer(&self, place: usize) -> Option<Answer> {
        let color = color_of(self.number);
        let whole = |status| {
            let body = format!("{} here, colored {color}", self.name());
            Answer {
                status,
                body,
                then: Then::End,
            }
        };
        let half = |then| {
            self.record.cut(place);
            Some(Answer { then, ..whole(200) })
        };
        match self.mood() {
            Mood::Well | Mood::Flapping { .. } => Some(whole(200)),
            Mood::Failing(status) => Some(whole(status)),
            Mood::Slow { milliseconds } => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                Some(whole(200))
            }
            Mood::Stalling => std::future::pending().await,
            Mood::Closing => None,
            Mood::Halving => half(Then::Break),
            Mood::HalfStalling => half(Then::Silence),
        }
    }

    /// Notes a request that has arrived whole; its place in the record.
    fn arrived<'a>(&self, path: &str, header: impl Fn(&str) -> Option<&'a str>) -> usize {
        let main = path.starts_with("/main/");
        let number = |name: &str| header(name)?.parse().ok();
        let proxy = number("x-proxy").unwrap_or_default();
        self.record.arrived(Arrival {
            at_ms: now_ms(),
            proxy,
            cluster: if main { MAIN } else { color_of(self.number) }.to_owned(),
            route: if main { MAIN } else { SWITCH }.to_owned(),
            request: number("x-request-number").unwrap_or_default(),
            attempt: number("x-envoy-attempt-count").unwrap_or(1) as u32,
            host: self.name(),
            cut: false,
            transit_ms: self.record.transit_ms(proxy, self.number),
            configuration: number(VERSION_HEADER),
        })
    }
}

pub async fn run(upstream: Upstream) -> turmoil::Result {
    let one = TcpListener::bind(("0.0.0.0", HTTP1_PORT)).await?;
    let two = TcpListener::bind(("0.0.0.0", HTTP2_PORT)).await?;
    loop {
        let upstream = upstream.clone();
        tokio::select! {
            biased;
            accepted = one.accept() => {
                let (stream, _) = accepted?;
                tokio::task::spawn_local(async move { serve_http1(upstream, stream).await.ok() });
            }
            accepted = two.accept() => {
                let (stream, _) = accepted?;
                tokio::task::spawn_local(serve_http2(upstream, stream));
            }
        }
    }
}

async fn serve_http1(upstream: Upstream, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.head().await? {
        reader.body(&head).await?;
        let path = head.first_line.split(' ').nth(1).unwrap_or_default();
        let place = upstream.arrived(path, |name| head.get(name));
        let answer = tokio::select! {
            biased;
            answer = upstream.answer(place) => answer,
            // The proxy has had enough of it.
            () = reader.ended() => return Ok(()),
        };
        let Some(Answer { status, body, then }) = answer else {
            return Ok(());
        };
        let whole = format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}",
            body.len()
        );
        if then == Then::End {
            reader.stream.write_all(whole.as_bytes()).await?;
            continue;
        }
        let half = whole.len() - body.len() / 2;
        reader.stream.write_all(&whole.as_bytes()[..half]).await?;
        if then == Then::Silence {
            reader.ended().await;
        }
        return Ok(());
    }
    Ok(())
}

/// A body in pieces, and what comes after them.
struct Pieces {
    left: VecDeque<Bytes>,
    then: Then,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no answer")]
    NoAnswer,
    #[error("half an answer")]
    Half,
    #[error("half a request")]
    Request,
    #[error("{0}")]
    Head(#[from] http::Error),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        match (self.left.pop_front(), self.then) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, Then::End) => Poll::Ready(None),
            (None, Then::Break) => Poll::Ready(Some(Err(Refusal::Half))),
            // Nobody waits for more: the proxy resets the stream.
            (None, Then::Silence) => Poll::Pending,
        }
    }
}

async fn serve_http2(upstream: Upstream, stream: TcpStream) {
    let service = hyper::service::service_fn(move |request| {
        let upstream = upstream.clone();
        async move { answer_http2(upstream, request).await }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // Of a connection that breaks nothing is left to be said.
    let _: Result<(), hyper::Error> = served;
}

async fn answer_http2(
    upstream: Upstream,
    request: http::Request<Incoming>,
) -> Result<http::Response<Pieces>, Refusal> {
    let (head, body) = request.into_parts();
    body.collect().await.map_err(|_| Refusal::Request)?;
    let place = upstream.arrived(head.uri.path(), |name| {
        head.headers.get(name).and_then(|value| value.to_str().ok())
    });
    let answer = upstream.answer(place).await.ok_or(Refusal::NoAnswer)?;
    let body = Bytes::from(answer.body);
    let said = match answer.then {
        Then::End => body.clone(),
        Then::Break | Then::Silence => body.slice(..body.len() / 2),
    };
    let response = http::Response::builder()
        .status(answer.status)
        .header("content-length", body.len())
        .header("content-type", "text/plain");
    Ok(response.body(Pieces {
        left: VecDeque::from([said]),
        then: answer.then,
    })?)
}
