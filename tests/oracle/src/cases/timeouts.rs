//! Timeouts of routes, tries and idle streams.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::shape::{cluster, one_route};

const GROUP: &str = "timeout";

/// One request; how long it took is compared too.
fn timed(name: &str, action: Value, request: Request) -> Case {
    Case::new(
        GROUP,
        name,
        1,
        move |place| {
            one_route(
                place,
                action.clone(),
                cluster(place, "a", &place.hosts, json!({})),
            )
        },
        move |stand| {
            let request = request.clone();
            async move {
                let response = stand.send(0, &request).await?;
                Ok(Observation {
                    exact: json!({
                        "response": response.json(),
                        "log": stand.log(0).await?,
                        "attempts": stand.attempts(0).len(),
                        "counters": stand.counters("a", &["upstream_rq_timeout", "upstream_rq_per_try_timeout"]).await?,
                    }),
                    times: BTreeMap::from([(
                        "answered".to_owned(),
                        stand.least_time(&request, response.took).await?,
                    )]),
                    ..Observation::default()
                })
            }
        },
    )
}

pub fn cases() -> Vec<Case> {
    let slow = || Request::get("/").plan("*=200+after:1500");
    let hanging = || Request::get("/").plan("*=hang");
    let retried = |tries: u32, per_try: &str| {
        json!({ "timeout": "1.5s", "retry_policy": {
            "retry_on": "5xx", "num_retries": tries, "per_try_timeout": per_try } })
    };
    vec![
        timed("route", json!({ "timeout": "0.3s" }), slow()),
        timed(
            "route, in time",
            json!({ "timeout": "5s" }),
            Request::get("/").plan("*=200+after:200"),
        ),
        timed("none", json!({ "timeout": "0s" }), slow()),
        timed(
            "by the client",
            json!({ "timeout": "5s" }),
            slow().header("x-envoy-upstream-rq-timeout-ms", "250"),
        ),
        timed(
            "expected by the client",
            json!({ "timeout": "1s" }),
            Request::get("/").header("x-envoy-expected-rq-timeout-ms", "77"),
        ),
        timed("of each try", retried(2, "0.2s"), hanging()),
        timed(
            "of a first try",
            retried(2, "0.3s"),
            Request::get("/").plan("*=hang,200"),
        ),
        timed("of tries and route", retried(20, "0.4s"), hanging()),
        timed("of each try, of one", retried(0, "0.2s"), hanging()),
        timed(
            "idle",
            json!({ "timeout": "0s", "idle_timeout": "0.3s" }),
            hanging(),
        ),
    ]
}
