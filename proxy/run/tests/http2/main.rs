//! HTTP/2 as peers meet it: by frames made by hand, and by the `h2` crate on either side.

mod frames;
mod peers;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::{Builder, LocalOptions};
use trireme_proxy::h1::Transport;
use trireme_proxy::h2::hpack::{Decoder, Encoder, Field};
use trireme_proxy::h2::server::{self, Ended, Serving};
use trireme_proxy::h2::{Broken, Limits, Options, Reason, Request, understood};
use trireme_proxy::{Body, Drain};
use trireme_proxy_decide::config::Http2Options;
use trireme_proxy_decide::head::RequestHead;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

fn run<F: Future>(test: F) -> F::Output {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

fn options() -> Options {
    Options {
        max_streams: 10,
        stream_window: 100_000,
        connection_window: 150_000,
        connect_protocol: false,
        limits: Limits {
            bytes: 60 * 1024,
            headers: 100,
        },
    }
}

fn serving(options: Options) -> Serving {
    Serving {
        options,
        idle_timeout: Some(Duration::from_secs(60)),
        keepalive_interval: None,
        keepalive_timeout: Duration::from_secs(10),
        drain: Drain::new(),
    }
}

async fn handle(request: Request, body: Body) -> Response<Body> {
    match request.path.path() {
        "/echo" => Response::new(body),
        "/headers" => {
            let mut response = Response::new(Body::Empty);
            *response.headers_mut() = request.headers;
            response
        }
        "/hang" => {
            let _held = body;
            std::future::pending().await
        }
        path => {
            let path = format!(
                "{} {} {path}",
                request.method,
                request.authority.to_str().unwrap_or("?")
            );
            match body.collect().await {
                Ok(body) => {
                    let trailers = body.trailers().map_or(0, HeaderMap::len);
                    let text = format!("{path} {} {trailers}", body.to_bytes().len());
                    Response::new(Body::text(text))
                }
                Err(error) => Response::new(Body::text(error.to_string())),
            }
        }
    }
}

/// Serves one connection; gives its other end, and what becomes of it.
fn served(serving: Serving) -> (DuplexStream, tokio::task::JoinHandle<Result<Ended, Broken>>) {
    let (client, stream) = tokio::io::duplex(1 << 20);
    let transport = Transport::new(Box::new(stream), BytesMut::new());
    let task = tokio::task::spawn_local(server::serve(transport, serving, handle));
    (client, task)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn setting(name: u16, value: u32) -> Vec<u8> {
    let mut payload = name.to_be_bytes().to_vec();
    payload.extend_from_slice(&value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// Literal header fields without indexing (RFC 7541 §6.2.2).
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in list {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "short");
            bytes.push(u8::try_from(text.len()).expect("short"));
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut list = vec![
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "shop"),
    ];
    list.extend_from_slice(more);
    fields(&list)
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &head("GET", path, &[]),
    )
}

fn post(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path, more))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four"))
    }
}

struct Client {
    stream: DuplexStream,
    task: tokio::task::JoinHandle<Result<Ended, Broken>>,
    decoder: Decoder,
}

impl Client {
    /// After the preface and empty settings.
    async fn new(serving: Serving) -> Self {
        let (stream, task) = served(serving);
        let mut client = Self {
            stream,
            task,
            decoder: Decoder::new(4096),
        };
        client
            .send(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])])
            .await;
        client
    }

    async fn send(&mut self, frames: &[Vec<u8>]) {
        // It may have been closed already.
        let _ = self.stream.write_all(&frames.concat()).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().expect("four")),
            payload,
        })
    }

    /// The next frame of such a kind.
    async fn until(&mut self, kind: u8) -> Frame {
        while let Some(frame) = self.next().await {
            assert!(
                kind == GOAWAY || frame.kind != GOAWAY,
                "waited for {kind}, got GOAWAY {}: {}",
                frame.number(4),
                String::from_utf8_lossy(&frame.payload)
            );
            if frame.kind == kind {
                return frame;
            }
        }
        panic!("the connection ended without a frame of kind {kind}");
    }

    /// The status and body of a stream's response.
    async fn answer(&mut self, stream: u32) -> (StatusCode, Vec<u8>) {
        let mut status = None;
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.expect("a frame");
            if frame.stream != stream {
                assert_ne!(frame.kind, GOAWAY, "{frame:?}");
                continue;
            }
            match frame.kind {
                HEADERS => self
                    .decoder
                    .decode(&frame.payload, |field, _| {
                        if let Field::Status(code) = field {
                            status = Some(code);
                        }
                    })
                    .expect("headers"),
                DATA => body.extend_from_slice(&frame.payload),
                RST_STREAM => panic!("reset: {}", frame.number(0)),
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 {
                return (status.expect("status"), body);
            }
        }
    }
}
