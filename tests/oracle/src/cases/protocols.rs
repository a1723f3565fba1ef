//! HTTP itself, its upgrades, TCP, and requests that are none.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::case::{Case, Observation};
use crate::client::{self, Request};
use crate::shape::{Resources, any_host, cluster, http, one_route, tcp, to};

const GROUP: &str = "protocol";

fn plain(name: &str, manager: Value, requests: Vec<Request>) -> Case {
    Case::exchanges(
        GROUP,
        name,
        1,
        move |place| Resources {
            listeners: vec![http(
                place,
                any_host(json!([to(place, "a", json!({}))])),
                vec![],
                manager.clone(),
            )],
            clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
            ..Resources::default()
        },
        requests,
    )
}

/// Bytes that no client library would send; the status is compared, and whether the connection ends.
fn bytes(name: &str, text: String) -> Case {
    Case::new(
        GROUP,
        name,
        1,
        |place| {
            one_route(
                place,
                json!({}),
                cluster(place, "a", &place.hosts, json!({})),
            )
        },
        move |stand| {
            let text = text.clone();
            async move {
                let key = format!("x-key: {}\r\n\r\n", stand.key(0));
                let text = text.replacen("\r\n\r\n", &format!("\r\n{key}"), 1);
                let mut stream = TcpStream::connect(stand.place.listener).await?;
                let _ = stream.write_all(text.as_bytes()).await;
                let response = client::receive(&mut stream, false).await?;
                Ok(Observation {
                    exact: json!({ "status": response.status, "forwarded": stand.attempts(0).len() }),
                    ..Observation::default()
                })
            }
        },
    )
}

pub fn cases() -> Vec<Case> {
    let get = || Request::get("/p");
    let long = "x".repeat(70_000);
    let mut cases = vec![
        plain(
            "methods",
            json!({}),
            [
                "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE",
            ]
            .map(|method| get().method(method))
            .to_vec(),
        ),
        plain(
            "a body",
            json!({}),
            vec![
                get().method("POST").body("some text"),
                get().method("PUT").body("x"),
            ],
        ),
        plain(
            "statuses",
            json!({}),
            [200, 201, 204, 301, 304, 400, 404, 418, 500, 503]
                .map(|status| get().plan(&format!("*={status}")))
                .to_vec(),
        ),
        plain(
            "a 204 with a body",
            json!({}),
            vec![get().plan("*=204-long")],
        ),
        plain("an answer cut short", json!({}), vec![get().plan("*=half")]),
        plain(
            "no answer",
            json!({}),
            vec![get().plan("*=reset"), get().plan("*=close")],
        ),
        plain(
            "headers too large",
            json!({}),
            vec![get().header("x-long", &long)],
        ),
        plain(
            "headers too many",
            json!({}),
            vec![(0..120).fold(get(), |request, number| {
                request.header(&format!("x-{number}"), "v")
            })],
        ),
        plain(
            "hop by hop",
            json!({}),
            vec![
                get().header("connection", "close"),
                get().header("keep-alive", "timeout=5"),
                get().header("te", "trailers"),
                get().header("proxy-connection", "keep-alive"),
            ],
        ),
        plain(
            "forwarded",
            json!({}),
            vec![
                get().header("x-forwarded-for", "192.0.2.7"),
                get().header("x-forwarded-proto", "https"),
                get().header("x-request-id", "given"),
                get().header("x-envoy-internal", "true"),
            ],
        ),
        plain(
            "forwarded, the address added",
            json!({ "use_remote_address": true }),
            vec![
                get(),
                get().header("x-forwarded-for", "192.0.2.7"),
                get().header("x-envoy-max-retries", "3"),
            ],
        ),
        plain(
            "named otherwise",
            json!({ "server_name": "istio-envoy" }),
            vec![get()],
        ),
        plain(
            "passed through",
            json!({ "server_header_transformation": "PASS_THROUGH" }),
            vec![get(), get().plan("*=200+server:own")],
        ),
        plain(
            "paths made plain",
            json!({ "normalize_path": true, "merge_slashes": true }),
            [
                "/a/../b",
                "/a//b",
                "/a/./b",
                "/a%2e%2e/b",
                "/a/%2e%2e/b",
                "/..",
                "/a?b=//",
            ]
            .map(Request::get)
            .to_vec(),
        ),
        plain(
            "an upgrade that is not allowed",
            json!({}),
            vec![
                get()
                    .header("connection", "upgrade")
                    .header("upgrade", "websocket"),
            ],
        ),
        web_socket(),
        dead(),
        http2(),
    ];
    cases.extend(malformed());
    cases.extend(streams());
    cases
}

fn malformed() -> Vec<Case> {
    let head = "POST /x HTTP/1.1\r\nhost: a\r\n";
    [
        (
            "two lengths",
            format!("{head}content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
        ),
        (
            "length and chunks",
            format!("{head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "a length that is none",
            format!("{head}content-length: three\r\n\r\nabc"),
        ),
        (
            "a negative length",
            format!("{head}content-length: -1\r\n\r\n"),
        ),
        (
            "an unknown encoding",
            format!("{head}transfer-encoding: gzip\r\n\r\nabc"),
        ),
        (
            "a chunk that is none",
            format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "a folded header",
            "GET /x HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n".to_owned(),
        ),
        (
            "a space before the colon",
            "GET /x HTTP/1.1\r\nhost: a\r\nx-a : b\r\n\r\n".to_owned(),
        ),
        (
            "a header without a name",
            "GET /x HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n".to_owned(),
        ),
        (
            "a NUL in a header",
            "GET /x HTTP/1.1\r\nhost: a\r\nx-a: b\0c\r\n\r\n".to_owned(),
        ),
        ("no host", "GET /x HTTP/1.1\r\naccept: a\r\n\r\n".to_owned()),
        (
            "two hosts",
            "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        ),
        ("HTTP/1.0", "GET /x HTTP/1.0\r\nhost: a\r\n\r\n".to_owned()),
        ("HTTP/3.0", "GET /x HTTP/3.0\r\nhost: a\r\n\r\n".to_owned()),
        ("no version", "GET /x\r\n\r\n".to_owned()),
        ("nonsense", "nonsense\r\n\r\n".to_owned()),
        (
            "a target of another scheme",
            "GET http://b.test/y HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ),
        (
            "CONNECT",
            "CONNECT b.test:443 HTTP/1.1\r\nhost: b.test:443\r\n\r\n".to_owned(),
        ),
    ]
    .into_iter()
    .map(|(name, text)| bytes(name, text))
    .collect()
}

/// Switches protocols and then carries bytes both ways.
fn web_socket() -> Case {
    Case::new(
        GROUP,
        "WebSocket",
        1,
        |place| Resources {
            listeners: vec![http(
                place,
                any_host(json!([to(place, "a", json!({ "timeout": "0.2s" }))])),
                vec![],
                json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] }),
            )],
            clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
            ..Resources::default()
        },
        |stand| async move {
            let mut stream = TcpStream::connect(stand.place.listener).await?;
            let text = format!(
                "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-key: {}\r\n\r\n",
                stand.key(0)
            );
            stream.write_all(text.as_bytes()).await?;
            let response = client::receive(&mut stream, false).await?;
            let mut echoed = String::new();
            if response.status == 101 {
                // Longer than the route's timeout, which is not one of upgrades.
                tokio::time::sleep(std::time::Duration::from_millis(400)).await;
                stream.write_all(b"ping").await?;
                let mut buffer = [0; 4];
                let read = stream.read_exact(&mut buffer);
                if let Ok(Ok(_)) =
                    tokio::time::timeout(std::time::Duration::from_secs(5), read).await
                {
                    echoed = String::from_utf8_lossy(&buffer).into_owned();
                }
            }
            Ok(Observation {
                exact: json!({ "response": response.json(), "echoed": echoed, "upstream": stand.seen(0) }),
                ..Observation::default()
            })
        },
    )
}

/// Nobody listens behind it.
fn dead() -> Case {
    Case::new(
        GROUP,
        "a dead server",
        0,
        |place| {
            one_route(
                place,
                json!({}),
                cluster(place, "a", &[place.dead], json!({})),
            )
        },
        |stand| async move {
            let response = stand.send(0, &Request::get("/")).await?;
            let counters = ["upstream_cx_connect_fail", "upstream_rq_total"];
            Ok(Observation {
                exact: json!({ "status": response.status, "type": response.get("content-type"),
                    "log": stand.log(0).await?, "counters": stand.counters("a", &counters).await? }),
                ..Observation::default()
            })
        },
    )
}

/// HTTP/2 from the client, many streams on one connection, HTTP/1.1 behind.
fn http2() -> Case {
    Case::new(
        GROUP,
        "HTTP/2 from the client",
        1,
        |place| {
            one_route(
                place,
                json!({}),
                cluster(place, "a", &place.hosts, json!({})),
            )
        },
        |stand| async move {
            use http_body_util::{BodyExt, Full};
            let stream = TcpStream::connect(stand.place.listener).await?;
            let (mut sender, connection) = hyper::client::conn::http2::handshake(
                hyper_util::rt::TokioExecutor::new(),
                hyper_util::rt::TokioIo::new(stream),
            )
            .await?;
            tokio::spawn(connection);
            let mut list = Vec::new();
            for number in 0..3 {
                let body = if number == 1 { "posted" } else { "" };
                let request = http::Request::builder()
                    .method(if number == 1 { "POST" } else { "GET" })
                    .uri("http://oracle.test/two?x=1")
                    .header("x-key", stand.key(number))
                    .body(Full::new(bytes::Bytes::from(body)))?;
                let response = sender.send_request(request).await?;
                let status = response.status().as_u16();
                let server = response
                    .headers()
                    .get("server")
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
                let body = response.into_body().collect().await?.to_bytes();
                list.push(json!({ "status": status, "server": server,
                    "body": String::from_utf8_lossy(&body), "upstream": stand.seen(number),
                    "log": stand.log(number).await? }));
            }
            Ok(Observation {
                exact: list.into(),
                ..Observation::default()
            })
        },
    )
}

/// TCP to one, to several by weight, to a dead port.
fn streams() -> Vec<Case> {
    let exchange = |stand: crate::case::Stand| async move {
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..40 {
            let request = Request::get("/tcp");
            let response = stand.send(number, &request).await?;
            let class = response.get("x-host").unwrap_or("closed").to_owned();
            *seen.entry(class).or_insert(0) += 1;
        }
        Ok(Observation {
            samples: std::collections::BTreeMap::from([("hosts".to_owned(), seen)]),
            ..Observation::default()
        })
    };
    vec![
        Case::new(
            GROUP,
            "TCP",
            1,
            |place| Resources {
                listeners: vec![tcp(place, json!({ "cluster": place.cluster("a") }))],
                clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
                ..Resources::default()
            },
            exchange,
        )
        .expecting("hosts", &[("0", 1.0)]),
        Case::new(
            GROUP,
            "TCP by weight",
            2,
            |place| {
                let destinations = json!([
                    { "name": place.cluster("a"), "weight": 25 },
                    { "name": place.cluster("b"), "weight": 75 }]);
                Resources {
                    listeners: vec![tcp(
                        place,
                        json!({ "weighted_clusters": { "clusters": destinations } }),
                    )],
                    clusters: vec![
                        cluster(place, "a", &place.hosts[..1], json!({})),
                        cluster(place, "b", &place.hosts[1..], json!({})),
                    ],
                    ..Resources::default()
                }
            },
            exchange,
        )
        .expecting("hosts", &[("0", 0.25), ("1", 0.75)]),
        Case::new(
            GROUP,
            "TCP to a dead server",
            0,
            |place| Resources {
                listeners: vec![tcp(place, json!({ "cluster": place.cluster("a") }))],
                clusters: vec![cluster(place, "a", &[place.dead], json!({}))],
                ..Resources::default()
            },
            exchange,
        )
        .expecting("hosts", &[("closed", 1.0)]),
    ]
}
