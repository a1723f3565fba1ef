use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trireme_proxy_decide::config::{HttpProtocol, RouteAction};

use super::support::{Here, Proxy, answering, cluster, forward, http, ok, route, run, stat};

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn connect(proxy: &Proxy) -> Sender {
    let stream = TcpStream::connect(proxy.address).await.expect("connect");
    let (sender, connection) = hyper::client::conn::http2::handshake(Here, TokioIo::new(stream))
        .await
        .expect("handshake");
    tokio::task::spawn_local(connection);
    sender
}

fn request(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .version(Version::HTTP_2)
        .method(if body.is_empty() { "GET" } else { "POST" })
        .uri(format!("http://shop{path}"))
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("request")
}

/// An upstream that speaks HTTP/2 and answers with the body and trailers.
async fn upstream() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let authority = request
                        .uri()
                        .authority()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .expect("body")
                        .to_bytes();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().expect("value"));
                    let frames = [
                        Ok::<_, std::convert::Infallible>(http_body::Frame::data(body)),
                        Ok(http_body::Frame::data(Bytes::from(authority))),
                        Ok(http_body::Frame::trailers(trailers)),
                    ];
                    let response =
                        Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                    Ok::<_, std::convert::Infallible>(response)
                });
            tokio::task::spawn_local(
                hyper::server::conn::http2::Builder::new(Here)
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[test]
fn streams_share_connections_on_both_sides_and_trailers_pass() {
    run(async {
        let mut back = cluster("back", &[upstream().await]);
        back.http.protocol = HttpProtocol::Http2;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![back],
        )
        .await;
        let sender = connect(&proxy).await;
        let mut asked = Vec::new();
        for _ in 0..20 {
            let mut sender = sender.clone();
            asked.push(tokio::task::spawn_local(async move {
                sender.send_request(request("/x", "body")).await
            }));
        }
        for answer in asked {
            let answer = answer.await.expect("task").expect("answer");
            assert_eq!(answer.status(), 200);
            assert_eq!(
                answer.headers().get("server").expect("server"),
                "istio-envoy"
            );
            let body = answer.into_body().collect().await.expect("body");
            assert_eq!(
                body.trailers()
                    .and_then(|trailers| trailers.get("grpc-status"))
                    .expect("trailer"),
                "0"
            );
            assert_eq!(body.to_bytes(), "bodyshop");
        }
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_total"), 1);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_total"), 20);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_active"), 0);
    });
}

#[test]
fn http2_becomes_http1() {
    run(async {
        let back = answering(|request| ok(&request.replace("\r\n", "|"))).await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut sender = connect(&proxy).await;
        let answer = sender
            .send_request(request("/x?y", "body"))
            .await
            .expect("answer");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.starts_with("POST /x?y HTTP/1.1|host: shop|") && text.ends_with("body"),
            "{text}"
        );
    });
}

#[test]
fn draining_says_goaway_and_finishes_streams() {
    run(async {
        let gate = Rc::new(tokio::sync::Notify::new());
        let opened = gate.clone();
        let back = super::support::upstream(move |mut stream, seen| {
            let gate = opened.clone();
            async move {
                let request = super::support::read_request(&mut stream, &mut Vec::new())
                    .await
                    .expect("request");
                seen.borrow_mut().push(request);
                gate.notified().await;
                stream
                    .write_all(ok("late").as_bytes())
                    .await
                    .expect("answer");
            }
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut sender = connect(&proxy).await;
        let asked = tokio::task::spawn_local({
            let mut sender = sender.clone();
            async move { sender.send_request(request("/", "")).await }
        });
        while back.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        proxy.drain.ask();
        gate.notify_one();
        let answer = asked.await.expect("task").expect("answer");
        assert_eq!(
            answer.into_body().collect().await.expect("body").to_bytes(),
            "late"
        );
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

/// The bytes of a frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends frames after the preface and reads until the proxy closes.
async fn converse(proxy: &Proxy, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).await.expect("connect");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&frame(4, 0, 0, &[]));
    for one in frames {
        bytes.extend_from_slice(one);
    }
    // It may close before all is written.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(
        std::time::Duration::from_secs(3),
        stream.read_to_end(&mut answer),
    )
    .await;
    answer
}

/// Kinds of frames in an answer.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while bytes.len() >= 9 {
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        kinds.push(bytes[3]);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// Literal header fields without indexing (RFC 7541 §6.2.2).
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in list {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).expect("short"));
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_BOTH: u8 = 0x5;

#[test]
fn pseudo_headers_against_the_rules_reach_no_upstream() {
    run(async {
        let back = answering(|_| ok("")).await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let good = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ];
        let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
            ("two methods", [&good[..], &[(":method", "POST")]].concat()),
            (
                "an unknown one",
                [&good[..], &[(":smuggled", "x")]].concat(),
            ),
            (
                "one after a header",
                vec![
                    (":method", "GET"),
                    ("x", "y"),
                    (":scheme", "http"),
                    (":path", "/"),
                ],
            ),
            ("an upper-case name", [&good[..], &[("X", "y")]].concat()),
            (
                "a connection header",
                [&good[..], &[("connection", "close")]].concat(),
            ),
            (
                "a coding",
                [&good[..], &[("transfer-encoding", "chunked")]].concat(),
            ),
            (
                "no path",
                vec![(":method", "GET"), (":scheme", "http"), (":authority", "a")],
            ),
            ("a response's", [&good[..], &[(":status", "200")]].concat()),
        ];
        for (name, list) in cases {
            let answer = converse(&proxy, &[frame(1, END_BOTH, 1, &fields(&list))]).await;
            let seen = kinds(&answer);
            assert!(
                seen.contains(&RST_STREAM) || seen.contains(&GOAWAY),
                "{name}: {seen:?}"
            );
        }
        assert!(back.seen.borrow().is_empty(), "{:?}", back.seen.borrow());
    });
}

#[test]
fn rapid_resets_close_the_connection() {
    run(async {
        let back = super::support::upstream(|stream, _| async move {
            let _held = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let mut action = forward("back");
        action.timeout = Some(std::time::Duration::from_millis(200));
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(action)))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let head = fields(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ]);
        let mut frames = Vec::new();
        for number in 0..2000_u32 {
            let stream = number * 2 + 1;
            frames.push(frame(1, END_BOTH, stream, &head));
            frames.push(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        let answer = converse(&proxy, &frames).await;
        assert!(kinds(&answer).contains(&GOAWAY), "{:?}", kinds(&answer));
        // The proxy goes on serving others.
        assert_eq!(
            super::support::get(proxy.address, "/none").await.status / 100,
            5
        );
    });
}
