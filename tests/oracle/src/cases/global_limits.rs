//! The global rate limit: what the service is asked, and what its answer, its failure or its absence does.

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, filter, http, http2, merged};

const GROUP: &str = "global limit";
const NAME: &str = "envoy.filters.http.ratelimit";
const TYPE: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";

/// The first host is the server, the second the service.
fn limited(
    settings: Value,
    limits: Value,
    service: fn(&Place) -> std::net::SocketAddr,
) -> impl Fn(&Place) -> Resources + Send + Sync + 'static {
    move |place| {
        let base = json!({
            "domain": "oracle",
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": { "envoy_grpc": { "cluster_name": place.cluster("limits") }, "timeout": "1s" },
            },
            "timeout": "1s",
        });
        let route = json!({ "match": { "prefix": "/" },
            "route": { "cluster": place.cluster("a"), "rate_limits": limits } });
        let filters = vec![filter(NAME, TYPE, merged(base, settings.clone()))];
        Resources {
            listeners: vec![http(place, any_host(json!([route])), filters, json!({}))],
            clusters: vec![
                cluster(place, "a", &place.hosts[..1], json!({})),
                cluster(place, "limits", &[service(place)], http2()),
            ],
            ..Resources::default()
        }
    }
}

/// The key, so that what was asked is found, and what the request says of the limit.
fn usual() -> Value {
    json!([{ "actions": [header("x-key", "key"), header("x-limit", "limit")] }])
}

fn header(name: &str, key: &str) -> Value {
    json!({ "request_headers": { "header_name": name, "descriptor_key": key } })
}

fn case(
    name: &str,
    settings: Value,
    limits: Value,
    service: fn(&Place) -> std::net::SocketAddr,
    requests: Vec<Request>,
) -> Case {
    Case::new(
        GROUP,
        name,
        2,
        limited(settings, limits, service),
        move |stand| {
            let requests = requests.clone();
            async move {
                let mut list = Vec::new();
                for (number, request) in requests.iter().enumerate() {
                    let response = stand.send(number, request).await?;
                    list.push(json!({
                        "response": response.json(),
                        "asked and sent": stand.seen_as(number, false),
                        "log": stand.log(number).await?,
                    }));
                }
                let names = [
                    "ratelimit.ok",
                    "ratelimit.over_limit",
                    "ratelimit.error",
                    "ratelimit.failure_mode_allowed",
                ];
                Ok(Observation {
                    exact: json!({ "exchanges": list, "counters": stand.counters("a", &names).await? }),
                    ..Observation::default()
                })
            }
        },
    )
}

pub fn cases() -> Vec<Case> {
    let of = |limit: &str| Request::get("/").header("x-limit", limit);
    let there: fn(&Place) -> std::net::SocketAddr = |place| place.hosts[1];
    let dead: fn(&Place) -> std::net::SocketAddr = |place| place.dead;
    let three = vec![of("within"), of("over"), of("within")];
    vec![
        case("within and over", json!({}), usual(), there, three.clone()),
        case(
            "over, with the service's body",
            json!({}),
            json!([{ "actions": [header("x-key", "key"), header("x-limit", "limit"), header("x-body", "body")] }]),
            there,
            vec![of("over").header("x-body", "yes")],
        ),
        case(
            "no such header",
            json!({}),
            usual(),
            there,
            vec![Request::get("/")],
        ),
        case(
            "several descriptors",
            json!({}),
            json!([
                { "actions": [header("x-key", "key"), { "generic_key": { "descriptor_value": "one" } }] },
                { "actions": [{ "remote_address": {} }, header("x-limit", "limit")] },
                { "actions": [{ "header_value_match": { "descriptor_value": "posts", "expect_match": true,
                    "headers": [{ "name": ":method", "string_match": { "exact": "POST" } }] } }] },
                { "actions": [{ "destination_cluster": {} }] },
            ]),
            there,
            vec![of("within"), of("over").method("POST").body("x")],
        ),
        case(
            "another status",
            json!({ "rate_limited_status": { "code": "ServiceUnavailable" } }),
            usual(),
            there,
            vec![of("over")],
        ),
        case(
            "a service that fails",
            json!({}),
            usual(),
            there,
            vec![of("broken")],
        ),
        case(
            "a service that fails, which denies",
            json!({ "failure_mode_deny": true }),
            usual(),
            there,
            vec![of("broken")],
        ),
        case("no service", json!({}), usual(), dead, vec![of("over")]),
        case(
            "no service, which denies",
            json!({ "failure_mode_deny": true }),
            usual(),
            dead,
            vec![of("within")],
        ),
        case(
            "without the header for it",
            json!({ "disable_x_envoy_ratelimited_header": true }),
            usual(),
            there,
            vec![of("over")],
        ),
    ]
}
