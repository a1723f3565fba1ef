//! Limits on connections, requests and those that wait, and what happens beyond.

use std::time::Duration;

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::shape::{cluster, merged, one_route};

const GROUP: &str = "breaker";
/// Requests are sent this far apart, so that their order is known.
const APART: Duration = Duration::from_millis(40);

const COUNTERS: &[&str] = &[
    "upstream_rq_pending_overflow",
    "upstream_cx_overflow",
    "upstream_rq_total",
    "upstream_rq_retry_overflow",
];

const GAUGES: &[&str] = &[
    "circuit_breakers.default.cx_open",
    "circuit_breakers.default.rq_open",
    "circuit_breakers.default.rq_pending_open",
];

/// So many slow requests, one shortly after the other; what became of each, and the counters.
fn case(name: &str, thresholds: Value, extra: Value, count: usize, priority: &'static str) -> Case {
    Case::new(
        GROUP,
        name,
        1,
        move |place| {
            let limits = json!({ "circuit_breakers": { "thresholds": thresholds } });
            let action = json!({ "priority": priority });
            one_route(
                place,
                action,
                cluster(place, "a", &place.hosts, merged(limits, extra.clone())),
            )
        },
        move |stand| async move {
            let slow = Request::get("/").plan("*=200+after:2500");
            let mut sent = Vec::new();
            for number in 0..count {
                let (stand, slow) = (stand.clone(), slow.clone());
                sent.push(tokio::spawn(async move { stand.send(number, &slow).await }));
                tokio::time::sleep(APART).await;
            }
            let during = stand.counters("a", GAUGES).await?;
            let mut answers = Vec::new();
            for (number, one) in sent.into_iter().enumerate() {
                let response = one.await??;
                answers
                    .push(json!({ "response": response.json(), "log": stand.log(number).await? }));
            }
            let after = stand.send(count, &Request::get("/")).await?;
            Ok(Observation {
                exact: json!({
                    "answers": answers,
                    "during": during,
                    "after": after.status,
                    "counters": stand.counters("a", COUNTERS).await?,
                    "at rest": stand.counters("a", GAUGES).await?,
                }),
                ..Observation::default()
            })
        },
    )
}

pub fn cases() -> Vec<Case> {
    let one_at_a_time = || json!({ "max_connections": 1, "max_pending_requests": 1 });
    let once = |limits: Value| json!([limits]);
    vec![
        case(
            "one connection, one waits",
            once(one_at_a_time()),
            json!({}),
            5,
            "DEFAULT",
        ),
        case(
            "one connection, nobody waits",
            once(json!({ "max_connections": 1, "max_pending_requests": 0 })),
            json!({}),
            3,
            "DEFAULT",
        ),
        case(
            "two connections, two wait",
            once(json!({ "max_connections": 2, "max_pending_requests": 2 })),
            json!({}),
            7,
            "DEFAULT",
        ),
        case(
            "three requests",
            once(json!({ "max_requests": 3 })),
            json!({}),
            6,
            "DEFAULT",
        ),
        case(
            "no request",
            once(json!({ "max_requests": 0 })),
            json!({}),
            2,
            "DEFAULT",
        ),
        case(
            "of high priority",
            json!([merged(one_at_a_time(), json!({ "priority": "HIGH" }))]),
            json!({}),
            5,
            "HIGH",
        ),
        case(
            "of high priority, asked by default",
            json!([merged(one_at_a_time(), json!({ "priority": "HIGH" }))]),
            json!({}),
            5,
            "DEFAULT",
        ),
        case(
            "as the slides have it",
            once(one_at_a_time()),
            json!({ "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": crate::shape::typed(
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    json!({ "common_http_protocol_options": { "max_requests_per_connection": 1 },
                        "explicit_http_config": { "http_protocol_options": {} } })) } }),
            4,
            "DEFAULT",
        ),
        case("no limits", json!([]), json!({}), 8, "DEFAULT"),
    ]
}
