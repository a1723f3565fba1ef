//! The exchange's ways, one by one.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use trireme_proxy_decide::config::{
    Cluster, DescriptorAction, FaultAbort, FaultDelay, FaultPolicy, Fraction, HttpFilter, Mirror,
    Origin, OutlierDetection, RateLimit, RateLimitFilter, RateLimitedBackOff, ResetHeader,
    ResetHeaderFormat, RetryOn, RetryPolicy, RouteAction, RouteForward, RouterFilter, Threshold,
    Thresholds, Upgrade,
};
use trireme_proxy_decide::exchange::{Event, RateLimitAnswer};
use trireme_proxy_decide::flags::Flags;
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;

use crate::driver::Driver;
use crate::world::{
    address, cluster, connection, endpoints, everything, forward, hcm, route, routes, snapshot,
};

fn driver_of(clusters: Vec<Cluster>, action: RouteForward, filters: Vec<HttpFilter>) -> Driver {
    let mut hcm = hcm();
    hcm.filters = filters;
    hcm.filters
        .push(HttpFilter::Router(RouterFilter::default()));
    hcm.upgrades = vec![Upgrade {
        kind: Arc::from("websocket"),
        enabled: true,
    }];
    let routes = routes(vec![everything(vec![route(
        "/",
        RouteAction::Forward(Box::new(action)),
    )])]);
    Driver::new(snapshot(clusters, routes), connection(hcm), 3)
}

fn retrying(hosts: u8, policy: RetryPolicy) -> Driver {
    let mut action = forward("c");
    action.retry_policy = Some(Arc::new(policy));
    driver_of(vec![cluster("c", hosts)], action, Vec::new())
}

fn policy(on: &str, num_retries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: RetryOn::parse_any(on),
        num_retries,
        avoid_previous_hosts: true,
        host_selection_max_attempts: 5,
        ..RetryPolicy::default()
    }
}

fn status(driver: &Driver, request: usize) -> Option<u16> {
    driver.requests[request].exchange.outcome(driver.now).status
}

#[test]
fn retries_visit_every_host_once() {
    let mut driver = retrying(3, policy("5xx", 2));
    let request = driver.get("/");
    for _ in 0..2 {
        driver.answer(request, 503, &[], true);
        driver.pass(Duration::from_millis(250));
    }
    driver.answer(request, 200, &[], true);
    assert_eq!(status(&driver, request), Some(200));
    let mut visited = driver.requests[request].attempts.clone();
    visited.sort();
    assert_eq!(visited, [address(1), address(2), address(3)]);
    let stats: std::collections::BTreeMap<_, _> = driver
        .live
        .in_use()
        .next()
        .expect("in use")
        .stats
        .iter()
        .collect();
    assert_eq!(stats["upstream_rq_retry"], 2);
    assert_eq!(stats["upstream_rq_retry_success"], 1);
    driver.close();
}

#[test]
fn the_last_answer_stands_when_retries_are_used_up() {
    let mut driver = retrying(2, policy("gateway-error", 1));
    let request = driver.get("/");
    driver.answer(request, 502, &[], true);
    driver.pass(Duration::from_millis(25));
    driver.answer(request, 502, &[("x-from", "upstream")], true);
    let known = &driver.requests[request];
    assert_eq!(known.attempts.len(), 2);
    assert_eq!(known.exchange.flags(), Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    assert_eq!(known.exchange.details(), "via_upstream");
    assert!(
        known
            .forwarded
            .as_ref()
            .expect("passed on")
            .headers
            .contains_key("x-from")
    );
}

/// The back-off before retry n is a draw below min(25 ms · 2^(n−1), 250 ms).
#[test]
fn back_offs_double_up_to_the_maximum() {
    let bounds = [25, 50, 100, 200, 250, 250, 250];
    let mut greatest = [0u128; 7];
    for seed in 0..200 {
        let mut driver = retrying(1, policy("5xx", 7));
        driver.rng = crate::world::rng(seed);
        let request = driver.get("/");
        for (bound, seen) in bounds.iter().zip(&mut greatest) {
            driver.answer(request, 500, &[], true);
            let deadline = driver.requests[request].exchange.deadline();
            let wait = deadline.expect("a back-off").since(driver.now).as_millis();
            assert!(wait < *bound, "{wait} of {bound}");
            *seen = (*seen).max(wait);
            driver.pass(Duration::from_millis(250));
        }
    }
    for (bound, seen) in bounds.iter().zip(greatest) {
        assert!(seen > bound * 9 / 10, "{seen} of {bound} in 200 draws");
    }
}

#[test]
fn a_response_may_ask_for_its_back_off() {
    let mut asked = policy("5xx", 1);
    asked.rate_limited_back_off = Some(RateLimitedBackOff {
        reset_headers: vec![ResetHeader {
            name: http::HeaderName::from_static("retry-after"),
            format: ResetHeaderFormat::Seconds,
        }],
        max_interval: Duration::from_secs(300),
    });
    for (value, expected) in [("2", 2_000..3_000), ("301", 0..25), ("x", 0..25)] {
        let mut driver = retrying(1, asked.clone());
        let request = driver.get("/");
        driver.answer(request, 503, &[("retry-after", value)], true);
        let deadline = driver.requests[request].exchange.deadline().expect("waits");
        let wait = deadline.since(driver.now).as_millis();
        assert!(expected.contains(&wait), "{value}: {wait}");
    }
}

#[test]
fn conditions_are_kept_apart() {
    let cases: [(&str, Broken, bool); 8] = [
        ("connect-failure", Broken::RemoteConnectionFailure, true),
        ("connect-failure", Broken::ConnectionTimeout, true),
        ("connect-failure", Broken::ConnectionTermination, false),
        ("refused-stream", Broken::RemoteRefusedStream, true),
        ("refused-stream", Broken::RemoteReset, false),
        ("reset", Broken::RemoteReset, true),
        ("reset-before-request", Broken::RemoteReset, false),
        ("5xx", Broken::ProtocolError, true),
    ];
    for (on, broken, retried) in cases {
        let mut driver = retrying(2, policy(on, 1));
        let request = driver.get("/");
        driver.break_off(request, broken, "");
        driver.pass(Duration::from_millis(25));
        let attempts = driver.requests[request].attempts.len();
        assert_eq!(attempts, 1 + usize::from(retried), "{on} {broken:?}");
    }
    for (on, status, headers, retried) in [
        ("retriable-4xx", 409, &[][..], true),
        ("retriable-4xx", 404, &[], false),
        ("retriable-status-codes", 418, &[], true),
        ("unavailable", 200, &[("grpc-status", "14")], true),
        ("unavailable", 200, &[("grpc-status", "13")], false),
        ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
        (
            "5xx,envoy-ratelimited",
            429,
            &[("x-envoy-ratelimited", "true")],
            true,
        ),
    ] {
        let mut policy = policy(on, 1);
        policy.retriable_status_codes = vec![418];
        let mut driver = retrying(2, policy);
        let request = driver.get("/");
        driver.answer(request, status, headers, true);
        driver.pass(Duration::from_millis(25));
        let attempts = driver.requests[request].attempts.len();
        assert_eq!(
            attempts,
            1 + usize::from(retried),
            "{on} {status} {headers:?}"
        );
    }
}

/// A retry counts against the limit until its answer, not only while it waits.
#[test]
fn retries_are_limited_while_under_way() {
    let mut action = forward("c");
    action.retry_policy = Some(Arc::new(policy("5xx", 2)));
    let limited = Cluster {
        thresholds: Thresholds {
            default: Threshold {
                max_retries: 1,
                ..Threshold::default()
            },
            ..Thresholds::default()
        },
        ..cluster("c", 3)
    };
    let mut driver = driver_of(vec![limited], action, Vec::new());
    let first = driver.get("/");
    driver.answer(first, 500, &[], true);
    driver.pass(Duration::from_millis(25));
    assert_eq!(driver.requests[first].attempts.len(), 2);
    let second = driver.get("/");
    driver.answer(second, 500, &[], true);
    assert_eq!(
        driver.requests[second].exchange.flags(),
        Flags::UPSTREAM_OVERFLOW
    );
    assert_eq!(status(&driver, second), Some(500));
    driver.answer(first, 200, &[], true);
    let third = driver.get("/");
    driver.answer(third, 500, &[], true);
    driver.pass(Duration::from_millis(25));
    assert_eq!(driver.requests[third].attempts.len(), 2);
    driver.close();
}

#[test]
fn a_retry_goes_to_the_hosts_that_are_there_now() {
    let mut driver = retrying(1, policy("5xx", 1));
    let request = driver.get("/");
    driver.answer(request, 503, &[], true);
    let mut moved = endpoints("c", &[1, 1]);
    moved.localities[0].endpoints.remove(0);
    let snapshot = driver.live.snapshot().with_cluster(Cluster {
        endpoints: Some(Arc::new(moved)),
        ..cluster("c", 1)
    });
    driver.update(snapshot);
    driver.pass(Duration::from_millis(25));
    assert_eq!(driver.requests[request].attempts, [address(1), address(2)]);
    driver.close();
}

#[test]
fn a_delay_comes_before_an_abort() {
    let fault = HttpFilter::Fault {
        name: Arc::from("fault"),
        policy: Arc::new(FaultPolicy {
            delay: Some(FaultDelay::Fixed {
                delay: Duration::from_secs(2),
                share: Fraction::ALL,
            }),
            abort: Some(FaultAbort::Http {
                status: 500,
                share: Fraction::ALL,
            }),
            ..FaultPolicy::default()
        }),
    };
    let mut driver = driver_of(vec![cluster("c", 1)], forward("c"), vec![fault]);
    let request = driver.get("/");
    driver.pass(Duration::from_millis(1_999));
    assert!(!driver.requests[request].exchange.is_done());
    driver.pass(Duration::from_millis(1));
    assert_eq!(status(&driver, request), Some(500));
    assert_eq!(
        driver.requests[request].exchange.flags(),
        Flags::DELAY_INJECTED | Flags::FAULT_INJECTED
    );
    assert!(driver.requests[request].attempts.is_empty());
    driver.close();
}

/// Delays and aborts fall independently: four kinds of requests by the product of the shares.
#[test]
fn faults_draw_independently() {
    let fault = HttpFilter::Fault {
        name: Arc::from("fault"),
        policy: Arc::new(FaultPolicy {
            delay: Some(FaultDelay::Fixed {
                delay: Duration::from_millis(1),
                share: Fraction::percent(30),
            }),
            abort: Some(FaultAbort::Http {
                status: 400,
                share: Fraction::percent(50),
            }),
            ..FaultPolicy::default()
        }),
    };
    let mut driver = driver_of(vec![cluster("c", 1)], forward("c"), vec![fault]);
    let mut counts = [0f64; 4];
    for _ in 0..4_000 {
        let request = driver.get("/");
        driver.pass(Duration::from_millis(1));
        if !driver.requests[request].exchange.is_done() {
            driver.answer(request, 200, &[], true);
        }
        let flags = driver.requests[request].exchange.flags();
        let kind = usize::from(flags.contains(Flags::DELAY_INJECTED)) * 2
            + usize::from(flags.contains(Flags::FAULT_INJECTED));
        counts[kind] += 1.0;
    }
    let chi: f64 = counts
        .iter()
        .zip([0.35, 0.35, 0.15, 0.15])
        .map(|(seen, share)| (seen - share * 4_000.0).powi(2) / (share * 4_000.0))
        .sum();
    // Three degrees of freedom, one percent.
    assert!(chi < 11.34, "{chi} {counts:?}");
    driver.close();
}

#[test]
fn mirrors_get_copies() {
    let mut action = forward("c");
    action.mirrors = vec![Mirror {
        cluster: Arc::from("m"),
        cluster_header: None,
        share: Fraction::ALL,
        disable_shadow_host_suffix: false,
    }];
    let mut driver = driver_of(vec![cluster("c", 1), cluster("m", 1)], action, Vec::new());
    let request = driver.begin(RequestHead::get("host:80", "/").expect("valid"), true);
    let mirrored = &driver.requests[request].mirrored;
    assert_eq!(mirrored.len(), 1);
    assert_eq!(mirrored[0].authority(), "host-shadow:80");
    assert_eq!(driver.requests[request].sent[0].authority(), "host:80");
}

#[test]
fn global_rate_limits_ask_and_obey() {
    let filter = HttpFilter::RateLimit {
        name: Arc::from("limit"),
        filter: Arc::new(RateLimitFilter {
            domain: Arc::from("d"),
            stage: 0,
            cluster: Arc::from("rls"),
            timeout: Duration::from_millis(20),
            failure_mode_deny: true,
            status: 429,
            rate_limited_as_resource_exhausted: false,
            ratelimit_headers: false,
            disable_x_envoy_ratelimited_header: false,
        }),
    };
    let mut action = forward("c");
    action.rate_limits = vec![RateLimit {
        stage: 0,
        actions: vec![DescriptorAction::DestinationCluster],
    }];
    let mut driver = driver_of(vec![cluster("c", 1)], action, vec![filter]);
    let request = driver.get("/");
    assert_eq!(
        &*driver.requests[request].asked[0].descriptors[0][0].value,
        "c"
    );
    driver.rate_limit(
        request,
        RateLimitAnswer::Ok {
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
        },
    );
    driver.answer(request, 200, &[], true);
    let refused = driver.get("/");
    driver.rate_limit(
        refused,
        RateLimitAnswer::OverLimit {
            response_headers: HeaderMap::new(),
            body: Vec::new(),
        },
    );
    let reply = &driver.requests[refused].replies[0];
    assert_eq!(reply.status.as_u16(), 429);
    assert_eq!(reply.headers["x-envoy-ratelimited"], "true");
    assert_eq!(reply.flags, Flags::RATE_LIMITED);
    // No answer in time, and failures are refused.
    let late = driver.get("/");
    driver.pass(Duration::from_millis(20));
    assert_eq!(status(&driver, late), Some(500));
    assert_eq!(
        driver.requests[late].exchange.flags(),
        Flags::RATE_LIMIT_SERVICE_ERROR
    );
    driver.close();
}

#[test]
fn timeouts_begin_with_the_requests_end() {
    let mut action = forward("c");
    action.timeout = Some(Duration::from_secs(1));
    let mut driver = driver_of(vec![cluster("c", 1)], action, Vec::new());
    let mut head = RequestHead::get("host", "/").expect("valid");
    head.method = Method::POST;
    let request = driver.begin(head, false);
    driver.pass(Duration::from_secs(10));
    assert!(!driver.requests[request].exchange.is_done());
    driver.on(request, Event::RequestEnd);
    driver.pass(Duration::from_millis(999));
    assert!(!driver.requests[request].exchange.is_done());
    driver.pass(Duration::from_millis(1));
    assert_eq!(status(&driver, request), Some(504));
    driver.close();
}

#[test]
fn an_answer_on_its_way_is_broken_off() {
    let mut action = forward("c");
    action.timeout = Some(Duration::from_secs(1));
    let mut driver = driver_of(vec![cluster("c", 1)], action, Vec::new());
    let timed_out = driver.get("/");
    driver.answer(timed_out, 200, &[], false);
    driver.pass(Duration::from_secs(1));
    let known = &driver.requests[timed_out];
    assert_eq!((known.resets, known.replies.len()), (1, 0));
    assert_eq!(known.exchange.flags(), Flags::UPSTREAM_REQUEST_TIMEOUT);
    let reset = driver.get("/");
    driver.answer(reset, 200, &[], false);
    driver.break_off(reset, Broken::RemoteReset, "");
    let known = &driver.requests[reset];
    assert_eq!(known.resets, 1);
    assert_eq!(
        known.exchange.details(),
        "upstream_reset_after_response_started{remote_reset}"
    );
    driver.close();
}

#[test]
fn outliers_leave_and_origins_are_named() {
    let origin = Origin::new("/apis/networking.istio.io/v1/namespaces/n/destination-rule/d");
    let watched = Cluster {
        outlier: Some(OutlierDetection {
            consecutive_5xx: 1,
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        }),
        common_lb: trireme_proxy_decide::config::CommonLb {
            panic_threshold: trireme_proxy_decide::config::PanicThreshold { percent: 0.0 },
            ..Default::default()
        },
        origin: Some(origin.clone()),
        ..cluster("c", 1)
    };
    let mut driver = driver_of(vec![watched], forward("c"), Vec::new());
    let request = driver.get("/");
    driver.answer(request, 500, &[], true);
    // Without panic there is nobody left.
    let refused = driver.get("/");
    let reply = &driver.requests[refused].replies[0];
    assert_eq!(reply.flags, Flags::NO_HEALTHY_UPSTREAM);
    assert_eq!(
        reply.origin.as_ref().map(ToString::to_string).as_deref(),
        Some("destination-rule n/d")
    );
    driver.pass(Duration::from_secs(31));
    assert_eq!(driver.requests[driver.requests.len() - 1].attempts.len(), 0);
    driver.pass(Duration::from_secs(10));
    let back = driver.get("/");
    driver.answer(back, 200, &[], true);
    assert_eq!(status(&driver, back), Some(200));
    driver.close();
}

#[test]
fn upgrades_are_allowed_or_refused() {
    let mut driver = driver_of(vec![cluster("c", 1)], forward("c"), Vec::new());
    for (kind, allowed) in [("websocket", true), ("WebSocket", true), ("h2c", false)] {
        let mut head = RequestHead::get("host", "/").expect("valid");
        head.headers
            .insert("connection", "keep-alive, Upgrade".parse().expect("valid"));
        head.headers.insert("upgrade", kind.parse().expect("valid"));
        let request = driver.begin(head, true);
        assert_eq!(
            driver.requests[request].exchange.upgrade().is_some(),
            allowed,
            "{kind}"
        );
        if !allowed {
            assert_eq!(status(&driver, request), Some(403));
            assert_eq!(
                driver.requests[request].exchange.details(),
                "upgrade_failed"
            );
        }
    }
}

#[test]
fn grpc_timeouts_count_where_the_route_says() {
    let mut action = forward("c");
    action.timeout = Some(Duration::from_secs(15));
    action.max_grpc_timeout = Some(Duration::from_secs(2));
    let mut driver = driver_of(vec![cluster("c", 1)], action, Vec::new());
    let mut head = RequestHead::get("host", "/s/m").expect("valid");
    head.method = Method::POST;
    head.headers
        .insert("content-type", "application/grpc".parse().expect("valid"));
    head.headers
        .insert("grpc-timeout", "500m".parse().expect("valid"));
    let request = driver.begin(head, true);
    assert_eq!(
        driver.requests[request].sent[0].headers["grpc-timeout"],
        "500m"
    );
    driver.pass(Duration::from_millis(500));
    let reply = &driver.requests[request].replies[0];
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(reply.headers["grpc-status"], "14");
    assert_eq!(reply.headers["grpc-message"], "upstream request timeout");
}
