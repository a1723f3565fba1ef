//! HTTP/1.1 as a client's bytes meet it: what is served, and what RFC 9112 has refused.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use trireme_proxy::h1::head::Limits;
use trireme_proxy::h1::server::{self, Reply};
use trireme_proxy::h1::{Decoder, Step, Transport, head};
use trireme_proxy::{Body, Drain};

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn options(drain: Drain) -> server::Options {
    server::Options {
        idle_timeout: Some(Duration::from_secs(60)),
        tunnel_idle_timeout: None,
        max_requests: None,
        drain,
        server_name: HeaderValue::from_static("istio-envoy"),
        limits: Limits {
            accept_http_10: false,
            ..Limits::default()
        },
    }
}

/// Answers with the method, the target and the body's length; `/echo` with the body itself.
async fn handle(request: Request<Body>) -> Reply {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/echo" {
        return Reply::from(Response::new(body));
    }
    match body.collect().await {
        Ok(body) => {
            let length = body.to_bytes().len();
            Reply::from(Response::new(Body::text(format!(
                "{} {} {length}",
                parts.method, parts.uri
            ))))
        }
        Err(error) => {
            let mut response = Response::new(Body::text(error.to_string()));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            Reply::from(response)
        }
    }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

async fn serve(drain: Drain) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let transport = Transport::new(Box::new(stream), BytesMut::new());
            tokio::task::spawn_local(server::serve(transport, options(drain.clone()), handle));
        }
    });
    address
}

/// Sends bytes and reads until the server closes.
async fn converse(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<&str> {
    answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|rest| &rest[..3])
        .collect()
}

const END: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[test]
fn serves_requests_in_turn() {
    run(async {
        let address = serve(Drain::new()).await;
        let bytes = format!(
            "GET /first?x=1 HTTP/1.1\r\nHost: a\r\n\r\n\
             \r\nPOST /second HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\n\r\nhello\
             PUT /third HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: v\r\n\r\n{END}"
        );
        let answer = converse(address, bytes.as_bytes()).await;
        assert_eq!(statuses(&answer), ["200"; 4], "{answer}");
        for expected in [
            "GET /first?x=1 0",
            "POST /second 5",
            "PUT /third 13",
            "GET /last 0",
        ] {
            assert!(answer.contains(expected), "{expected} in {answer}");
        }
    });
}

#[test]
fn refuses_what_is_ambiguous() {
    let head = |more: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{more}\r\n");
    let many = (0..101)
        .map(|number| format!("x-{number}: v\r\n"))
        .collect::<String>();
    let large = format!("x: {}\r\n", "v".repeat(61 * 1024));
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "length and chunks",
            head("content-length: 4\r\ntransfer-encoding: chunked\r\n"),
            "400",
        ),
        (
            "chunks and length",
            head("transfer-encoding: chunked\r\ncontent-length: 4\r\n"),
            "400",
        ),
        (
            "two lengths",
            head("content-length: 4\r\ncontent-length: 5\r\n"),
            "400",
        ),
        (
            "one length twice",
            head("content-length: 4\r\ncontent-length: 4\r\n"),
            "400",
        ),
        ("a list of lengths", head("content-length: 4, 4\r\n"), "400"),
        ("a signed length", head("content-length: +4\r\n"), "400"),
        ("a negative length", head("content-length: -1\r\n"), "400"),
        (
            "a hexadecimal length",
            head("content-length: 0x4\r\n"),
            "400",
        ),
        ("an empty length", head("content-length: \r\n"), "400"),
        (
            "a length past 2^64",
            head("content-length: 18446744073709551616\r\n"),
            "400",
        ),
        ("another coding", head("transfer-encoding: gzip\r\n"), "501"),
        (
            "a coding after chunked",
            head("transfer-encoding: chunked, gzip\r\n"),
            "501",
        ),
        (
            "chunked twice",
            head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
            "501",
        ),
        (
            "a coding with a tab",
            head("transfer-encoding: chunked\x0b\r\n"),
            "400",
        ),
        ("identity", head("transfer-encoding: identity\r\n"), "501"),
        ("a folded line", head("x: a\r\n b\r\n"), "400"),
        (
            "a folded coding",
            head("transfer-encoding:\r\n chunked\r\n"),
            "400",
        ),
        (
            "a space before the colon",
            head("content-length : 4\r\n"),
            "400",
        ),
        (
            "a space before the name",
            head(" content-length: 4\r\n"),
            "400",
        ),
        ("a null byte", head("x: a\0b\r\n"), "400"),
        ("a bare CR", head("x: a\rcontent-length: 3\r\n"), "400"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), "400"),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(),
            "400",
        ),
        ("no version", "GET /\r\nhost: a\r\n\r\n".into(), "400"),
        (
            "HTTP/1.0",
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n".into(),
            "426",
        ),
        (
            "HTTP/2.0",
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n".into(),
            "400",
        ),
        (
            "a space in the target",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n".into(),
            "400",
        ),
        ("no method", " / HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
        ("many headers", head(&many), "431"),
        ("a large head", head(&large), "431"),
        (
            "a head without end",
            format!("GET / HTTP/1.1\r\nx: {}", "v".repeat(61 * 1024)),
            "431",
        ),
    ];
    run(async {
        let address = serve(Drain::new()).await;
        for (name, bytes, expected) in cases {
            // Whatever follows is not served: it may be the smuggled request.
            let answer = converse(address, format!("{bytes}{END}").as_bytes()).await;
            assert_eq!(statuses(&answer), [expected], "{name}: {answer}");
            assert!(answer.contains("connection: close"), "{name}: {answer}");
        }
    });
}

#[test]
fn refuses_bad_chunks() {
    let cases = [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a prefixed size", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a space", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a size past 2^64", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size without CR", "3\nabc\r\n0\r\n\r\n"),
        ("data past its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("data without CRLF", "3\r\nabc0\r\n\r\n"),
        ("an extension with a bare CR", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("a trailer without colon", "0\r\nbroken\r\n\r\n"),
        ("a trailer without CR", "0\r\na: b\n\r\n"),
    ];
    run(async {
        let address = serve(Drain::new()).await;
        for (name, chunks) in cases {
            let bytes = format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}{END}"
            );
            let answer = converse(address, bytes.as_bytes()).await;
            // The handler saw the body fail, or the connection was refused; nothing after it was served.
            let seen = statuses(&answer);
            assert!(seen == ["400"] || seen == ["418"], "{name}: {answer}");
        }
        let long = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;{}",
            "x".repeat(1000)
        );
        assert!(matches!(
            statuses(&converse(address, long.as_bytes()).await)[..],
            ["400" | "418"]
        ));
    });
}

#[test]
fn answers_expectations_when_the_body_is_wanted() {
    run(async {
        let address = serve(Drain::new()).await;
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("write");
        let mut interim = [0_u8; 25];
        stream.read_exact(&mut interim).await.expect("interim");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"abc").await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("POST / 3"),
            "{answer}"
        );
    });
}

#[test]
fn streams_a_body_through() {
    run(async {
        let address = serve(Drain::new()).await;
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let head = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("write");
        let mut seen = Vec::new();
        for piece in ["one", "two", "three"] {
            stream
                .write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())
                .await
                .expect("write");
            // The next piece is only sent when this one has come back.
            while !String::from_utf8_lossy(&seen).contains(piece) {
                let mut buffer = [0_u8; 1024];
                let read = stream.read(&mut buffer).await.expect("read");
                assert!(read > 0, "closed early");
                seen.extend_from_slice(&buffer[..read]);
            }
        }
        stream.write_all(b"0\r\n\r\n").await.expect("write");
        stream.read_to_end(&mut seen).await.expect("end");
        assert!(seen.ends_with(b"0\r\n\r\n"));
    });
}

#[test]
fn draining_asks_clients_to_go_and_then_closes() {
    run(async {
        let drain = Drain::new();
        let address = serve(drain.clone()).await;
        let mut busy = TcpStream::connect(address).await.expect("connect");
        let mut idle = TcpStream::connect(address).await.expect("connect");
        for stream in [&mut busy, &mut idle] {
            stream
                .write_all(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .expect("write");
            let mut buffer = [0_u8; 1024];
            let read = stream.read(&mut buffer).await.expect("read");
            assert!(!String::from_utf8_lossy(&buffer[..read]).contains("connection: close"));
        }
        drain.ask();
        busy.write_all(b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("write");
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.expect("answer");
        assert!(
            answer.contains("connection: close") && answer.ends_with("GET /b 0"),
            "{answer}"
        );
        drain.close();
        assert_eq!(idle.read(&mut [0_u8; 16]).await.expect("closed"), 0);
    });
}

fn request(bytes: &[u8]) -> Result<Option<head::RequestHead>, head::HeadError> {
    match head::HeadEnd::new(head::MAX_HEAD_BYTES).found(bytes)? {
        Some(length) => head::request(
            &Bytes::copy_from_slice(&bytes[..length]),
            &Limits::default(),
        )
        .map(Some),
        None => Ok(None),
    }
}

fn decode(decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), String> {
    let mut decoder = decoder;
    let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder
                .step(&mut buffer)
                .map_err(|error| error.to_string())?
            {
                Step::Data(more) => data.extend_from_slice(&more),
                Step::More => break,
                Step::End => return Ok((data, true)),
            }
        }
    }
    Ok((data, decoder.is_done()))
}

proptest! {
    #[test]
    fn any_head_gives_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = request(&bytes);
        let _ = head::response(&Bytes::from(bytes), &http::Method::GET);
    }

    #[test]
    fn a_broken_head_gives_an_answer(at in 0_usize..80, value in any::<u8>()) {
        let mut bytes = b"POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nx: y\r\n\r\n".to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        if let Ok(Some(head)) = request(&bytes) {
            // What is taken has one meaning only.
            let chunked = head.headers.contains_key("transfer-encoding");
            prop_assert!(!(chunked && head.headers.contains_key("content-length")));
            prop_assert_eq!(head.headers.get_all("host").iter().count(), 1);
        }
    }

    #[test]
    fn the_end_of_a_head_does_not_depend_on_how_it_arrives(cut in 0_usize..60) {
        let bytes = b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\nGET /next HTTP/1.1\r\n";
        let whole = head::HeadEnd::new(4096).found(bytes);
        let mut trickle = head::HeadEnd::new(4096);
        let cut = cut.min(bytes.len());
        let found = match trickle.found(&bytes[..cut]) {
            Ok(None) => trickle.found(bytes),
            other => other,
        };
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn chunks_do_not_depend_on_how_they_arrive(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5),
        cut in 0_usize..300,
    ) {
        let mut wire = Vec::new();
        for piece in &pieces {
            wire.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let cut = cut.min(wire.len());
        let expected = (pieces.concat(), true);
        prop_assert_eq!(decode(Decoder::chunked(), &[&wire]), Ok(expected.clone()));
        prop_assert_eq!(decode(Decoder::chunked(), &[&wire[..cut], &wire[cut..]]), Ok(expected));
    }

    #[test]
    fn any_chunks_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..1024)) {
        let _ = decode(Decoder::chunked(), &[&bytes]);
    }
}
