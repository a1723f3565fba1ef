//! Retries: every condition against every way to fail, then limits, hosts, budgets and pauses.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::case::{Case, Observation, milliseconds};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, assigned, cluster, endpoint, merged, one_route};

const GROUP: &str = "retry";
/// Beyond the pauses between tries themselves.
const SLACK_MS: f64 = 60.0;

const COUNTERS: &[&str] = &[
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_total",
];

/// What the servers do, and what the client says.
fn behaviours() -> Vec<(&'static str, Request)> {
    let plan = |plan: &str| Request::get("/r").plan(plan);
    let grpc = |status: &str| {
        plan(&format!(
            "*=200+content-type:application/grpc+grpc-status:{status}"
        ))
        .method("POST")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
    };
    vec![
        ("500", plan("*=500")),
        ("503 once", plan("*=503,200")),
        ("504", plan("*=504")),
        ("409", plan("*=409")),
        ("418", plan("*=418")),
        ("429", plan("*=429")),
        ("a header", plan("*=200+x-again:yes")),
        ("a reset", plan("*=reset")),
        ("half a body", plan("*=half")),
        ("limited", plan("*=503+x-envoy-ratelimited:true")),
        ("gRPC unavailable", grpc("14")),
    ]
}

fn conditions() -> Vec<(&'static str, Value)> {
    vec![
        ("5xx", json!({ "retry_on": "5xx" })),
        ("gateway-error", json!({ "retry_on": "gateway-error" })),
        ("reset", json!({ "retry_on": "reset" })),
        (
            "reset-before-request",
            json!({ "retry_on": "reset-before-request" }),
        ),
        ("connect-failure", json!({ "retry_on": "connect-failure" })),
        ("retriable-4xx", json!({ "retry_on": "retriable-4xx" })),
        (
            "retriable-status-codes",
            json!({ "retry_on": "retriable-status-codes", "retriable_status_codes": [418, 500] }),
        ),
        (
            "retriable-headers",
            json!({ "retry_on": "retriable-headers", "retriable_headers": [
                { "name": "x-again", "string_match": { "exact": "yes" } }] }),
        ),
        (
            "envoy-ratelimited",
            json!({ "retry_on": "envoy-ratelimited" }),
        ),
        (
            "unavailable",
            json!({ "retry_on": "unavailable,cancelled" }),
        ),
        (
            "Istio's own",
            json!({ "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "retriable_status_codes": [503] }),
        ),
    ]
}

fn retried(place: &Place, policy: &Value, extra: &Value) -> Resources {
    let policy = merged(json!({ "num_retries": 2 }), policy.clone());
    let action = json!({ "retry_policy": policy, "timeout": "5s" });
    one_route(
        place,
        action,
        cluster(place, "a", &place.hosts, extra.clone()),
    )
}

/// One request; its answer, its log, how often it was tried and the counters are compared.
fn case(name: String, hosts: usize, policy: Value, extra: Value, request: Request) -> Case {
    Case::new(
        GROUP,
        name,
        hosts,
        move |place| retried(place, &policy, &extra),
        move |stand| {
            let request = request.clone();
            async move {
                let response = stand.send(0, &request).await?;
                let hosts: Vec<usize> = stand.attempts(0).iter().map(|one| one.host).collect();
                Ok(Observation {
                    exact: json!({
                        "response": response.json(),
                        "log": stand.log(0).await?,
                        "upstream": stand.seen(0),
                        "tried": hosts.len(),
                        "counters": stand.counters("a", COUNTERS).await?,
                    }),
                    ..Observation::default()
                })
            }
        },
    )
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (condition, policy) in conditions() {
        for (behaviour, request) in behaviours() {
            let name = format!("{condition} on {behaviour}");
            cases.push(case(name, 1, policy.clone(), json!({}), request));
        }
    }
    let failing = || Request::get("/r").plan("*=503");
    let on_5xx = |retries: u32| json!({ "retry_on": "5xx", "num_retries": retries });
    for retries in [0, 1, 3] {
        cases.push(case(
            format!("{retries} times"),
            1,
            on_5xx(retries),
            json!({}),
            failing(),
        ));
    }
    cases.push(case(
        "asked for by the client".to_owned(),
        1,
        json!({ "retry_on": "" }),
        json!({}),
        failing()
            .header("x-envoy-retry-on", "5xx")
            .header("x-envoy-max-retries", "3"),
    ));
    cases.push(case(
        "with a body".to_owned(),
        1,
        on_5xx(2),
        json!({}),
        failing().method("POST").body("sent with every try"),
    ));
    cases.push(dead());
    cases.push(other_hosts());
    cases.push(pauses("pauses", json!({}), 25.0, 250.0));
    cases.push(pauses(
        "pauses as configured",
        json!({ "retry_back_off": { "base_interval": "0.05s", "max_interval": "0.1s" } }),
        50.0,
        100.0,
    ));
    cases.push(budget(
        "budget of retries",
        json!({ "max_retries": 2, "track_remaining": true }),
    ));
    cases.push(budget(
        "budget by share",
        json!({ "retry_budget": { "budget_percent": { "value": 20.0 }, "min_retry_concurrency": 3 } }),
    ));
    cases
}

/// Nobody listens.
fn dead() -> Case {
    Case::new(
        GROUP,
        "connect-failure on a dead port",
        0,
        |place| {
            let policy = json!({ "retry_on": "connect-failure", "num_retries": 2 });
            one_route(
                place,
                json!({ "retry_policy": policy }),
                cluster(place, "a", &[place.dead], json!({})),
            )
        },
        |stand| async move {
            let mut response = stand.send(0, &Request::get("/")).await?;
            // The system's words for a refused connection differ.
            response.body = response
                .body
                .split(':')
                .next()
                .unwrap_or_default()
                .to_owned();
            response
                .headers
                .retain(|(name, _)| name != "content-length");
            Ok(Observation {
                exact: json!({
                    "response": response.json(),
                    "log": stand.log(0).await?,
                    "counters": stand.counters("a", COUNTERS).await?,
                }),
                ..Observation::default()
            })
        },
    )
}

/// With the predicate of previous hosts no host is tried twice while there is another.
fn other_hosts() -> Case {
    Case::new(
        GROUP,
        "never on a host already tried",
        4,
        |place| {
            let predicate = crate::shape::typed(
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                json!({}),
            );
            let policy = json!({
                "retry_on": "5xx", "num_retries": 3, "host_selection_retry_max_attempts": 50,
                "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": predicate }],
            });
            let endpoints: Vec<Value> = place
                .hosts
                .iter()
                .map(|at| endpoint(*at, json!({})))
                .collect();
            one_route(
                place,
                json!({ "retry_policy": policy }),
                assigned(
                    place,
                    "a",
                    json!([{ "lb_endpoints": endpoints }]),
                    json!({ "lb_policy": "RANDOM" }),
                ),
            )
        },
        |stand| async move {
            const ROUNDS: usize = 40;
            for number in 0..ROUNDS {
                let response = stand.send(number, &Request::get("/").plan("*=503")).await?;
                ensure!(response.status == 503, "answered {}", response.status);
                let mut hosts: Vec<usize> =
                    stand.attempts(number).iter().map(|one| one.host).collect();
                ensure!(hosts.len() == 4, "tried {hosts:?}");
                hosts.sort_unstable();
                hosts.dedup();
                ensure!(hosts.len() == 4, "a host was tried twice");
            }
            Ok(Observation::default())
        },
    )
}

/// Between tries: at most base·2^(n-1) and never more than the maximum, drawn evenly from nothing up.
fn pauses(name: &str, extra: Value, base_ms: f64, max_ms: f64) -> Case {
    Case::new(
        GROUP,
        name,
        1,
        move |place| {
            let policy = merged(
                json!({ "retry_on": "5xx", "num_retries": 4 }),
                extra.clone(),
            );
            retried(place, &policy, &json!({}))
        },
        move |stand| async move {
            const ROUNDS: usize = 25;
            let mut means = [0.0; 4];
            let mut late = 0;
            for number in 0..ROUNDS {
                stand.send(number, &Request::get("/").plan("*=503")).await?;
                let attempts = stand.attempts(number);
                ensure!(attempts.len() == 5, "tried {} times", attempts.len());
                let mut limit = base_ms;
                for (pair, mean) in attempts.windows(2).zip(&mut means) {
                    let pause = milliseconds(pair[1].at - pair[0].at);
                    late += usize::from(pause > limit.min(max_ms) + SLACK_MS);
                    *mean += pause / 25.0;
                    limit *= 2.0;
                }
            }
            // A busy machine may hold a few of the hundred up; a wrong rule would hold up most.
            ensure!(
                late <= 15,
                "{late} of 100 pauses were longer than they may be"
            );
            // Of 25 draws the mean strays by a third of its limit once in ten thousand.
            let mut times = BTreeMap::new();
            let mut limit = base_ms;
            for (index, mean) in means.iter().enumerate() {
                let own = limit.min(max_ms);
                times.insert(
                    format!("mean pause {}", index + 1),
                    (*mean, own / 3.0 + 40.0),
                );
                limit *= 2.0;
            }
            Ok(Observation {
                times,
                ..Observation::default()
            })
        },
    )
}

/// Many at once may not retry more than the budget allows.
fn budget(name: &str, thresholds: Value) -> Case {
    Case::new(
        GROUP,
        name,
        1,
        move |place| {
            let policy = json!({ "retry_on": "5xx", "num_retries": 1,
                "retry_back_off": { "base_interval": "0.001s", "max_interval": "0.001s" } });
            let extra = json!({ "circuit_breakers": { "thresholds": [thresholds] } });
            retried(place, &policy, &extra)
        },
        |stand| async move {
            // All first tries fail together; the retries hang long enough to be counted together.
            let request = Request::get("/").plan("*=503+after:400,503+after:800");
            let responses = stand.at_once(0, 20, &request).await?;
            let tried: usize = (0..20).map(|number| stand.attempts(number).len()).sum();
            let failed = responses.iter().filter(|one| one.status == 503).count();
            #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
            let tried = tried as f64;
            Ok(Observation {
                exact: json!({ "failed": failed }),
                // Which of those that fail at one moment is seen first makes one more or less.
                times: BTreeMap::from([("tried".to_owned(), (tried, 1.0))]),
                ..Observation::default()
            })
        },
    )
}
