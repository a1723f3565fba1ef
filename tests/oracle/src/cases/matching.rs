//! Which route takes a request: generated over the kinds of matches, each with requests on both sides of
//! its edges.

use serde_json::{Value, json};

use crate::case::Case;
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, http, merged, to};

const GROUP: &str = "match";

/// A match answers by itself; everything else reaches the server.
fn against(place: &Place, route_match: &Value) -> Resources {
    let routes = json!([
        { "name": "matched", "match": route_match,
          "direct_response": { "status": 210, "body": { "inline_string": "matched" } } },
        to(place, "a", json!({})),
    ]);
    Resources {
        listeners: vec![http(place, any_host(routes), vec![], json!({}))],
        clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
        ..Resources::default()
    }
}

fn case(name: &str, route_match: Value, requests: Vec<Request>) -> Case {
    Case::exchanges(
        GROUP,
        name,
        1,
        move |place| against(place, &route_match),
        requests,
    )
}

pub fn cases() -> Vec<Case> {
    let mut cases = paths();
    cases.extend(headers());
    cases.extend(queries());
    cases.extend(hosts());
    cases.push(order());
    cases
}

fn paths() -> Vec<Case> {
    let targets = [
        "/a", "/a/", "/ab", "/a/b", "/A", "/A/B", "/a1", "/a12/x", "/a?x=1", "/a/?x=1", "/a%2Fb",
        "//a", "/", "/b/a", "/a/../b", "/a.b", "/a;v=1",
    ];
    let requests = || targets.map(Request::get).to_vec();
    let kinds = [
        ("prefix", json!({ "prefix": "/a" })),
        ("prefix with a slash", json!({ "prefix": "/a/" })),
        ("prefix of all", json!({ "prefix": "/" })),
        ("path", json!({ "path": "/a" })),
        ("path with a slash", json!({ "path": "/a/" })),
        ("regex", json!({ "safe_regex": { "regex": "/a[0-9]+" } })),
        (
            "regex of all below",
            json!({ "safe_regex": { "regex": "/a/.*" } }),
        ),
        (
            "regex of an alternative",
            json!({ "safe_regex": { "regex": "/a|/b/.*" } }),
        ),
        ("separated prefix", json!({ "path_separated_prefix": "/a" })),
        (
            "prefix in any case",
            json!({ "prefix": "/a", "case_sensitive": false }),
        ),
        (
            "path in any case",
            json!({ "path": "/a/b", "case_sensitive": false }),
        ),
        (
            "separated prefix in any case",
            json!({ "path_separated_prefix": "/a", "case_sensitive": false }),
        ),
    ];
    kinds
        .into_iter()
        .map(|(name, kind)| case(name, kind, requests()))
        .collect()
}

fn headers() -> Vec<Case> {
    let plain = || Request::get("/");
    let requests = || {
        let mut requests = vec![plain(), plain().also("x-v", "")];
        for value in [
            "gold",
            "Gold",
            "golden",
            "marigold",
            "a gold b",
            "7",
            "10",
            "-3",
            "9x",
            "gold,silver",
        ] {
            requests.push(plain().also("x-v", value));
        }
        requests.push(plain().also("x-v", "gold").also("x-v", "silver"));
        requests.push(plain().also("X-V", "gold"));
        requests
    };
    let text = |matcher: Value| json!({ "name": "x-v", "string_match": matcher });
    let kinds = [
        ("header exact", text(json!({ "exact": "gold" }))),
        (
            "header exact in any case",
            text(json!({ "exact": "gold", "ignore_case": true })),
        ),
        ("header prefix", text(json!({ "prefix": "gold" }))),
        ("header suffix", text(json!({ "suffix": "gold" }))),
        ("header contains", text(json!({ "contains": "gold" }))),
        (
            "header regex",
            text(json!({ "safe_regex": { "regex": "g.*n" } })),
        ),
        (
            "header present",
            json!({ "name": "x-v", "present_match": true }),
        ),
        (
            "header absent",
            json!({ "name": "x-v", "present_match": false }),
        ),
        (
            "header range",
            json!({ "name": "x-v", "range_match": { "start": "-5", "end": "10" } }),
        ),
        (
            "header not exact",
            merged(
                text(json!({ "exact": "gold" })),
                json!({ "invert_match": true }),
            ),
        ),
        (
            "header not exact, absent as empty",
            merged(
                text(json!({ "exact": "gold" })),
                json!({ "invert_match": true, "treat_missing_header_as_empty": true }),
            ),
        ),
        (
            "header not in range",
            json!({ "name": "x-v", "range_match": { "start": "-5", "end": "10" }, "invert_match": true }),
        ),
    ];
    let mut cases: Vec<Case> = kinds
        .into_iter()
        .map(|(name, kind)| {
            let route_match = json!({ "prefix": "/", "headers": [kind] });
            case(name, route_match, requests())
        })
        .collect();
    cases.push(case(
        "two headers",
        json!({ "prefix": "/", "headers": [
            { "name": "x-v", "string_match": { "exact": "gold" } },
            { "name": "x-w", "present_match": true }] }),
        vec![
            plain().also("x-v", "gold"),
            plain().also("x-w", "1"),
            plain().also("x-v", "gold").also("x-w", "1"),
        ],
    ));
    cases.push(case(
        "method",
        json!({ "prefix": "/", "headers": [
            { "name": ":method", "string_match": { "safe_regex": { "regex": "PUT|DELETE" } } }] }),
        ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"]
            .map(|method| plain().method(method))
            .to_vec(),
    ));
    cases.push(case(
        "authority",
        json!({ "prefix": "/", "headers": [
            { "name": ":authority", "string_match": { "prefix": "shop." } }] }),
        ["shop.test", "shop.test:80", "test", "SHOP.test"]
            .map(|host| plain().header("host", host))
            .to_vec(),
    ));
    cases.push(case(
        "scheme",
        json!({ "prefix": "/", "headers": [
            { "name": ":scheme", "string_match": { "exact": "http" } }] }),
        vec![plain(), plain().also("x-forwarded-proto", "https")],
    ));
    cases.push(case(
        "gRPC only",
        json!({ "prefix": "/", "grpc": {} }),
        vec![
            plain().method("POST"),
            plain()
                .method("POST")
                .also("content-type", "application/grpc"),
            plain()
                .method("POST")
                .also("content-type", "application/grpc+proto"),
            plain()
                .method("POST")
                .also("content-type", "application/grpc-web"),
        ],
    ));
    cases
}

fn queries() -> Vec<Case> {
    let targets = [
        "/",
        "/?v=1",
        "/?v=12",
        "/?v=",
        "/?v",
        "/?w=1",
        "/?w=1&v=1",
        "/?v=2&v=1",
        "/?V=1",
        "/?v=%31",
    ];
    let requests = || targets.map(Request::get).to_vec();
    let kinds = [
        ("query exact", json!({ "string_match": { "exact": "1" } })),
        ("query prefix", json!({ "string_match": { "prefix": "1" } })),
        (
            "query regex",
            json!({ "string_match": { "safe_regex": { "regex": "[0-9]+" } } }),
        ),
        ("query present", json!({ "present_match": true })),
    ];
    kinds
        .into_iter()
        .map(|(name, kind)| {
            let parameter = merged(json!({ "name": "v" }), kind);
            case(
                name,
                json!({ "prefix": "/", "query_parameters": [parameter] }),
                requests(),
            )
        })
        .collect()
}

/// Virtual hosts: the most exact domain wins, whatever the order.
fn hosts() -> Vec<Case> {
    let names = [
        "a.test",
        "A.test",
        "a.test:80",
        "a.test:8080",
        "b.a.test",
        "x.b.a.test",
        "shop.example",
        "shop.other",
        "nobody",
        "b.test",
    ];
    let requests: Vec<Request> = names
        .iter()
        .map(|name| Request::get("/").header("host", name))
        .collect();
    let virtual_host = |domain: &str| {
        json!({ "name": domain, "domains": [domain], "routes": [{ "match": { "prefix": "/" },
            "direct_response": { "status": 200, "body": { "inline_string": domain } } }] })
    };
    let listener = move |domains: &'static [&'static str], manager: Value, extra: Value| {
        move |place: &Place| {
            let hosts: Vec<Value> = domains.iter().map(|domain| virtual_host(domain)).collect();
            let configuration = merged(manager.clone(), json!({ "route_config": extra }));
            Resources {
                listeners: vec![http(place, hosts.into(), vec![], configuration)],
                clusters: vec![],
                ..Resources::default()
            }
        }
    };
    let kinds: [(&str, &'static [&'static str], Value, Value); 5] = [
        (
            "domains",
            &["*.test", "a.test", "*.a.test", "*a.test", "shop.*", "*"],
            json!({}),
            json!({}),
        ),
        (
            "domains without a last resort",
            &["a.test", "shop.*"],
            json!({}),
            json!({}),
        ),
        (
            "domains with ports",
            &["a.test:8080", "a.test", "*.test"],
            json!({}),
            json!({}),
        ),
        (
            "domains, any port of the host stripped",
            &["a.test", "*.test"],
            json!({ "strip_any_host_port": true }),
            json!({}),
        ),
        (
            "domains, ports ignored",
            &["a.test", "*.test"],
            json!({}),
            json!({ "ignore_port_in_host_matching": true }),
        ),
    ];
    kinds
        .into_iter()
        .map(|(name, domains, manager, extra)| {
            Case::exchanges(
                GROUP,
                name,
                0,
                listener(domains, manager, extra),
                requests.clone(),
            )
        })
        .collect()
}

/// The first route that matches, not the best.
fn order() -> Case {
    let answer = |prefix: &str, text: &str| {
        json!({ "match": { "prefix": prefix },
            "direct_response": { "status": 200, "body": { "inline_string": text } } })
    };
    let routes = json!([
        answer("/a/b", "first"),
        answer("/a", "second"),
        answer("/a/c", "never")
    ]);
    Case::exchanges(
        GROUP,
        "the first of several",
        0,
        move |place| Resources {
            listeners: vec![http(place, any_host(routes.clone()), vec![], json!({}))],
            clusters: vec![],
            ..Resources::default()
        },
        ["/a/b", "/a/c", "/a", "/"].map(Request::get).to_vec(),
    )
}
