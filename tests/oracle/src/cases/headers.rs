//! Header changes at every level, CORS, mirroring.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Observation, Stand};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, filter, http, merged};

const GROUP: &str = "headers";

fn add(name: &str, value: &str, action: &str) -> Value {
    json!({ "header": { "key": name, "value": value }, "append_action": action })
}

/// One server; `route` and `host` are merged into the route and its virtual host.
fn configured(place: &Place, route: &Value, host: &Value, configuration: &Value) -> Resources {
    let base = json!({ "match": { "prefix": "/" }, "route": { "cluster": place.cluster("a") } });
    let mut hosts = any_host(json!([merged(base, route.clone())]));
    hosts[0] = merged(hosts[0].clone(), host.clone());
    let manager = json!({ "route_config": configuration });
    Resources {
        listeners: vec![http(place, hosts, vec![], manager)],
        clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
        ..Resources::default()
    }
}

fn case(
    name: &str,
    route: Value,
    host: Value,
    configuration: Value,
    requests: Vec<Request>,
) -> Case {
    Case::exchanges(
        GROUP,
        name,
        1,
        move |place| configured(place, &route, &host, &configuration),
        requests,
    )
}

pub fn cases() -> Vec<Case> {
    let plain = || Request::get("/p?q=1");
    let with = || plain().header("x-a", "sent");
    let both = || vec![plain(), with()];
    let none = || json!({});
    let mut cases = Vec::new();
    for action in [
        "APPEND_IF_EXISTS_OR_ADD",
        "ADD_IF_ABSENT",
        "OVERWRITE_IF_EXISTS_OR_ADD",
        "OVERWRITE_IF_EXISTS",
    ] {
        let change = json!({ "request_headers_to_add": [add("x-a", "added", action)] });
        cases.push(case(
            &format!("request {action}"),
            change,
            none(),
            none(),
            both(),
        ));
        let change = json!({ "response_headers_to_add": [add("x-a", "added", action)] });
        let answers = vec![plain().plan("*=200"), plain().plan("*=200+x-a:own")];
        cases.push(case(
            &format!("response {action}"),
            change,
            none(),
            none(),
            answers,
        ));
    }
    cases.push(case(
        "removal",
        json!({ "request_headers_to_remove": ["x-a", "x-absent"], "response_headers_to_remove": ["x-host"] }),
        none(),
        none(),
        both(),
    ));
    let level = |value: &str| {
        let change = add("x-level", value, "APPEND_IF_EXISTS_OR_ADD");
        json!({ "request_headers_to_add": [change], "response_headers_to_add": [change] })
    };
    cases.push(case(
        "levels",
        level("route"),
        level("host"),
        level("all"),
        both(),
    ));
    cases.push(case(
        "levels, the widest last",
        level("route"),
        level("host"),
        merged(
            level("all"),
            json!({ "most_specific_header_mutations_wins": true }),
        ),
        both(),
    ));
    let overwriting = |value: &str| json!({ "request_headers_to_add": [add("x-a", value, "OVERWRITE_IF_EXISTS_OR_ADD")] });
    cases.push(case(
        "levels that overwrite",
        overwriting("route"),
        overwriting("host"),
        overwriting("all"),
        both(),
    ));
    cases.push(case(
        "formatted",
        json!({ "request_headers_to_add": [
            add("x-method", "%REQ(:METHOD)% %REQ(:PATH)% %REQ(X-A?X-B)%", "OVERWRITE_IF_EXISTS_OR_ADD"),
            add("x-protocol", "%PROTOCOL%", "OVERWRITE_IF_EXISTS_OR_ADD"),
            add("x-from", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "OVERWRITE_IF_EXISTS_OR_ADD"),
            add("x-percent", "100%%", "OVERWRITE_IF_EXISTS_OR_ADD")] }),
        none(),
        none(),
        vec![plain(), with(), plain().header("x-b", "second").method("POST")],
    ));
    cases.push(weighted());
    cases.extend(cors());
    cases.extend(mirrors());
    cases
}

/// Changes that belong to one of several destinations.
fn weighted() -> Case {
    Case::exchanges(
        GROUP,
        "of a weighted destination",
        1,
        |place| {
            let destination = |name: &str, weight: u32| {
                json!({ "name": place.cluster("a"), "weight": weight,
                    "request_headers_to_add": [add("x-to", name, "OVERWRITE_IF_EXISTS_OR_ADD")],
                    "response_headers_to_add": [add("x-from", name, "OVERWRITE_IF_EXISTS_OR_ADD")] })
            };
            let routes = json!([{ "match": { "prefix": "/" }, "route": { "weighted_clusters": {
                "clusters": [destination("all", 100), destination("none", 0)] } } }]);
            Resources {
                listeners: vec![http(place, any_host(routes), vec![], json!({}))],
                clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
                ..Resources::default()
            }
        },
        vec![Request::get("/"), Request::get("/b")],
    )
}

fn cors() -> Vec<Case> {
    let policy = |extra: Value| {
        merged(
            json!({
                "allow_origin_string_match": [{ "exact": "http://good.test" }, { "suffix": ".shop.test" }],
                "allow_methods": "GET, PUT", "allow_headers": "x-a, x-b", "expose_headers": "x-c", "max_age": "600",
            }),
            extra,
        )
    };
    let from = |origin: &str| Request::get("/").header("origin", origin);
    let preflight = |origin: &str| {
        from(origin)
            .method("OPTIONS")
            .header("access-control-request-method", "PUT")
    };
    let requests = || {
        vec![
            preflight("http://good.test"),
            preflight("https://a.shop.test"),
            preflight("http://bad.test"),
            from("http://good.test").method("OPTIONS"),
            from("http://good.test"),
            from("http://bad.test"),
            Request::get("/"),
        ]
    };
    [
        ("CORS", policy(json!({}))),
        ("CORS with credentials", policy(json!({ "allow_credentials": true }))),
        ("CORS, other origins not forwarded", policy(json!({ "forward_not_matching_preflights": false }))),
    ]
    .into_iter()
    .map(|(name, policy)| {
        Case::exchanges(
            GROUP,
            name,
            1,
            move |place| {
                let of_route = crate::shape::typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", policy.clone());
                let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": place.cluster("a") },
                    "typed_per_filter_config": { "envoy.filters.http.cors": of_route } }]);
                let filters = vec![filter(
                    "envoy.filters.http.cors",
                    "envoy.extensions.filters.http.cors.v3.Cors",
                    json!({}),
                )];
                Resources {
                    listeners: vec![http(place, any_host(routes), filters, json!({}))],
                    clusters: vec![cluster(place, "a", &place.hosts, json!({}))], ..Resources::default() }
            },
            requests(),
        )
    })
    .collect()
}

/// Copies go to the second host, and nobody waits for their answers.
fn mirrors() -> Vec<Case> {
    let mirrored = |percent: u32| {
        move |place: &Place| {
            let routes = json!([{ "match": { "prefix": "/" }, "route": {
                "cluster": place.cluster("a"),
                "request_mirror_policies": [{ "cluster": place.cluster("b"), "runtime_fraction": {
                    "default_value": { "numerator": percent, "denominator": "HUNDRED" } } }] } }]);
            Resources {
                listeners: vec![http(place, any_host(routes), vec![], json!({}))],
                clusters: vec![
                    cluster(place, "a", &place.hosts[..1], json!({})),
                    cluster(place, "b", &place.hosts[1..], json!({})),
                ],
                ..Resources::default()
            }
        }
    };
    let all = Case::new(GROUP, "mirrored", 2, mirrored(100), |stand| async move {
        let request = Request::get("/m?x=1")
            .method("POST")
            .body("copied")
            .plan("1=500+after:300");
        let response = stand.send(0, &request).await?;
        let copies = wait_for(&stand, 0, 2).await;
        Ok(Observation {
            exact: json!({ "response": response.json(), "attempts": copies,
                "waited": response.took.as_millis() >= 300 }),
            ..Observation::default()
        })
    });
    let half = Case::new(
        GROUP,
        "mirrored by percentage",
        2,
        mirrored(30),
        |stand| async move {
            const COUNT: usize = 400;
            stand.sample(COUNT, &Request::get("/")).await?;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let copies = (0..COUNT)
                .flat_map(|number| stand.attempts(number))
                .filter(|attempt| attempt.host == 1)
                .count();
            let sample = BTreeMap::from([
                ("copied".to_owned(), copies as u64),
                ("not".to_owned(), (COUNT - copies) as u64),
            ]);
            Ok(Observation {
                samples: BTreeMap::from([("copies".to_owned(), sample)]),
                ..Observation::default()
            })
        },
    )
    .expecting("copies", &[("copied", 0.3), ("not", 0.7)]);
    vec![all, half]
}

/// What both servers saw, sorted by host, once as many came as are waited for.
async fn wait_for(stand: &Stand, number: usize, wanted: usize) -> Value {
    for _ in 0..100 {
        if stand.attempts(number).len() >= wanted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut list: Vec<Value> = stand
        .seen_as(number, false)
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.sort_by_key(|one| one["host"].as_u64());
    list.into()
}
