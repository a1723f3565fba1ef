use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{RetryOn, RetryPolicy, RouteAction, RouteForward};

use super::support::{
    Client, answering, cluster, forward, free, get, http, ok, route, run, stat, status,
};

fn retrying(on: &str, times: u32) -> RouteForward {
    let mut action = forward("back");
    action.retry_policy = Some(Arc::new(RetryPolicy {
        retry_on: RetryOn::parse_http(on),
        num_retries: times,
        base_interval: Duration::from_millis(1),
        max_interval: Duration::from_millis(2),
        ..RetryPolicy::default()
    }));
    action
}

#[test]
fn retries_with_the_body_until_it_is_well() {
    run(async {
        let failures = Cell::new(2);
        let back = answering(move |_| {
            let left = failures.get();
            failures.set(left - 1);
            if left > 0 {
                status("503 Service Unavailable", "no")
            } else {
                ok("well")
            }
        })
        .await;
        let proxy = http(
            vec![route(
                "/",
                RouteAction::Forward(Box::new(retrying("5xx", 3))),
            )],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        let answer = client
            .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody")
            .await;
        assert_eq!((answer.status, &*answer.body), (200, "well"));
        assert!(
            back.seen
                .borrow()
                .iter()
                .all(|request| request.ends_with("body"))
        );
        assert_eq!(back.seen.borrow().len(), 3);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_retry"), 2);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_retry_success"), 1);
    });
}

#[test]
fn a_failure_to_connect_is_named_and_retried() {
    run(async {
        let nobody = free();
        let proxy = http(
            vec![route(
                "/",
                RouteAction::Forward(Box::new(retrying("connect-failure", 1))),
            )],
            vec![cluster("back", &[nobody])],
        )
        .await;
        let answer = get(proxy.address, "/").await;
        assert_eq!(answer.status, 503);
        let expected = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                        remote connection failure";
        assert_eq!(answer.body, expected);
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_connect_fail"), 2);
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_retry"), 1);
        assert_eq!(
            stat(&proxy, "cluster.back.upstream_rq_pending_failure_eject"),
            2
        );
    });
}

#[test]
fn a_timeout_is_504() {
    run(async {
        let back = super::support::upstream(|stream, _| async move {
            let _held = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let mut action = forward("back");
        action.timeout = Some(Duration::from_millis(50));
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(action)))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let answer = get(proxy.address, "/").await;
        assert_eq!(
            (answer.status, &*answer.body),
            (504, "upstream request timeout")
        );
        assert_eq!(stat(&proxy, "cluster.back.upstream_rq_timeout"), 1);
    });
}

#[test]
fn a_connection_that_closes_is_503() {
    run(async {
        let back = answering(|_| String::new()).await;
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[back.address])],
        )
        .await;
        let answer = get(proxy.address, "/").await;
        assert_eq!(answer.status, 503);
        let expected = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        assert_eq!(answer.body, expected);
    });
}
