//! Clients: one request after the other, some on kept connections, some given up, some in HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use trireme_check::traffic::{Ending, Request};
use turmoil::net::TcpStream;

use super::objects::{MAIN, SWITCH, VERSION_HEADER, host};
use super::plan::ROUTE_TIMEOUT_MS;
use super::proxy::name_of;
use super::record::{Record, now_ms};
use super::wire::Reader;

/// Beyond the route's timeout: connecting to a proxy that is down and comes back, and the way there and back.
const PATIENCE: Duration = Duration::from_millis(ROUTE_TIMEOUT_MS + 4_000);
/// What comes this long after an answer was not asked for.
const AFTER: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub struct Client {
    pub proxy: u64,
    pub port: u16,
    pub http2: bool,
    pub seed: u64,
    pub think_ms: u64,
    pub numbers: Arc<AtomicU64>,
    pub record: Record,
    pub phase: watch::Receiver<Phase>,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Wait,
    Ask,
    Rest,
}

enum Connection {
    Http1(Reader<TcpStream>),
    Http2(SendRequest<Full<Bytes>>),
}

/// What is asked.
struct Question {
    id: u64,
    service: &'static str,
    body: &'static str,
}

impl Question {
    fn method(&self) -> &'static str {
        if self.body.is_empty() { "GET" } else { "POST" }
    }

    fn path(&self) -> String {
        format!("/{}/{}", self.service, self.id)
    }
}

/// How it ended, and the version of the route that the answer names.
type Answer = (Ending, Option<u64>);

pub async fn run(mut client: Client) -> turmoil::Result {
    client.phase.wait_for(|phase| *phase != Phase::Wait).await?;
    let mut random = ChaCha8Rng::seed_from_u64(client.seed);
    let mut kept: Option<Connection> = None;
    while *client.phase.borrow() == Phase::Ask {
        let think = Duration::from_millis(random.random_range(0..=2 * client.think_ms));
        tokio::time::sleep(think).await;
        kept = still_open(&client, kept).await;
        let id = client.numbers.fetch_add(1, Ordering::Relaxed);
        let question = Question {
            id,
            service: if random.random_bool(0.8) {
                MAIN
            } else {
                SWITCH
            },
            body: match id.is_multiple_of(3) {
                true => "a body to keep for retries",
                false => "",
            },
        };
        let patience = match random.random_bool(0.1) {
            true => Some(Duration::from_millis(random.random_range(1..=150))),
            false => None,
        };
        let began_ms = now_ms();
        let asked = ask(&client, &mut kept, &question);
        let answer = tokio::time::timeout(patience.unwrap_or(PATIENCE), asked).await;
        let (ending, configuration) = match answer {
            Ok(answer) => answer,
            Err(_) => {
                if !matches!(kept, Some(Connection::Http2(_))) {
                    kept = None;
                }
                if patience.is_some() {
                    let mut recorded = client.record.lock();
                    recorded.left += 1;
                    recorded.note(
                        format_args!("client of {}", name_of(client.proxy)),
                        format_args!("request {id} given up"),
                    );
                    continue;
                }
                (Ending::Silence, None)
            }
        };
        if !matches!(ending, Ending::Answered { .. }) || random.random_bool(0.2) {
            kept = None;
        }
        client.record.ended(Request {
            id,
            proxy: client.proxy,
            cluster: match question.service {
                MAIN => MAIN.to_owned(),
                _ => String::new(),
            },
            began_ms,
            ended_ms: now_ms(),
            ending,
            configuration,
        });
    }
    Ok(())
}

/// A kept connection, unless it was closed meanwhile; nothing may have come on it that was not asked for.
async fn still_open(client: &Client, kept: Option<Connection>) -> Option<Connection> {
    match kept? {
        Connection::Http1(mut connection) => {
            match tokio::time::timeout(AFTER, connection.more()).await {
                Err(_) => Some(Connection::Http1(connection)),
                Ok(Ok(true)) => {
                    let proxy = name_of(client.proxy);
                    client
                        .record
                        .violation(format_args!("{proxy} sent bytes that nobody asked for"));
                    None
                }
                Ok(_) => None,
            }
        }
        Connection::Http2(mut sender) => {
            let ready = tokio::time::timeout(AFTER, sender.ready()).await;
            matches!(ready, Ok(Ok(()))).then_some(Connection::Http2(sender))
        }
    }
}

async fn connect(client: &Client) -> Option<Connection> {
    let stream = TcpStream::connect((name_of(client.proxy), client.port)).await;
    let stream = stream.ok()?;
    if !client.http2 {
        return Some(Connection::Http1(Reader::new(stream)));
    }
    let io = TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .ok()?;
    tokio::task::spawn_local(async move { connection.await.ok() });
    Some(Connection::Http2(sender))
}

async fn ask(client: &Client, kept: &mut Option<Connection>, question: &Question) -> Answer {
    if kept.is_none() {
        *kept = connect(client).await;
    }
    match kept {
        None => (Ending::Closed, None),
        Some(Connection::Http1(connection)) => {
            let answer = ask_http1(client, connection, question).await;
            let (ending, configuration, close) = answer;
            if close {
                *kept = None;
            }
            (ending, configuration)
        }
        Some(Connection::Http2(sender)) => ask_http2(client, sender, question).await,
    }
}

/// Also whether the connection is to be closed.
async fn ask_http1(
    client: &Client,
    connection: &mut Reader<TcpStream>,
    question: &Question,
) -> (Ending, Option<u64>, bool) {
    let request = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\nx-request-number: {}\r\nx-proxy: {}\r\ncontent-length: {}\r\n\r\n{}",
        question.method(),
        question.path(),
        host(question.service),
        question.id,
        client.proxy,
        question.body.len(),
        question.body,
    );
    if connection
        .stream
        .write_all(request.as_bytes())
        .await
        .is_err()
    {
        return (Ending::Closed, None, true);
    }
    let head = match connection.head().await {
        Ok(Some(head)) => head,
        Ok(None) => return (Ending::Closed, None, true),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            return (Ending::Closed, None, true);
        }
        Err(_) => return (Ending::Broken, None, true),
    };
    let configuration = head.number(VERSION_HEADER);
    let status = head
        .first_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let Some(status) = status else {
        return (Ending::Surplus, None, true);
    };
    let Ok(body) = connection.body(&head).await else {
        return (Ending::Broken, configuration, true);
    };
    if connection.surplus() > 0 {
        return (Ending::Surplus, configuration, true);
    }
    let close = head.get("connection") == Some("close");
    (Ending::Answered { status, body }, configuration, close)
}

async fn ask_http2(
    client: &Client,
    sender: &mut SendRequest<Full<Bytes>>,
    question: &Question,
) -> Answer {
    let request = http::Request::builder()
        .method(question.method())
        .uri(format!(
            "http://{}{}",
            host(question.service),
            question.path()
        ))
        .header("x-request-number", question.id)
        .header("x-proxy", client.proxy)
        .body(Full::new(Bytes::from_static(question.body.as_bytes())));
    let Ok(request) = request else {
        return (Ending::Surplus, None);
    };
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        // A head that waits to be sent is lost when its stream is reset.
        Err(error) if was_reset(&error) => return (Ending::Broken, None),
        Err(_) => return (Ending::Closed, None),
    };
    let (head, body) = response.into_parts();
    let version = head.headers.get(VERSION_HEADER);
    let version = version.and_then(|value| value.to_str().ok()?.parse().ok());
    match body.collect().await {
        Err(_) => (Ending::Broken, version),
        Ok(body) => {
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            let status = head.status.as_u16();
            (Ending::Answered { status, body }, version)
        }
    }
}

fn was_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(h2::Error::is_reset)
}
