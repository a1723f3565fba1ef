//! Local rate limits.

use std::time::Duration;

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, filter, http, merged, typed};

const GROUP: &str = "limit";
const NAME: &str = "envoy.filters.http.local_ratelimit";
const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

fn limited(settings: Value) -> impl Fn(&Place) -> Resources + Send + Sync + 'static {
    move |place| {
        let all = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
        let base =
            json!({ "stat_prefix": "limited", "filter_enabled": all, "filter_enforced": all });
        let routes = json!([
            { "match": { "prefix": "/free" }, "route": { "cluster": place.cluster("a") } },
            { "match": { "prefix": "/" }, "route": { "cluster": place.cluster("a") },
              "typed_per_filter_config": { NAME: typed(TYPE, merged(base.clone(), settings.clone())) } }]);
        let filters = vec![filter(NAME, TYPE, json!({ "stat_prefix": "all" }))];
        Resources {
            listeners: vec![http(place, any_host(routes), filters, json!({}))],
            clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
            ..Resources::default()
        }
    }
}

fn bucket(tokens: u32, fill: u32, interval: &str) -> Value {
    json!({ "token_bucket": { "max_tokens": tokens, "tokens_per_fill": fill, "fill_interval": interval } })
}

pub fn cases() -> Vec<Case> {
    let many = |target: &str, count: usize| vec![Request::get(target); count];
    let mut mixed = many("/", 4);
    mixed.extend(many("/free", 2));
    vec![
        Case::exchanges(GROUP, "three", 1, limited(bucket(3, 3, "60s")), mixed),
        Case::exchanges(
            GROUP,
            "three, with headers",
            1,
            limited(merged(
                bucket(3, 3, "60s"),
                json!({ "response_headers_to_add": [{ "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    "header": { "key": "x-limited", "value": "yes" } }] }),
            )),
            many("/", 5),
        ),
        Case::exchanges(
            GROUP,
            "another status",
            1,
            limited(merged(
                bucket(1, 1, "60s"),
                json!({ "status": { "code": 503 } }),
            )),
            many("/", 2),
        ),
        Case::exchanges(
            GROUP,
            "of gRPC",
            1,
            limited(bucket(1, 1, "60s")),
            vec![
                Request::get("/")
                    .method("POST")
                    .header("content-type", "application/grpc");
                2
            ],
        ),
        Case::exchanges(
            GROUP,
            "seen and not enforced",
            1,
            limited(merged(
                bucket(1, 1, "60s"),
                json!({ "filter_enforced": { "default_value": { "numerator": 0, "denominator": "HUNDRED" } } }),
            )),
            many("/", 3),
        ),
        Case::new(
            GROUP,
            "refilled",
            1,
            limited(bucket(2, 1, "0.5s")),
            |stand| async move {
                let mut passed = Vec::new();
                let mut number = 0;
                for _ in 0..4 {
                    let mut count = 0;
                    for _ in 0..4 {
                        let response = stand.send(number, &Request::get("/")).await?;
                        count += usize::from(response.status == 200);
                        number += 1;
                    }
                    passed.push(count);
                    // One token more, well away from its moment.
                    tokio::time::sleep(Duration::from_millis(620)).await;
                }
                Ok(Observation {
                    exact: json!(passed),
                    ..Observation::default()
                })
            },
        ),
    ]
}
