//! What a real Envoy 1.40 answered to the same routes and upstreams: statuses, headers, bodies,
//! flags, details.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use trireme_proxy_decide::config::{
    AppendAction, Cluster, ClusterKind, ClusterSpecifier, CorsPolicy, Direct, Endpoints,
    FaultAbort, FaultPolicy, FilterOverrides, Fraction, HashPolicy, HashSource, HeaderAddition,
    HeaderChanges, HostRewrite, HttpFilter, LbPolicy, LocalRateLimit, LocalReplyMapper,
    MaxStreamDuration, PathRewrite, Redirect, Regex, RegexRewrite, RetryOn, RetryPolicy, RingHash,
    Route, RouteAction, RouteConfiguration, RouteForward, RouteParts, RouterFilter, Snapshot,
    StringMatch, StringMatcher, Threshold, Thresholds, TokenBucket, VirtualHost, WeightedCluster,
    WeightedClusters,
};
use trireme_proxy_decide::exchange::Event;
use trireme_proxy_decide::format::Format;
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;

use crate::driver::Driver;
use crate::world::{cluster, connection, everything, forward, hcm, route, snapshot};

fn adds(name: &str, value: &str) -> HeaderAddition {
    HeaderAddition::new(name, value, AppendAction::AppendIfExistsOrAdd).expect("valid")
}

fn answers(name: &str, value: &str) -> HeaderChanges {
    HeaderChanges {
        response_add: vec![adds(name, value)],
        ..HeaderChanges::default()
    }
}

fn to(prefix: &str, change: impl FnOnce(&mut RouteForward)) -> Route {
    let mut action = forward("echo");
    action.timeout = None;
    change(&mut action);
    route(prefix, RouteAction::Forward(Box::new(action)))
}

fn redirect(prefix: &str, change: impl FnOnce(&mut Redirect)) -> Route {
    let mut redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        https: false,
        scheme: None,
        host: None,
        port: None,
        path: None,
        prefix: None,
        regex: None,
        strip_query: false,
    };
    change(&mut redirect);
    route(prefix, RouteAction::Redirect(Box::new(redirect)))
}

fn named(cluster: &str) -> impl FnOnce(&mut RouteForward) {
    let cluster = Arc::from(cluster);
    move |action| {
        action.cluster = trireme_proxy_decide::config::ClusterSpecifier::Cluster(cluster);
    }
}

fn with(mut route: Route, filters: FilterOverrides) -> Route {
    route.filters = filters;
    route
}

fn all_routes() -> Vec<Route> {
    let mut nc = to("/nc", named("nope"));
    nc.headers = answers("x-r", "r");
    let mut rewritten = to("/echo", |action| {
        action.timeout = Some(Duration::ZERO);
        action.path_rewrite = Some(PathRewrite::Prefix(Arc::from("/x")));
    });
    rewritten.headers.request_add = vec![
        adds("x-empty", "%REQ(nope)%"),
        adds("x-mix", "a-%REQ(nope)%-b"),
        adds("x-remote", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ];
    let mut mix = to("/mix", |_| {});
    let mut add = |name: &str, value: &str, action| {
        mix.headers
            .request_add
            .push(HeaderAddition::new(name, value, action).expect("valid"));
    };
    add("x-a", "1", AppendAction::OverwriteIfExistsOrAdd);
    add("x-b", "2", AppendAction::AddIfAbsent);
    add("x-c", "3", AppendAction::OverwriteIfExists);
    add("x-d", "4", AppendAction::AppendIfExistsOrAdd);
    mix.headers.request_remove = vec![HeaderName::from_static("x-e")];
    let limit = LocalRateLimit {
        ratelimit_headers: true,
        response_headers_to_add: vec![adds("x-lrl", "true")],
        ..crate::ratelimit::limit(TokenBucket {
            max_tokens: 1,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(100),
        })
    };
    vec![
        nc,
        rewritten,
        mix,
        to("/uh", named("empty")),
        to("/refused", |_| {}),
        to("/retry", |action| {
            action.retry_policy = Some(Arc::new(RetryPolicy {
                retry_on: RetryOn::parse_any("connect-failure"),
                num_retries: 2,
                ..RetryPolicy::default()
            }));
        }),
        to("/reset", |_| {}),
        to("/hang", |action| {
            action.timeout = Some(Duration::from_millis(500))
        }),
        to("/ptry", |action| {
            action.timeout = Some(Duration::from_secs(5));
            action.retry_policy = Some(Arc::new(RetryPolicy {
                retry_on: RetryOn::parse_any("5xx"),
                per_try_timeout: Some(Duration::from_millis(200)),
                ..RetryPolicy::default()
            }));
        }),
        route(
            "/direct",
            RouteAction::Direct(Direct {
                status: StatusCode::IM_A_TEAPOT,
                body: Arc::from(*b"teapot"),
                content_type: None,
            }),
        ),
        redirect("/redir", |redirect| {
            redirect.https = true;
            redirect.prefix = Some(Arc::from("/new"));
        }),
        redirect("/redp", |redirect| {
            redirect.port = Some(8443);
            redirect.path = Some(Arc::from("/p?z=1"));
            redirect.status = StatusCode::FOUND;
        }),
        with(
            to("/fault", |_| {}),
            FilterOverrides {
                fault: Some(Arc::new(FaultPolicy {
                    abort: Some(FaultAbort::Http {
                        status: 555,
                        share: Fraction::ALL,
                    }),
                    ..FaultPolicy::default()
                })),
                ..FilterOverrides::default()
            },
        ),
        with(
            to("/rl", |_| {}),
            FilterOverrides {
                local_rate_limit: Some(Arc::new(limit)),
                ..FilterOverrides::default()
            },
        ),
        to("/uo", named("uo")),
        with(
            to("/cors", |_| {}),
            FilterOverrides {
                cors: Some(Arc::new(CorsPolicy {
                    allow_origins: vec![StringMatcher {
                        pattern: StringMatch::Exact(Arc::from("http://a")),
                        ignore_case: false,
                    }],
                    allow_methods: Some(Arc::from("GET,POST")),
                    allow_headers: Some(Arc::from("h")),
                    max_age: Some(Arc::from("10")),
                    expose_headers: Some(Arc::from("e")),
                    allow_credentials: Some(true),
                    ..CorsPolicy::default()
                })),
                ..FilterOverrides::default()
            },
        ),
        to("/idle", |action| {
            action.timeout = Some(Duration::ZERO);
            action.idle_timeout = Some(Duration::from_millis(300));
        }),
        to("/maxd", |action| {
            action.timeout = Some(Duration::ZERO);
            action.max_stream_duration = Some(MaxStreamDuration {
                max_stream_duration: Some(Duration::from_millis(300)),
                ..MaxStreamDuration::default()
            });
        }),
        to("/auth", |action| {
            action.host_rewrite = Some(HostRewrite::Literal(Arc::from("other.example")));
            action.append_x_forwarded_host = true;
        }),
        to("/rx", |action| {
            action.path_rewrite = Some(PathRewrite::Regex(RegexRewrite {
                pattern: Regex::new("^/rx/([a-z]+)/(.*)$").expect("valid"),
                substitution: Arc::from(r"/\2/\1"),
            }));
        }),
        to("/cookie", |action| {
            named("ring")(action);
            action.hash_policy = vec![HashPolicy {
                source: HashSource::Cookie {
                    name: Arc::from("sid"),
                    ttl: Some(Duration::from_secs(60)),
                    path: Arc::from("/p"),
                },
                terminal: false,
            }];
        }),
    ]
}

fn configuration() -> Snapshot {
    let host = VirtualHost {
        include_request_attempt_count: true,
        include_attempt_count_in_response: true,
        headers: answers("x-vh", "vh"),
        ..everything(all_routes())
    };
    let routes = RouteConfiguration::new(RouteParts {
        name: Arc::from("routes"),
        virtual_hosts: vec![host],
        headers: answers("x-rc", "rc-%RESPONSE_CODE%-%RESPONSE_FLAGS%"),
        ..RouteParts::default()
    })
    .expect("valid");
    let empty = Cluster {
        endpoints: Some(Arc::new(Endpoints::new("empty"))),
        ..Cluster::new("empty", ClusterKind::Static)
    };
    let overflowing = Cluster {
        thresholds: Thresholds {
            default: Threshold {
                max_pending_requests: 0,
                ..Threshold::default()
            },
            ..Thresholds::default()
        },
        ..cluster("uo", 1)
    };
    let ring = Cluster {
        lb: LbPolicy::RingHash(RingHash::default()),
        ..cluster("ring", 1)
    };
    snapshot(vec![empty, overflowing, ring, cluster("echo", 1)], routes)
}

fn driver() -> Driver {
    let mut hcm = hcm();
    hcm.filters = vec![
        HttpFilter::Cors {
            name: Arc::from("cors"),
            policy: None,
        },
        HttpFilter::Fault {
            name: Arc::from("fault"),
            policy: Arc::new(FaultPolicy::default()),
        },
        HttpFilter::LocalRateLimit {
            name: Arc::from("limit"),
            limit: Arc::new(LocalRateLimit {
                bucket: None,
                ..crate::ratelimit::limit(TokenBucket {
                    max_tokens: 1,
                    tokens_per_fill: 1,
                    fill_interval: Duration::from_secs(1),
                })
            }),
        },
        HttpFilter::Router(RouterFilter::default()),
    ];
    Driver::new(configuration(), connection(hcm), 1)
}

/// What is told of an answer, as the golden texts have it: status, details, sorted headers
/// without `server`, body.
fn told(driver: &Driver, request: usize) -> String {
    let known = &driver.requests[request];
    let (status, headers, body) = match (known.replies.first(), &known.forwarded) {
        (Some(reply), _) => (
            reply.status,
            &reply.headers,
            String::from_utf8_lossy(&reply.body).into_owned(),
        ),
        (None, Some(head)) => (head.status, &head.headers, String::new()),
        (None, None) => panic!("no answer to request {request}"),
    };
    let mut lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| *name != "server")
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    lines.sort();
    format!(
        "{} {} {}\n{}\n{body}",
        status.as_u16(),
        known.exchange.flags(),
        known.exchange.details(),
        lines.join("\n")
    )
}

fn golden(request: &str, seen: String, expected: &str) {
    assert_eq!(seen.trim_end(), expected.trim(), "\n{request}");
}

#[test]
fn without_an_upstream() {
    let mut driver = driver();
    for (path, expected) in [
        (
            "/nc",
            "503 NC cluster_not_found\ncontent-length: 0\nx-r: r\nx-rc: rc-0-NC\nx-vh: vh",
        ),
        (
            "/uh",
            "503 UH no_healthy_upstream\ncontent-length: 19\ncontent-type: text/plain\nx-envoy-attempt-count: 1\nx-rc: rc-0-UH\nx-vh: vh\nno healthy upstream",
        ),
        (
            "/direct",
            "418 - direct_response\ncontent-length: 6\ncontent-type: text/plain\nx-rc: rc-0--\nx-vh: vh\nteapot",
        ),
        (
            "/redir/a?b=1",
            "301 - direct_response\ncontent-length: 0\nlocation: https://host/new/a?b=1\nx-rc: rc-0--\nx-vh: vh",
        ),
        (
            "/redp/x?y=2",
            "302 - direct_response\ncontent-length: 0\nlocation: http://host:8443/p?z=1\nx-rc: rc-0--\nx-vh: vh",
        ),
        (
            "/fault",
            "555 FI fault_filter_abort\ncontent-length: 18\ncontent-type: text/plain\nx-rc: rc-0-FI\nx-vh: vh\nfault filter abort",
        ),
        (
            "/uo",
            "503 UO upstream_reset_before_response_started{overflow}\ncontent-length: 81\ncontent-type: text/plain\nx-envoy-attempt-count: 1\nx-envoy-overloaded: true\nx-rc: rc-0-UO\nx-vh: vh\nupstream connect error or disconnect/reset before headers. reset reason: overflow",
        ),
        ("/none", "404 NR route_not_found\ncontent-length: 0"),
    ] {
        let request = driver.get(path);
        golden(path, told(&driver, request), expected);
    }
    driver.close();
}

#[test]
fn grpc_without_an_upstream() {
    let mut driver = driver();
    for (path, expected) in [
        (
            "/uh",
            "200 UH no_healthy_upstream\ncontent-length: 0\ncontent-type: application/grpc\ngrpc-message: no healthy upstream\ngrpc-status: 14\nx-envoy-attempt-count: 1\nx-rc: rc-0-UH\nx-vh: vh",
        ),
        (
            "/nc",
            "200 NC cluster_not_found\ncontent-length: 0\ncontent-type: application/grpc\ngrpc-status: 14\nx-r: r\nx-rc: rc-0-NC\nx-vh: vh",
        ),
        (
            "/fault",
            "200 FI fault_filter_abort\ncontent-length: 0\ncontent-type: application/grpc\ngrpc-message: fault filter abort\ngrpc-status: 2\nx-rc: rc-0-FI\nx-vh: vh",
        ),
    ] {
        let mut head = RequestHead::get("host", path).expect("valid");
        head.method = Method::POST;
        head.headers
            .insert("content-type", "application/grpc".parse().expect("valid"));
        let request = driver.begin(head, true);
        golden(path, told(&driver, request), expected);
    }
}

const RESET: &str = "upstream connect error or disconnect/reset before headers. ";

#[test]
fn upstreams_that_break() {
    let mut driver = driver();
    let request = driver.get("/refused");
    driver.break_off(
        request,
        Broken::RemoteConnectionFailure,
        "delayed connect error: Connection refused",
    );
    golden(
        "/refused",
        told(&driver, request),
        &format!(
            "503 UF upstream_reset_before_response_started{{remote_connection_failure|delayed_connect_error:_Connection_refused}}\ncontent-length: 98\ncontent-type: text/plain\nx-envoy-attempt-count: 1\nx-rc: rc-0-UF\nx-vh: vh\n{RESET}reset reason: remote connection failure"
        ),
    );
    let request = driver.get("/retry");
    for attempt in 1..=3 {
        assert_eq!(driver.requests[request].attempts.len(), attempt);
        driver.break_off(request, Broken::RemoteConnectionFailure, "");
        driver.pass(Duration::from_millis(250));
    }
    golden(
        "/retry",
        told(&driver, request),
        &format!(
            "503 URX,UF upstream_reset_before_response_started{{remote_connection_failure}}\ncontent-length: 121\ncontent-type: text/plain\nx-envoy-attempt-count: 3\nx-rc: rc-0-URX,UF\nx-vh: vh\n{RESET}retried and the latest reset reason: remote connection failure"
        ),
    );
    let request = driver.get("/reset");
    driver.break_off(request, Broken::ConnectionTermination, "");
    golden(
        "/reset",
        told(&driver, request),
        &format!(
            "503 UC upstream_reset_before_response_started{{connection_termination}}\ncontent-length: 95\ncontent-type: text/plain\nx-envoy-attempt-count: 1\nx-rc: rc-0-UC\nx-vh: vh\n{RESET}reset reason: connection termination"
        ),
    );
    driver.close();
}

#[test]
fn upstreams_that_take_too_long() {
    for (path, millis, expected) in [
        (
            "/hang",
            500,
            "504 UT response_timeout\ncontent-length: 24\ncontent-type: text/plain\nx-envoy-attempt-count: 1\nx-rc: rc-0-UT\nx-vh: vh\nupstream request timeout",
        ),
        (
            "/ptry",
            425,
            "504 URX,UT upstream_per_try_timeout\ncontent-length: 24\ncontent-type: text/plain\nx-envoy-attempt-count: 2\nx-rc: rc-0-URX,UT\nx-vh: vh\nupstream request timeout",
        ),
        (
            "/idle",
            300,
            "504 SI stream_idle_timeout\ncontent-length: 14\ncontent-type: text/plain\nx-rc: rc-0-SI\nx-vh: vh\nstream timeout",
        ),
        (
            "/maxd",
            300,
            "504 - max_duration_timeout\ncontent-length: 27\ncontent-type: text/plain\nx-rc: rc-0--\nx-vh: vh\ndownstream duration timeout",
        ),
    ] {
        let mut driver = driver();
        let request = driver.get(path);
        assert!(!driver.requests[request].exchange.is_done());
        driver.pass(Duration::from_millis(millis));
        golden(path, told(&driver, request), expected);
        driver.close();
    }
}

#[test]
fn rate_limits() {
    let mut driver = driver();
    let request = driver.get("/rl");
    driver.answer(request, 200, &[("content-length", "3")], true);
    golden(
        "/rl",
        told(&driver, request),
        "200 - via_upstream\ncontent-length: 3\nx-envoy-attempt-count: 1\nx-envoy-upstream-service-time: 0\nx-ratelimit-limit: 1\nx-ratelimit-remaining: 0\nx-ratelimit-reset: 100\nx-rc: rc-200--\nx-vh: vh",
    );
    let request = driver.get("/rl");
    golden(
        "/rl",
        told(&driver, request),
        "429 RL local_rate_limited\ncontent-length: 18\ncontent-type: text/plain\nx-lrl: true\nx-ratelimit-limit: 1\nx-ratelimit-remaining: 0\nx-ratelimit-reset: 100\nx-rc: rc-0--\nx-vh: vh\nlocal_rate_limited",
    );
}

#[test]
fn cors() {
    let mut driver = driver();
    let ask = |method: Method, origin: &str| {
        let mut head = RequestHead::get("host", "/cors").expect("valid");
        head.headers
            .insert("origin", origin.parse().expect("valid"));
        if method == Method::OPTIONS {
            head.headers.insert(
                "access-control-request-method",
                "GET".parse().expect("valid"),
            );
        }
        head.method = method;
        head
    };
    let request = driver.begin(ask(Method::GET, "http://a"), true);
    driver.answer(request, 200, &[], true);
    golden(
        "GET",
        told(&driver, request),
        "200 - via_upstream\naccess-control-allow-credentials: true\naccess-control-allow-origin: http://a\naccess-control-expose-headers: e\nx-envoy-attempt-count: 1\nx-envoy-upstream-service-time: 0\nx-rc: rc-200--\nx-vh: vh",
    );
    let request = driver.begin(ask(Method::OPTIONS, "http://a"), true);
    golden(
        "OPTIONS",
        told(&driver, request),
        "200 - cors_response\naccess-control-allow-credentials: true\naccess-control-allow-headers: h\naccess-control-allow-methods: GET,POST\naccess-control-allow-origin: http://a\naccess-control-expose-headers: e\naccess-control-max-age: 10\ncontent-length: 0",
    );
    // Another origin's preflight goes on.
    let request = driver.begin(ask(Method::OPTIONS, "http://b"), true);
    assert_eq!(driver.requests[request].attempts.len(), 1);
}

/// The head as it was sent, without the random request identifier.
fn sent(driver: &Driver, request: usize) -> String {
    let head = driver.requests[request].sent.last().expect("sent");
    let mut lines: Vec<String> = head
        .headers
        .iter()
        .filter(|(name, _)| *name != "x-request-id")
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    lines.sort();
    format!(
        "{} {}\nhost: {}\n{}",
        head.method,
        head.path,
        head.authority(),
        lines.join("\n")
    )
}

#[test]
fn requests_as_they_go_upstream() {
    let mut driver = driver();
    for (path, headers, expected) in [
        (
            "/echo/p?q=1",
            &[][..],
            "GET /x/p?q=1\nhost: host\nx-envoy-attempt-count: 1\nx-envoy-original-path: /echo/p?q=1\nx-forwarded-proto: http\nx-mix: a--b\nx-remote: 10.1.0.1:40000",
        ),
        (
            "/auth",
            &[],
            "GET /auth\nhost: other.example\nx-envoy-attempt-count: 1\nx-envoy-expected-rq-timeout-ms: 15000\nx-envoy-original-host: host\nx-forwarded-host: host\nx-forwarded-proto: http",
        ),
        (
            "/rx/abc/def?x=1",
            &[],
            "GET /def/abc?x=1\nhost: host\nx-envoy-attempt-count: 1\nx-envoy-expected-rq-timeout-ms: 15000\nx-envoy-original-path: /rx/abc/def?x=1\nx-forwarded-proto: http",
        ),
        (
            "/mix",
            &[
                ("x-a", "0"),
                ("x-b", "0"),
                ("x-d", "0"),
                ("x-e", "0"),
                ("x-envoy-retry-on", "5xx"),
            ],
            "GET /mix\nhost: host\nx-a: 1\nx-b: 0\nx-d: 0\nx-d: 4\nx-envoy-attempt-count: 1\nx-envoy-expected-rq-timeout-ms: 15000\nx-forwarded-proto: http",
        ),
    ] {
        let mut head = RequestHead::get("host", path).expect("valid");
        for (name, value) in headers {
            head.headers
                .append(HeaderName::from_static(name), value.parse().expect("valid"));
        }
        let request = driver.begin(head, true);
        let id = driver.requests[request].sent[0]
            .headers
            .get("x-request-id")
            .expect("made");
        assert_eq!(id.len(), 36);
        assert_eq!(sent(&driver, request), expected, "{path}");
    }
}

#[test]
fn a_cookie_is_made_as_envoy_makes_it() {
    let mut driver = driver();
    let request = driver.get("/cookie");
    driver.answer(request, 200, &[], true);
    let head = driver.requests[request]
        .forwarded
        .as_ref()
        .expect("passed on");
    let cookie = head.headers["set-cookie"].to_str().expect("text");
    let (value, rest) = cookie.split_once(';').expect("attributes");
    assert_eq!(rest, " Max-Age=60; Path=/p; HttpOnly");
    let digits = value.trim_start_matches("sid=\"").trim_end_matches('"');
    assert_eq!(digits.len(), 16, "{cookie}");
    // The client that sends it back goes to the same host, and gets no other.
    let mut again = RequestHead::get("host", "/cookie").expect("valid");
    again
        .headers
        .insert("cookie", format!("a=b; {value}").parse().expect("valid"));
    let request = driver.begin(again, true);
    driver.answer(request, 200, &[], true);
    assert!(
        !driver.requests[request]
            .forwarded
            .as_ref()
            .expect("passed on")
            .headers
            .contains_key("set-cookie")
    );
    driver.on(request, Event::Time);
}

/// A second run of a real Envoy: faults by header, weighted clusters, mapped replies, what a hop
/// removes.
#[test]
fn odds_and_ends() {
    let fault = |abort: FaultAbort| FilterOverrides {
        fault: Some(Arc::new(FaultPolicy {
            abort: Some(abort),
            ..FaultPolicy::default()
        })),
        ..FilterOverrides::default()
    };
    let mut weighted = RouteForward::new(ClusterSpecifier::Weighted(WeightedClusters {
        clusters: vec![WeightedCluster {
            name: Arc::from("echo"),
            cluster_header: None,
            weight: 1,
            metadata_match: Vec::new(),
            headers: HeaderChanges {
                request_add: vec![overwrites("x-o", "w")],
                response_add: vec![overwrites("x-o", "w")],
                ..HeaderChanges::default()
            },
            filters: FilterOverrides::default(),
            host_rewrite_literal: Some(Arc::from("ww")),
        }],
        random_value_header: None,
    }));
    weighted.host_rewrite = Some(HostRewrite::Literal(Arc::from("rr")));
    let mut split = route("/w", RouteAction::Forward(Box::new(weighted)));
    split.headers.request_add = vec![overwrites("x-o", "r")];
    let host = everything(vec![
        with(
            to("/hdrfault", |_| {}),
            fault(FaultAbort::Header {
                share: Fraction::ALL,
            }),
        ),
        with(
            to("/grpcfault", |_| {}),
            fault(FaultAbort::Grpc {
                status: 5,
                share: Fraction::ALL,
            }),
        ),
        route("/nofwd", RouteAction::NonForwarding),
        split,
        to("/echo", |_| {}),
    ]);
    let mut hcm = hcm();
    hcm.normalize_path = true;
    hcm.merge_slashes = true;
    hcm.filters.insert(
        0,
        HttpFilter::Fault {
            name: Arc::from("fault"),
            policy: Arc::new(FaultPolicy::default()),
        },
    );
    hcm.local_replies = vec![LocalReplyMapper {
        statuses: vec![404],
        flags: Vec::new(),
        status: Some(499),
        body: Some(
            Format::parse("mapped %LOCAL_REPLY_BODY% %RESPONSE_CODE% %RESPONSE_FLAGS%")
                .expect("valid"),
        ),
        content_type: Some(Arc::from("text/x")),
        headers_to_add: vec![adds("x-m", "%RESPONSE_CODE%")],
    }];
    let clusters = vec![cluster("echo", 1)];
    let mut driver = Driver::new(
        snapshot(clusters, crate::world::routes(vec![host])),
        connection(hcm),
        1,
    );
    let mut ask = |path: &str, headers: &[(&'static str, &str)]| {
        let mut head = RequestHead::get("h:1", path).expect("valid");
        for (name, value) in headers {
            head.headers
                .append(HeaderName::from_static(name), value.parse().expect("valid"));
        }
        let request = driver.begin(head, true);
        if driver.requests[request].replies.is_empty() {
            let seen = sent(&driver, request);
            driver.answer(request, 200, &[], true);
            return seen;
        }
        told(&driver, request)
    };
    let text = "content-length: 18\ncontent-type: text/plain\nfault filter abort";
    for (path, headers, expected) in [
        (
            "/hdrfault",
            &[("x-envoy-fault-abort-request", "418")][..],
            format!("418 FI fault_filter_abort\n{text}"),
        ),
        (
            "/hdrfault",
            &[("x-envoy-fault-abort-grpc-request", "7")],
            format!("200 FI fault_filter_abort\n{text}"),
        ),
        ("/grpcfault", &[], format!("200 FI fault_filter_abort\n{text}")),
        (
            "/nofwd",
            &[],
            "503 NC cluster_not_found\ncontent-length: 0".to_owned(),
        ),
        (
            "/nope",
            &[],
            "499 NR route_not_found\ncontent-length: 14\ncontent-type: text/x\nx-m: 404\nmapped  499 NR"
                .to_owned(),
        ),
        (
            "/w",
            &[],
            "GET /w\nhost: rr\nx-envoy-expected-rq-timeout-ms: 15000\nx-envoy-original-host: ww\nx-forwarded-proto: http\nx-o: r"
                .to_owned(),
        ),
        (
            "/a/../echo//x/./y%2e%2e?z=/../",
            &[],
            "GET /echo/x/y..?z=/../\nhost: h:1\nx-envoy-expected-rq-timeout-ms: 15000\nx-forwarded-proto: http"
                .to_owned(),
        ),
        (
            "/echo",
            &[
                ("te", "gzip, trailers"),
                ("keep-alive", "1"),
                ("x-envoy-internal", "true"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-envoy-upstream-rq-timeout-ms", "1"),
                ("x-envoy-max-retries", "3"),
            ],
            "GET /echo\nhost: h:1\nte: trailers\nx-envoy-expected-rq-timeout-ms: 15000\nx-forwarded-for: 1.2.3.4\nx-forwarded-proto: http"
                .to_owned(),
        ),
    ] {
        assert_eq!(ask(path, headers).trim_end(), expected, "{path}");
    }
}

fn overwrites(name: &str, value: &str) -> HeaderAddition {
    HeaderAddition::new(name, value, AppendAction::OverwriteIfExistsOrAdd).expect("valid")
}
