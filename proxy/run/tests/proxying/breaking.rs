use std::rc::Rc;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use trireme_proxy_decide::config::RouteAction;

use super::support::{
    Client, cluster, forward, http, ok, read_request, route, run, stat, upstream,
};

#[test]
fn one_connection_one_waiting_and_the_rest_overflow() {
    run(async {
        let gate = Rc::new(Notify::new());
        let opened = gate.clone();
        let back = upstream(move |mut stream, seen| {
            let gate = opened.clone();
            async move {
                let mut rest = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut rest).await {
                    seen.borrow_mut().push(request);
                    gate.notified().await;
                    stream
                        .write_all(ok("done").as_bytes())
                        .await
                        .expect("answer");
                }
            }
        })
        .await;
        let mut limited = cluster("back", &[back.address]);
        limited.thresholds.default.max_connections = 1;
        limited.thresholds.default.max_pending_requests = 1;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![limited],
        )
        .await;
        let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let (mut first, mut second) = (
            Client::connect(proxy.address).await,
            Client::connect(proxy.address).await,
        );
        first.send(request).await;
        while back.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        second.send(request).await;
        while stat(&proxy, "cluster.back.upstream_rq_pending_active") == 0 {
            tokio::task::yield_now().await;
        }
        let mut third = Client::connect(proxy.address).await;
        let refused = third.ask(request).await;
        assert_eq!(
            (refused.status, refused.header("x-envoy-overloaded")),
            (503, Some("true")),
            "{refused:?}"
        );
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_pending_overflow"), 1);
        gate.notify_one();
        assert_eq!(first.receive().await.expect("answer").status, 200);
        gate.notify_one();
        assert_eq!(second.receive().await.expect("answer").status, 200);
        assert_eq!(back.connections.get(), 1);
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_overflow"), 1);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_pending_active"), 0);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_active"), 0);
    });
}

#[test]
fn a_waiting_request_that_is_cancelled_gives_its_place_back() {
    run(async {
        let back = upstream(|mut stream, seen| async move {
            let request = read_request(&mut stream, &mut Vec::new())
                .await
                .unwrap_or_default();
            seen.borrow_mut().push(request);
            std::future::pending::<()>().await;
        })
        .await;
        let mut limited = cluster("back", &[back.address]);
        limited.thresholds.default.max_connections = 1;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![limited],
        )
        .await;
        let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let (mut first, mut second) = (
            Client::connect(proxy.address).await,
            Client::connect(proxy.address).await,
        );
        first.send(request).await;
        while back.seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        second.send(request).await;
        while stat(&proxy, "cluster.back.upstream_rq_pending_active") == 0 {
            tokio::task::yield_now().await;
        }
        drop(second);
        while stat(&proxy, "cluster.back.upstream_rq_pending_active") == 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_cancelled"), 1);
    });
}
