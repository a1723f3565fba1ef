//! Rewrites, redirects and answers of the proxy's own.

use serde_json::{Value, json};

use crate::case::Case;
use crate::client::Request;
use crate::shape::{Resources, any_host, cluster, http, merged};

const GROUP: &str = "rewrite";

/// A route with this match and action to one server.
fn routed(name: &str, route_match: Value, action: Value, requests: Vec<Request>) -> Case {
    Case::exchanges(
        GROUP,
        name,
        1,
        move |place| {
            let action = merged(json!({ "cluster": place.cluster("a") }), action.clone());
            let routes = json!([{ "match": route_match, "route": action }]);
            Resources {
                listeners: vec![http(place, any_host(routes), vec![], json!({}))],
                clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
                ..Resources::default()
            }
        },
        requests,
    )
}

/// A route that answers itself.
fn answered(
    name: &str,
    route_match: Value,
    key: &'static str,
    answer: Value,
    requests: Vec<Request>,
) -> Case {
    Case::exchanges(
        GROUP,
        name,
        0,
        move |place| {
            let routes = json!([{ "match": route_match, key: answer }]);
            Resources {
                listeners: vec![http(place, any_host(routes), vec![], json!({}))],
                clusters: vec![],
                ..Resources::default()
            }
        },
        requests,
    )
}

pub fn cases() -> Vec<Case> {
    let targets = ["/a", "/a/", "/a/b", "/ab/c?x=1&y=/a", "/a?x", "/a/%20b/a"];
    let requests = || targets.map(Request::get).to_vec();
    let prefix = || json!({ "prefix": "/a" });
    let expression = |pattern: &str, substitution: &str| json!({ "regex_rewrite": { "pattern": { "regex": pattern }, "substitution": substitution } });
    let mut cases = vec![
        routed(
            "prefix",
            prefix(),
            json!({ "prefix_rewrite": "/x/y" }),
            requests(),
        ),
        routed(
            "prefix to the root",
            prefix(),
            json!({ "prefix_rewrite": "/" }),
            requests(),
        ),
        routed(
            "prefix with a slash",
            json!({ "prefix": "/a/" }),
            json!({ "prefix_rewrite": "/" }),
            vec![Request::get("/a/b"), Request::get("/a/?x=1")],
        ),
        routed(
            "path",
            json!({ "path": "/a" }),
            json!({ "prefix_rewrite": "/x" }),
            requests(),
        ),
        routed(
            "separated prefix",
            json!({ "path_separated_prefix": "/a" }),
            json!({ "prefix_rewrite": "/x" }),
            requests(),
        ),
        routed("regex", prefix(), expression("/a", "/x"), requests()),
        routed(
            "regex with groups",
            prefix(),
            expression("^/(a[^/]*)/(.*)$", "/\\2/\\1"),
            requests(),
        ),
        routed(
            "regex that does not match",
            prefix(),
            expression("^/q", "/x"),
            requests(),
        ),
        routed(
            "host",
            prefix(),
            json!({ "host_rewrite_literal": "other.test" }),
            vec![
                Request::get("/a"),
                Request::get("/a").header("host", "here:81"),
            ],
        ),
        routed(
            "host by a header",
            prefix(),
            json!({ "host_rewrite_header": "x-host" }),
            vec![
                Request::get("/a").header("x-host", "by.header"),
                Request::get("/a"),
            ],
        ),
        routed(
            "host and prefix",
            prefix(),
            json!({ "host_rewrite_literal": "other.test", "prefix_rewrite": "/b" }),
            requests(),
        ),
    ];
    cases.extend(redirects(&requests()));
    let plain = || json!({ "prefix": "/" });
    cases.push(answered(
        "own answer",
        plain(),
        "direct_response",
        json!({ "status": 203, "body": { "inline_string": "as told" } }),
        vec![
            Request::get("/"),
            Request::get("/").method("HEAD"),
            Request::get("/").method("POST").body("x"),
        ],
    ));
    cases.push(answered(
        "own answer without a body",
        plain(),
        "direct_response",
        json!({ "status": 503 }),
        vec![Request::get("/")],
    ));
    cases
}

fn redirects(requests: &[Request]) -> Vec<Case> {
    let kinds = [
        ("redirect host", json!({ "host_redirect": "other.test" })),
        ("redirect path", json!({ "path_redirect": "/x" })),
        (
            "redirect path with a query",
            json!({ "path_redirect": "/x?z=1" }),
        ),
        ("redirect prefix", json!({ "prefix_rewrite": "/x" })),
        ("redirect to https", json!({ "https_redirect": true })),
        ("redirect scheme", json!({ "scheme_redirect": "ftp" })),
        ("redirect port", json!({ "port_redirect": 8443 })),
        (
            "redirect host and port",
            json!({ "host_redirect": "other.test", "port_redirect": 80 }),
        ),
        (
            "redirect without the query",
            json!({ "path_redirect": "/x", "strip_query": true }),
        ),
        (
            "redirect 302",
            json!({ "path_redirect": "/x", "response_code": "FOUND" }),
        ),
        (
            "redirect 303",
            json!({ "path_redirect": "/x", "response_code": "SEE_OTHER" }),
        ),
        (
            "redirect 307",
            json!({ "path_redirect": "/x", "response_code": "TEMPORARY_REDIRECT" }),
        ),
        (
            "redirect 308",
            json!({ "path_redirect": "/x", "response_code": "PERMANENT_REDIRECT" }),
        ),
        (
            "redirect by a regex",
            json!({ "regex_rewrite": { "pattern": { "regex": "^/a(.*)$" }, "substitution": "/z\\1" } }),
        ),
    ];
    let mut requests = requests.to_vec();
    requests.push(Request::get("/a").header("host", "here:8080"));
    kinds
        .into_iter()
        .map(|(name, redirect)| {
            answered(
                name,
                json!({ "prefix": "/a" }),
                "redirect",
                redirect,
                requests.clone(),
            )
        })
        .collect()
}
