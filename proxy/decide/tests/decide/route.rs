//! Virtual hosts, matches, weights, rewrites.

use std::sync::Arc;

use http::HeaderName;
use proptest::prelude::*;
use trireme_proxy_decide::config::{
    ClusterSpecifier, ConfigError, Fraction, HeaderMatch, HeaderMatcher, PathMatch, QueryMatch,
    QueryMatcher, Regex, RouteAction, RouteConfiguration, RouteForward, RouteMatch, RouteParts,
    StringMatch, StringMatcher, VirtualHost, WeightedCluster, WeightedClusters,
};
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::route::{Lookup, choose_weighted, explain, find, matches_route};

use crate::world::{forward, route};

fn host(name: &str, domains: &[&str]) -> VirtualHost {
    VirtualHost {
        name: Arc::from(name),
        domains: domains.iter().map(|domain| Arc::from(*domain)).collect(),
        routes: vec![Arc::new(route(
            "/",
            RouteAction::Forward(Box::new(forward(name))),
        ))],
        ..VirtualHost::default()
    }
}

fn cluster_of(configuration: &Arc<RouteConfiguration>, authority: &str) -> Option<String> {
    let head = RequestHead::get(authority, "/").expect("valid");
    match find(configuration, &head, false, 0) {
        Lookup::Found(place) => place.cluster(&head).map(str::to_owned),
        _ => None,
    }
}

#[test]
fn the_most_specific_domain_wins() {
    let configuration = Arc::new(
        RouteConfiguration::new(RouteParts {
            name: Arc::from("r"),
            virtual_hosts: vec![
                host("exact", &["www.foo.com", "ports.com:8080"]),
                host("suffix", &["*.foo.com", "*-bar.foo.com"]),
                host("longer", &["*.b.foo.com"]),
                host("prefix", &["foo.*"]),
                host("any", &["*"]),
            ],
            ..RouteParts::default()
        })
        .expect("valid"),
    );
    for (authority, expected) in [
        ("www.foo.com", "exact"),
        ("WWW.Foo.com", "exact"),
        ("ports.com:8080", "exact"),
        ("ports.com", "any"),
        ("a.foo.com", "suffix"),
        ("x-bar.foo.com", "suffix"),
        ("a.b.foo.com", "longer"),
        (".foo.com", "any"),
        ("foo.de", "prefix"),
        ("foo.", "any"),
        ("bar.org", "any"),
    ] {
        assert_eq!(
            cluster_of(&configuration, authority).as_deref(),
            Some(expected),
            "{authority}"
        );
    }
}

#[test]
fn ports_are_ignored_where_configured() {
    let configuration = Arc::new(
        RouteConfiguration::new(RouteParts {
            virtual_hosts: vec![host("a", &["a.com", "[::1]"])],
            ignore_port_in_host_matching: true,
            ..RouteParts::default()
        })
        .expect("valid"),
    );
    for authority in ["a.com", "a.com:80", "[::1]:80", "[::1]"] {
        assert_eq!(
            cluster_of(&configuration, authority).as_deref(),
            Some("a"),
            "{authority}"
        );
    }
}

#[test]
fn a_domain_named_twice_is_refused() {
    let error = RouteConfiguration::new(RouteParts {
        virtual_hosts: vec![host("a", &["x.com"]), host("b", &["X.com"])],
        ..RouteParts::default()
    })
    .expect_err("refused");
    assert!(
        matches!(&error, ConfigError::DuplicateDomain { first, second, .. }
        if first == "a" && second == "b")
    );
}

fn head(path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::get("h", path).expect("valid");
    for (name, value) in headers {
        head.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("valid"),
            value.parse().expect("valid"),
        );
    }
    head
}

#[test]
fn paths_match_without_their_query() {
    let regex = |text: &str| Regex::new(text).expect("valid");
    for (path, request, case_sensitive, expected) in [
        (PathMatch::Prefix(Arc::from("/a")), "/abc?x", true, true),
        (PathMatch::Prefix(Arc::from("/A")), "/abc", true, false),
        (PathMatch::Prefix(Arc::from("/A")), "/abc", false, true),
        (PathMatch::Exact(Arc::from("/a")), "/a?q=1", true, true),
        (PathMatch::Exact(Arc::from("/a")), "/a/", true, false),
        (
            PathMatch::SeparatedPrefix(Arc::from("/a")),
            "/a",
            true,
            true,
        ),
        (
            PathMatch::SeparatedPrefix(Arc::from("/a")),
            "/a/b",
            true,
            true,
        ),
        (
            PathMatch::SeparatedPrefix(Arc::from("/a")),
            "/ab",
            true,
            false,
        ),
        (PathMatch::Regex(regex("/a[0-9]+")), "/a12?q", true, true),
        (PathMatch::Regex(regex("/a[0-9]+")), "/a12/x", true, false),
        (PathMatch::Regex(regex("/a|/b")), "/bx", true, false),
    ] {
        let matches = RouteMatch {
            case_sensitive,
            ..RouteMatch::path(path)
        };
        assert_eq!(
            matches_route(&matches, &head(request, &[]), 0),
            expected,
            "{matches:?} {request}"
        );
    }
}

fn string(pattern: StringMatch) -> HeaderMatch {
    HeaderMatch::String(StringMatcher {
        pattern,
        ignore_case: false,
    })
}

#[test]
fn only_a_connect_match_takes_connect() {
    let mut request = head("/", &[]);
    request.method = http::Method::CONNECT;
    let any = RouteMatch::path(PathMatch::Prefix(Arc::from("/")));
    assert!(!matches_route(&any, &request, 0));
    assert!(matches_route(
        &RouteMatch::path(PathMatch::Connect),
        &request,
        0
    ));
    assert!(!matches_route(
        &RouteMatch::path(PathMatch::Connect),
        &head("/", &[]),
        0
    ));
}

#[test]
fn headers_match_as_envoys() {
    let exact = |text: &str| string(StringMatch::Exact(Arc::from(text)));
    let inverted = |matcher: HeaderMatcher| HeaderMatcher {
        invert: true,
        ..matcher
    };
    let lenient = |matcher: HeaderMatcher| HeaderMatcher {
        treat_missing_as_empty: true,
        ..matcher
    };
    let request = head("/", &[("x-a", "1"), ("x-a", "2"), ("x-n", "42")]);
    for (matcher, expected) in [
        // Of several values one is enough.
        (HeaderMatcher::new("X-A", exact("1")), true),
        (HeaderMatcher::new("x-a", exact("2")), true),
        (HeaderMatcher::new("x-a", exact("3")), false),
        (inverted(HeaderMatcher::new("x-a", exact("2"))), false),
        // What is absent matches nothing, not even turned around.
        (inverted(HeaderMatcher::new("x-z", exact("1"))), false),
        (
            inverted(lenient(HeaderMatcher::new("x-z", exact("1")))),
            true,
        ),
        (HeaderMatcher::new("x-z", HeaderMatch::Present(false)), true),
        (
            inverted(HeaderMatcher::new("x-z", HeaderMatch::Present(true))),
            true,
        ),
        (
            HeaderMatcher::new("x-n", HeaderMatch::Range { start: 42, end: 43 }),
            true,
        ),
        (
            HeaderMatcher::new("x-n", HeaderMatch::Range { start: 0, end: 42 }),
            false,
        ),
        (HeaderMatcher::new(":method", exact("GET")), true),
        (HeaderMatcher::new("host", exact("h")), true),
        (HeaderMatcher::new(":scheme", exact("http")), true),
        (
            HeaderMatcher::new(
                "x-a",
                string(StringMatch::Regex(Regex::new("[0-9,]+").expect("valid"))),
            ),
            true,
        ),
    ] {
        let matches = RouteMatch {
            headers: vec![matcher.clone()],
            ..RouteMatch::path(PathMatch::Prefix(Arc::from("/")))
        };
        assert_eq!(
            matches_route(&matches, &request, 0),
            expected,
            "{matcher:?}"
        );
    }
}

#[test]
fn queries_and_shares_match() {
    let query = |name: &str, matcher| QueryMatcher {
        name: Arc::from(name),
        matcher,
    };
    let matches = RouteMatch {
        query: vec![
            query(
                "a",
                QueryMatch::String(StringMatcher {
                    pattern: StringMatch::Prefix(Arc::from("x")),
                    ignore_case: false,
                }),
            ),
            query("b", QueryMatch::Present(true)),
        ],
        runtime_fraction: Some(Fraction::percent(30)),
        ..RouteMatch::path(PathMatch::Prefix(Arc::from("/")))
    };
    assert!(matches_route(&matches, &head("/?b&a=xy&a=z", &[]), 29));
    assert!(!matches_route(&matches, &head("/?b&a=xy", &[]), 30));
    assert!(!matches_route(&matches, &head("/?a=xy", &[]), 0));
    assert!(!matches_route(&matches, &head("/", &[]), 0));
}

#[test]
fn an_explanation_names_what_was_passed_by() {
    let mut canary = route("/", RouteAction::Forward(Box::new(forward("canary"))));
    canary.matches.headers = vec![HeaderMatcher::new("x-canary", HeaderMatch::Present(true))];
    let configuration = Arc::new(crate::world::routes(vec![crate::world::everything(vec![
        canary,
        route("/", RouteAction::Forward(Box::new(forward("stable")))),
    ])]));
    let (lookup, trace) = explain(&configuration, &head("/", &[]), false, 0);
    assert!(matches!(lookup, Lookup::Found(_)));
    let results: Vec<&str> = trace
        .steps
        .iter()
        .map(|step| step.result.as_str())
        .collect();
    assert_eq!(results.len(), 3);
    assert!(
        results[1].starts_with("header x-canary is None"),
        "{results:?}"
    );
    assert_eq!(results[2], "matches: cluster stable");
}

fn weighted(weights: &[u32]) -> Vec<WeightedCluster> {
    weights
        .iter()
        .enumerate()
        .map(|(index, weight)| WeightedCluster {
            name: Arc::from(format!("c{index}")),
            cluster_header: None,
            weight: *weight,
            metadata_match: Vec::new(),
            headers: Default::default(),
            filters: Default::default(),
            host_rewrite_literal: None,
        })
        .collect()
}

proptest! {
    /// Every residue of the total falls on exactly one cluster, each on as many as its weight.
    #[test]
    fn weights_are_exact(weights in prop::collection::vec(0u32..50, 1..6)) {
        let clusters = weighted(&weights);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0u32; weights.len()];
        for draw in 0..u64::from(total) {
            counts[choose_weighted(&clusters, draw).expect("some weight") as usize] += 1;
        }
        prop_assert_eq!(counts, weights);
        if total == 0 {
            prop_assert_eq!(choose_weighted(&clusters, 7), None);
        }
    }

    /// Whatever is asked, the answer is found without a panic and the same again.
    #[test]
    fn finding_is_total(authority in "[a-zA-Z0-9.:\\-\\[\\]]{0,20}", path in "/[ -~&&[^#\"<>`{}|^\\\\]]{0,30}", draw: u64) {
        let configuration = Arc::new(RouteConfiguration::new(RouteParts {
            virtual_hosts: vec![host("a", &["a.*", "*.b", "c.d"]), host("any", &["*"])],
            ignore_port_in_host_matching: true,
            ..RouteParts::default()
        }).expect("valid"));
        if let Some(head) = RequestHead::get(&authority, &path) {
            let once = format!("{:?}", find(&configuration, &head, false, draw));
            prop_assert_eq!(once, format!("{:?}", find(&configuration, &head, false, draw)));
        }
    }
}

#[test]
fn a_header_may_be_the_draw() {
    let mut action = RouteForward::new(ClusterSpecifier::Weighted(WeightedClusters {
        clusters: weighted(&[98, 2]),
        random_value_header: Some(HeaderName::from_static("x-draw")),
    }));
    action.timeout = None;
    let configuration = Arc::new(crate::world::routes(vec![crate::world::everything(vec![
        route("/", RouteAction::Forward(Box::new(action))),
    ])]));
    for (draw, expected) in [("97", "c0"), ("98", "c1"), ("197", "c0"), ("99", "c1")] {
        let head = head("/", &[("x-draw", draw)]);
        let Lookup::Found(place) = find(&configuration, &head, false, 0) else {
            panic!("a route");
        };
        assert_eq!(place.cluster(&head), Some(expected), "{draw}");
    }
}
