//! Delays and aborts on purpose.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, filter, http, merged, typed};

const GROUP: &str = "fault";
const NAME: &str = "envoy.filters.http.fault";
const TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

fn percent(numerator: u32) -> Value {
    json!({ "percentage": { "numerator": numerator, "denominator": "HUNDRED" } })
}

/// As Istio does it: an empty filter for all, the fault at the route.
fn at_route(fault: Value) -> impl Fn(&Place) -> Resources + Send + Sync + 'static {
    move |place| {
        let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": place.cluster("a") },
            "typed_per_filter_config": { NAME: typed(TYPE, fault.clone()) } }]);
        Resources {
            listeners: vec![http(
                place,
                any_host(routes),
                vec![filter(NAME, TYPE, json!({}))],
                json!({}),
            )],
            clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
            ..Resources::default()
        }
    }
}

fn timed(name: &str, fault: Value, request: Request) -> Case {
    Case::new(GROUP, name, 1, at_route(fault), move |stand| {
        let request = request.clone();
        async move {
            let response = stand.send(0, &request).await?;
            Ok(Observation {
                exact: json!({ "response": response.json(), "log": stand.log(0).await?,
                    "upstream": stand.seen(0) }),
                times: BTreeMap::from([(
                    "answered".to_owned(),
                    stand.least_time(&request, response.took).await?,
                )]),
                ..Observation::default()
            })
        }
    })
}

/// How many of many are aborted, and how many delayed, by the flags in the log.
fn drawn(name: &str, fault: Value, shares: &[(&'static str, f64)]) -> Case {
    Case::new(GROUP, name, 1, at_route(fault), |stand| async move {
        const COUNT: usize = 800;
        /// Together, so that delays cost little time.
        const TOGETHER: usize = 20;
        let mut sample = BTreeMap::new();
        for first in (0..COUNT).step_by(TOGETHER) {
            stand.at_once(first, TOGETHER, &Request::get("/")).await?;
        }
        for number in 0..COUNT {
            let log = stand.log(number).await?;
            let text = |field: &str| log[field].as_str().unwrap_or("?").to_owned();
            let class = format!("{} {}", text("code"), text("flags"));
            *sample.entry(class).or_insert(0) += 1;
        }
        Ok(Observation {
            samples: BTreeMap::from([("drawn".to_owned(), sample)]),
            ..Observation::default()
        })
    })
    .expecting("drawn", shares)
}

pub fn cases() -> Vec<Case> {
    let abort = |status: u32, share: u32| json!({ "abort": merged(json!({ "http_status": status }), percent(share)) });
    let delay = |text: &str, share: u32| json!({ "delay": merged(json!({ "fixed_delay": text }), percent(share)) });
    let plain = || Request::get("/");
    vec![
        timed("abort", abort(418, 100), plain()),
        timed("abort of none", abort(418, 0), plain()),
        timed("delay", delay("0.3s", 100), plain()),
        timed("delay of none", delay("0.3s", 0), plain()),
        timed(
            "delay and abort",
            merged(delay("0.2s", 100), abort(500, 100)),
            plain(),
        ),
        timed(
            "abort of gRPC",
            json!({ "abort": merged(json!({ "grpc_status": 14 }), percent(100)) }),
            plain()
                .method("POST")
                .header("content-type", "application/grpc"),
        ),
        timed(
            "abort by a header, matched",
            merged(
                abort(501, 100),
                json!({ "headers": [{ "name": "x-who", "string_match": { "exact": "jason" } }] }),
            ),
            plain().header("x-who", "jason"),
        ),
        timed(
            "abort by a header, not matched",
            merged(
                abort(501, 100),
                json!({ "headers": [{ "name": "x-who", "string_match": { "exact": "jason" } }] }),
            ),
            plain().header("x-who", "else"),
        ),
        drawn(
            "abort of 30 percent",
            abort(503, 30),
            &[("200 -", 0.7), ("503 FI", 0.3)],
        ),
        drawn(
            "delay of 10 percent",
            delay("0.06s", 10),
            &[("200 -", 0.9), ("200 DI", 0.1)],
        ),
        drawn(
            "delay and abort, each of 30 percent",
            merged(delay("0.06s", 30), abort(503, 30)),
            &[
                ("200 -", 0.49),
                ("200 DI", 0.21),
                ("503 FI", 0.21),
                ("503 DI,FI", 0.09),
            ],
        ),
    ]
}
