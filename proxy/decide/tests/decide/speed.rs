//! What a decision costs. The figures are printed; the bound only catches a mistake of an order
//! of magnitude, on any machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::balance::Choice;
use trireme_proxy_decide::config::{
    Cluster, HeaderMatch, HeaderMatcher, LbPolicy, LeastRequest, OutlierDetection, Priority,
    RetryOn, RetryPolicy, RouteAction, StringMatch, StringMatcher,
};
use trireme_proxy_decide::exchange::{Context, Effect, Event, Exchange, ResponseHead};
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::upstream::{Admission, Live, PoolView, admit};

use crate::world::{cluster, connection, everything, forward, hcm, rng, route, routes, snapshot};

/// Each batch is a millisecond or so: the fastest was not interrupted, whatever else the machine
/// does.
const BATCHES: u32 = 50;
const BATCH: u32 = 1_000;

fn measure(what: &str, mut work: impl FnMut()) -> f64 {
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..BATCH {
            work();
        }
        start.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    batch();
    let each = (0..BATCHES).map(|_| batch()).fold(f64::INFINITY, f64::min);
    println!("{what}: {each:.0} ns");
    each
}

/// Ten routes of which the last matches, least request over ten hosts, limits and outlier
/// detection on, two retries possible: from head to end of the response.
#[test]
fn a_request_costs_microseconds_at_most() {
    let mut all = Vec::new();
    for index in 0..9 {
        let mut other = route("/", RouteAction::Forward(Box::new(forward("other"))));
        other.matches.headers = vec![HeaderMatcher::new(
            "x-version",
            HeaderMatch::String(StringMatcher {
                pattern: StringMatch::Exact(Arc::from(format!("v{index}"))),
                ignore_case: false,
            }),
        )];
        all.push(other);
    }
    let mut action = forward("c");
    action.retry_policy = Some(Arc::new(RetryPolicy {
        retry_on: RetryOn::parse_any("connect-failure,refused-stream,unavailable,cancelled"),
        num_retries: 2,
        avoid_previous_hosts: true,
        host_selection_max_attempts: 5,
        ..RetryPolicy::default()
    }));
    all.push(route("/", RouteAction::Forward(Box::new(action))));
    let config = Cluster {
        lb: LbPolicy::LeastRequest(LeastRequest::default()),
        outlier: Some(OutlierDetection::default()),
        ..cluster("c", 10)
    };
    let live = Live::new(
        snapshot(vec![config], routes(vec![everything(all)])),
        Nanos::ZERO,
    );
    let connection = connection(hcm());
    let faults = Arc::default();
    let mut rng = rng(1);
    let mut head = RequestHead::get("reviews:9080", "/reviews/1?x=y").expect("valid");
    for (name, value) in [
        ("user-agent", "curl/8"),
        ("accept", "*/*"),
        ("x-version", "v9"),
        ("x-request-id", "6f1b9a52-0000-4000-8000-000000000000"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let mut effects = Vec::new();
    let cluster = live.cluster("c", Nanos::ZERO).expect("there").clone();
    let pool = PoolView {
        ready: true,
        ..PoolView::default()
    };
    let clone = measure("cloning a request's head", || {
        std::hint::black_box(head.clone());
    });
    let whole = measure("a whole request, its head cloned once", || {
        let mut context = Context {
            live: &live,
            now: Nanos::ZERO,
            unix_nanos: 0,
            rng: &mut rng,
            service_cluster: "",
            faults: &faults,
        };
        let mut exchange =
            Exchange::begin(&connection, head.clone(), true, &mut context, &mut effects);
        let Some(Effect::Attempt(attempt)) = effects.pop() else {
            panic!("an attempt");
        };
        let Admission::Attach(lease) = admit(&cluster, &attempt.host, Priority::Default, pool)
        else {
            panic!("a ready connection");
        };
        exchange.on(Event::Attached(lease), &mut context, &mut effects);
        std::hint::black_box(exchange.deadline());
        let mut answer = ResponseHead {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
        };
        exchange.on(
            Event::Head {
                head: &mut answer,
                end: true,
            },
            &mut context,
            &mut effects,
        );
        effects.clear();
        assert!(exchange.is_done());
    });
    let choose = measure("choosing a host of ten, least request", || {
        std::hint::black_box(cluster.choose(&Choice::default(), Nanos::ZERO, &mut rng));
    });
    println!("decisions alone: {:.0} ns", whole - clone);
    let bound = Duration::from_micros(100).as_nanos() as f64;
    assert!(whole < bound && choose < bound);
}

/// Ten thousand endpoints as configuration take about a megabyte.
#[test]
fn endpoints_are_compact() {
    let each = size_of::<trireme_proxy_decide::config::Endpoint>();
    println!("an endpoint: {each} bytes");
    assert!(each * 10_000 <= 1_500_000);
}
