use std::sync::Arc;

use trireme_proxy_decide::config::{Fraction, Mirror, RouteAction, Upgrade};

use super::support::{
    self, Client, answering, cluster, forward, get, http, manager, ok, route, run, stat, upstream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[test]
fn passes_requests_and_answers_on() {
    run(async {
        let back = answering(|request| {
            ok(&format!(
                "saw {}",
                request.lines().next().unwrap_or_default()
            ))
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        for path in ["/a?b=c", "/d"] {
            let answer = client
                .ask(&format!(
                    "GET {path} HTTP/1.1\r\nHost: shop\r\nX-Mine: 1\r\n\r\n"
                ))
                .await;
            assert_eq!(
                (answer.status, answer.body),
                (200, format!("saw GET {path} HTTP/1.1"))
            );
            assert_eq!(
                answer.head.matches("server: istio-envoy").count(),
                1,
                "{}",
                answer.head
            );
            assert!(
                answer.head.contains("x-envoy-upstream-service-time: "),
                "{}",
                answer.head
            );
            assert!(answer.head.contains("date: "), "{}", answer.head);
        }
        // Kept alive on both sides.
        assert_eq!(back.connections.get(), 1);
        let seen = back.seen.borrow();
        for expected in [
            "host: shop\r\n",
            "x-mine: 1\r\n",
            "x-request-id: ",
            "x-forwarded-proto: http\r\n",
        ] {
            assert!(seen[0].contains(expected), "{expected} in {}", seen[0]);
        }
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_200"), 2);
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_total"), 1);
        assert_eq!(stat(&proxy, "http.test.downstream_rq_2xx"), 2);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_active"), 0);
    });
}

#[test]
fn answers_unknown_hosts_and_lost_clusters_itself() {
    run(async {
        let proxy = http(
            vec![route(
                "/lost",
                RouteAction::Forward(Box::new(forward("lost"))),
            )],
            vec![],
        )
        .await;
        let answer = get(proxy.address, "/elsewhere").await;
        assert_eq!(
            (answer.status, answer.header("server")),
            (404, Some("istio-envoy"))
        );
        assert_eq!(get(proxy.address, "/lost").await.status, 503);
        assert_eq!(stat(&proxy, "http.test.no_route"), 1);
        assert_eq!(stat(&proxy, "http.test.no_cluster"), 1);
    });
}

#[test]
fn passes_bodies_of_either_framing() {
    run(async {
        let back = answering(|request| {
            let body = request
                .split_once("\r\n\r\n")
                .map_or("", |(_, body)| body)
                .to_owned();
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        let answer = client
            .ask("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
            .await;
        assert!(answer.body.contains("hello"), "{answer:?}");
        let request = "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 200);
        let seen = back.seen.borrow();
        assert!(
            seen[0].ends_with("hello") && seen[0].contains("content-length: 5"),
            "{}",
            seen[0]
        );
        assert!(
            seen[1].contains("transfer-encoding: chunked"),
            "{}",
            seen[1]
        );
        let body: String = seen[1].split("\r\n\r\n").skip(1).collect();
        assert!(body.contains("abc") && body.contains("de"), "{body}");
    });
}

#[test]
fn a_body_that_is_larger_than_the_buffer_streams_through() {
    run(async {
        let back = answering(|request| {
            ok(&request
                .split_once("\r\n\r\n")
                .map_or(0, |(_, body)| body.len())
                .to_string())
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let body = "x".repeat(3 << 20);
        let mut client = Client::connect(proxy.address).await;
        let request = format!(
            "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(client.ask(&request).await.body, body.len().to_string());
    });
}

#[test]
fn upgrades_become_tunnels() {
    run(async {
        let back = upstream(|mut stream, seen| async move {
            let request = support::read_request(&mut stream, &mut Vec::new()).await.expect("request");
            seen.borrow_mut().push(request);
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nearly";
            stream.write_all(answer).await.expect("answer");
            let mut buffer = [0_u8; 64];
            while let Ok(read) = stream.read(&mut buffer).await {
                if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        })
        .await;
        let mut manager = manager(vec![route(
            "/",
            RouteAction::Forward(Box::new(forward("back"))),
        )]);
        manager.upgrades = vec![Upgrade {
            kind: Arc::from("websocket"),
            enabled: true,
        }];
        let proxy = support::managed(manager, vec![cluster("back", &[back.address])]).await;
        let mut client = Client::connect(proxy.address).await;
        client.send("GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let mut seen = Vec::new();
        let mut buffer = [0_u8; 1024];
        while !seen.ends_with(b"early") {
            let read = client.stream.read(&mut buffer).await.expect("read");
            assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
        assert!(
            seen.starts_with(b"HTTP/1.1 101 "),
            "{}",
            String::from_utf8_lossy(&seen)
        );
        client.send("ping").await;
        client
            .stream
            .read_exact(&mut buffer[..4])
            .await
            .expect("echo");
        assert_eq!(&buffer[..4], b"ping");
        assert!(back.seen.borrow()[0].contains("upgrade: websocket"));
        let refused = get(proxy.address, "/").await;
        assert_eq!(refused.status, 101);
    });
}

#[test]
fn mirrors_are_sent_and_not_waited_for() {
    run(async {
        let back = answering(|_| ok("real")).await;
        let copy = answering(|_| String::new()).await;
        let mut action = forward("back");
        action.mirrors.push(Mirror {
            cluster: Arc::from("copy"),
            cluster_header: None,
            share: Fraction::ALL,
            disable_shadow_host_suffix: false,
        });
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(action)))],
            vec![
                cluster("back", &[back.address]),
                cluster("copy", &[copy.address]),
            ],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        let answer = client
            .ask("POST /x HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\n\r\nbody")
            .await;
        assert_eq!(answer.body, "real");
        while copy.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        let seen = copy.seen.borrow();
        assert!(
            seen[0].contains("host: shop-shadow\r\n") && seen[0].ends_with("body"),
            "{}",
            seen[0]
        );
    });
}

#[test]
fn an_upstream_that_answers_half_breaks_the_answer_off() {
    run(async {
        let back = upstream(|mut stream, _| async move {
            support::read_request(&mut stream, &mut Vec::new()).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                .await;
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            client.receive().await.is_none(),
            "a whole answer of half a body"
        );
    });
}

#[test]
fn a_client_that_leaves_frees_everything() {
    run(async {
        let back = upstream(|mut stream, seen| async move {
            let request = support::read_request(&mut stream, &mut Vec::new())
                .await
                .unwrap_or_default();
            seen.borrow_mut().push(request);
            // Never answers; sees the proxy close.
            let _ = stream.read(&mut [0_u8; 1]).await;
            seen.borrow_mut().push("closed".into());
        })
        .await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        while back.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_active"), 1);
        drop(client);
        while back.seen.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_active"), 0);
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_active"), 0);
        assert_eq!(stat(&proxy, "http.test.downstream_rq_rx_reset"), 1);
    });
}

#[test]
fn an_offer_of_http2_in_the_clear_is_passed_over() {
    run(async {
        let back = answering(|_| ok("plain")).await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        let answer = client
            .ask(
                "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
                 http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
            )
            .await;
        assert_eq!((answer.status, &*answer.body), (200, "plain"));
        let seen = back.seen.borrow();
        assert!(
            !seen[0].contains("h2c") && !seen[0].contains("settings"),
            "{}",
            seen[0]
        );
    });
}
