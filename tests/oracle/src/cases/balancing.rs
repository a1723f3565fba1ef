//! Which host gets a request, which cluster, which locality.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Observation};
use crate::client::Request;
use crate::place::Place;
use crate::shape::{Resources, any_host, assigned, cluster, endpoint, http, one_route};

const GROUP: &str = "balance";
const SAMPLE: usize = 600;

/// A sample of which host answers.
fn sampled(
    name: &str,
    hosts: usize,
    localities: impl Fn(&Place) -> Value + Send + Sync + 'static,
    extra: Value,
    shares: &[(&'static str, f64)],
) -> Case {
    Case::new(
        GROUP,
        name,
        hosts,
        move |place| {
            let cluster = assigned(place, "a", localities(place), extra.clone());
            one_route(place, json!({}), cluster)
        },
        |stand| async move {
            let sample = stand.sample(SAMPLE, &Request::get("/")).await?;
            Ok(Observation {
                samples: BTreeMap::from([("hosts".to_owned(), sample)]),
                ..Observation::default()
            })
        },
    )
    .expecting("hosts", shares)
}

/// The hosts of the last round of many requests, one after the other.
fn in_order(
    name: &str,
    hosts: usize,
    round: usize,
    localities: impl Fn(&Place) -> Value + Send + Sync + 'static,
    extra: Value,
) -> Case {
    Case::new(
        GROUP,
        name,
        hosts,
        move |place| {
            let cluster = assigned(place, "a", localities(place), extra.clone());
            one_route(place, json!({}), cluster)
        },
        move |stand| async move {
            let count = round * 5;
            let mut order = Vec::new();
            for number in 0..count {
                let response = stand.send(number, &Request::get("/")).await?;
                let host = response.get("x-host").map(str::to_owned);
                order.push(host.unwrap_or_else(|| response.status.to_string()));
            }
            // Where the round begins is drawn by chance: the last round, turned to its least beginning.
            let last = &order[count - round..];
            let turned = (0..round).map(|by| [&last[by..], &last[..by]].concat());
            let mut least = turned.min().unwrap_or_default();
            if hosts > 2 {
                // Three that are due at one moment have an order that rests on the last bits of fractions.
                least.sort_unstable();
            }
            Ok(Observation {
                exact: json!(least),
                ..Observation::default()
            })
        },
    )
}

fn even(place: &Place) -> Value {
    let endpoints: Vec<Value> = place
        .hosts
        .iter()
        .map(|at| endpoint(*at, json!({})))
        .collect();
    json!([{ "lb_endpoints": endpoints }])
}

fn weighted(weights: &'static [u32]) -> impl Fn(&Place) -> Value + Send + Sync + 'static {
    move |place| {
        let endpoints: Vec<Value> = place
            .hosts
            .iter()
            .zip(weights)
            .map(|(at, weight)| endpoint(*at, json!({ "load_balancing_weight": weight })))
            .collect();
        json!([{ "lb_endpoints": endpoints }])
    }
}

/// Endpoints in groups of priority and health: `(priority, healthy)` of each host.
fn prioritized(
    hosts: &'static [(u32, &'static str)],
) -> impl Fn(&Place) -> Value + Send + Sync + 'static {
    move |place| {
        let mut groups: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
        for (at, (priority, health)) in place.hosts.iter().zip(hosts) {
            let one = endpoint(*at, json!({ "health_status": health }));
            groups.entry(*priority).or_default().push(one);
        }
        let list: Vec<Value> = groups
            .into_iter()
            .map(|(priority, endpoints)| json!({ "priority": priority, "lb_endpoints": endpoints }))
            .collect();
        list.into()
    }
}

pub fn cases() -> Vec<Case> {
    const UP: &str = "HEALTHY";
    const DOWN: &str = "UNHEALTHY";
    let third = 1.0 / 3.0;
    let thirds = [("0", third), ("1", third), ("2", third)];
    let policy = |name: &str| json!({ "lb_policy": name });
    let mut cases = vec![
        in_order("round robin", 3, 3, even, json!({})),
        in_order("round robin by weight", 2, 4, weighted(&[3, 1]), json!({})),
        in_order(
            "round robin by weights",
            3,
            9,
            weighted(&[5, 3, 1]),
            json!({}),
        ),
        sampled("random", 3, even, policy("RANDOM"), &thirds),
        sampled(
            "least request, idle",
            3,
            even,
            policy("LEAST_REQUEST"),
            &thirds,
        ),
        sampled(
            "least request by weight, idle",
            3,
            weighted(&[4, 1, 1]),
            policy("LEAST_REQUEST"),
            &[("0", 4.0 / 6.0), ("1", 1.0 / 6.0), ("2", 1.0 / 6.0)],
        ),
        sampled(
            "random by weight",
            2,
            weighted(&[3, 1]),
            policy("RANDOM"),
            &[("0", 0.5), ("1", 0.5)],
        ),
        sampled(
            "a healthy first priority",
            3,
            prioritized(&[(0, UP), (0, UP), (1, UP)]),
            json!({}),
            &[("0", 0.5), ("1", 0.5), ("2", 0.0)],
        ),
        sampled(
            "a first priority half healthy",
            3,
            prioritized(&[(0, UP), (0, DOWN), (1, UP)]),
            json!({}),
            &[("0", 0.7), ("2", 0.3)],
        ),
        sampled(
            "a first priority three quarters healthy",
            5,
            prioritized(&[(0, UP), (0, UP), (0, UP), (0, DOWN), (1, UP)]),
            json!({}),
            &[("0", third), ("1", third), ("2", third), ("4", 0.0)],
        ),
        sampled(
            "a dead first priority",
            3,
            prioritized(&[(0, DOWN), (0, DOWN), (1, UP)]),
            json!({}),
            &[("2", 1.0)],
        ),
        sampled(
            "panic",
            4,
            prioritized(&[(0, UP), (0, DOWN), (0, DOWN), (0, DOWN)]),
            json!({}),
            &[("0", 0.25), ("1", 0.25), ("2", 0.25), ("3", 0.25)],
        ),
        sampled(
            "no panic",
            4,
            prioritized(&[(0, UP), (0, DOWN), (0, DOWN), (0, DOWN)]),
            json!({ "common_lb_config": { "healthy_panic_threshold": { "value": 0 } } }),
            &[("0", 1.0)],
        ),
        sampled(
            "nobody healthy and no panic",
            2,
            prioritized(&[(0, DOWN), (0, DOWN)]),
            json!({ "common_lb_config": { "healthy_panic_threshold": { "value": 0 } } }),
            &[("503", 1.0)],
        ),
        localities(),
    ];
    cases.extend(splits());
    cases.extend(hashes());
    cases.extend(subsets());
    cases.push(busy());
    cases.push(nobody());
    cases
}

fn localities() -> Case {
    sampled(
        "localities by weight",
        3,
        |place| {
            let group = |zone: &str, weight: u32, hosts: &[std::net::SocketAddr]| {
                let endpoints: Vec<Value> =
                    hosts.iter().map(|at| endpoint(*at, json!({}))).collect();
                json!({ "locality": { "region": "r", "zone": zone }, "load_balancing_weight": weight,
                    "lb_endpoints": endpoints })
            };
            json!([
                group("a", 3, &place.hosts[..1]),
                group("b", 1, &place.hosts[1..])
            ])
        },
        json!({ "common_lb_config": { "locality_weighted_lb_config": {} } }),
        &[("0", 0.75), ("1", 0.125), ("2", 0.125)],
    )
}

/// Weights of clusters.
fn splits() -> Vec<Case> {
    let kinds: [(&str, [u32; 2], f64); 4] = [
        ("split 98 to 2", [98, 2], 0.98),
        ("split 30 to 70", [30, 70], 0.3),
        ("split 1 to 2", [1, 2], 1.0 / 3.0),
        ("split all to one", [100, 0], 1.0),
    ];
    kinds
        .into_iter()
        .map(|(name, weights, first)| {
            Case::new(
                GROUP,
                name,
                2,
                move |place| {
                    let destinations = json!([
                        { "name": place.cluster("a"), "weight": weights[0] },
                        { "name": place.cluster("b"), "weight": weights[1] }]);
                    let routes = json!([{ "match": { "prefix": "/" },
                        "route": { "weighted_clusters": { "clusters": destinations } } }]);
                    Resources {
                        listeners: vec![http(place, any_host(routes), vec![], json!({}))],
                        clusters: vec![
                            cluster(place, "a", &place.hosts[..1], json!({})),
                            cluster(place, "b", &place.hosts[1..], json!({})),
                        ],
                        ..Resources::default()
                    }
                },
                |stand| async move {
                    let sample = stand.sample(1500, &Request::get("/")).await?;
                    Ok(Observation {
                        samples: BTreeMap::from([("clusters".to_owned(), sample)]),
                        ..Observation::default()
                    })
                },
            )
            .expecting("clusters", &[("0", first), ("1", 1.0 - first)])
        })
        .collect()
}

/// The same key goes to the same host, and for one set of addresses to the one that Envoy picks.
fn hashes() -> Vec<Case> {
    let by_header = || json!({ "hash_policy": [{ "header": { "header_name": "x-user" } }] });
    let kinds = [
        (
            "ring hash",
            json!({ "lb_policy": "RING_HASH" }),
            by_header(),
            true,
        ),
        (
            "ring hash of a small ring",
            json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": {
                "minimum_ring_size": 10, "maximum_ring_size": 10 } }),
            by_header(),
            true,
        ),
        (
            "Maglev",
            json!({ "lb_policy": "MAGLEV" }),
            by_header(),
            true,
        ),
        (
            "Maglev of a small table",
            json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": 7 } }),
            by_header(),
            true,
        ),
        (
            "ring hash by a query parameter",
            json!({ "lb_policy": "RING_HASH" }),
            json!({ "hash_policy": [{ "query_parameter": { "name": "u" } }] }),
            true,
        ),
        (
            "ring hash by the source",
            json!({ "lb_policy": "RING_HASH" }),
            json!({ "hash_policy": [{ "connection_properties": { "source_ip": true } }] }),
            true,
        ),
    ];
    let mut cases: Vec<Case> = kinds
        .into_iter()
        .map(|(name, extra, action, _)| {
            Case::new(
                GROUP,
                name,
                5,
                move |place| {
                    let own = cluster(place, "a", &place.hosts, extra.clone());
                    one_route(place, action.clone(), own)
                },
                |stand| async move {
                    let mut picked = Vec::new();
                    for number in 0..60 {
                        let user = format!("user-{}", number % 40);
                        let request = Request::get(&format!("/?u={user}")).header("x-user", &user);
                        let response = stand.send(number, &request).await?;
                        picked.push(response.get("x-host").unwrap_or("none").to_owned());
                    }
                    Ok(Observation {
                        exact: json!(picked),
                        ..Observation::default()
                    })
                },
            )
        })
        .collect();
    cases.push(Case::new(
        GROUP,
        "ring hash by a cookie that is made",
        3,
        |place| {
            let action = json!({ "hash_policy": [{ "cookie": { "name": "sticky", "ttl": "60s", "path": "/p" } }] });
            let own = cluster(place, "a", &place.hosts, json!({ "lb_policy": "RING_HASH" }));
            one_route(place, action, own)
        },
        |stand| async move {
            let first = stand.send(0, &Request::get("/")).await?;
            let cookie = first.get("set-cookie").unwrap_or_default().to_owned();
            let (pair, attributes) = cookie.split_once(';').unwrap_or((&cookie, ""));
            let mut same = true;
            for number in 1..6 {
                let again = stand.send(number, &Request::get("/").header("cookie", pair)).await?;
                same &= again.get("x-host") == first.get("x-host") && again.get("set-cookie").is_none();
            }
            Ok(Observation {
                exact: json!({ "same": same, "attributes": attributes,
                    "name": pair.split('=').next(), "made": !pair.is_empty() }),
                ..Observation::default()
            })
        },
    ));
    cases
}

fn subsets() -> Vec<Case> {
    let configured = |wanted: &'static str, fallback: &'static str| {
        move |place: &Place| {
            let metadata = |version: &str| json!({ "metadata": { "filter_metadata": { "envoy.lb": { "version": version } } } });
            let endpoints = json!([
                endpoint(place.hosts[0], metadata("v1")),
                endpoint(place.hosts[1], metadata("v1")),
                endpoint(place.hosts[2], metadata("v2"))
            ]);
            let extra = json!({ "lb_subset_config": {
                "fallback_policy": fallback, "subset_selectors": [{ "keys": ["version"] }] } });
            let own = assigned(place, "a", json!([{ "lb_endpoints": endpoints }]), extra);
            let action = json!({ "metadata_match": { "filter_metadata": { "envoy.lb": { "version": wanted } } } });
            one_route(place, action, own)
        }
    };
    let kinds: [(&str, &'static str, &'static str, &[(&'static str, f64)]); 3] = [
        ("subset", "v1", "NO_FALLBACK", &[("0", 0.5), ("1", 0.5)]),
        (
            "subset that nobody is of",
            "v3",
            "NO_FALLBACK",
            &[("503", 1.0)],
        ),
        (
            "subset that nobody is of, any instead",
            "v3",
            "ANY_ENDPOINT",
            &[("0", 1.0 / 3.0), ("1", 1.0 / 3.0), ("2", 1.0 / 3.0)],
        ),
    ];
    kinds
        .into_iter()
        .map(|(name, wanted, fallback, shares)| {
            Case::new(
                GROUP,
                name,
                3,
                configured(wanted, fallback),
                |stand| async move {
                    let sample = stand.sample(300, &Request::get("/")).await?;
                    Ok(Observation {
                        samples: BTreeMap::from([("hosts".to_owned(), sample)]),
                        ..Observation::default()
                    })
                },
            )
            .expecting("hosts", shares)
        })
        .collect()
}

/// Least request keeps away from a host that has requests open.
fn busy() -> Case {
    Case::new(
        GROUP,
        "least request, one busy",
        2,
        |place| {
            let own = cluster(
                place,
                "a",
                &place.hosts,
                json!({ "lb_policy": "LEAST_REQUEST" }),
            );
            one_route(place, json!({}), own)
        },
        |stand| async move {
            // Whoever gets them, host 0's stay open.
            let slow = Request::get("/").plan("0=200+after:4000");
            let held = {
                let stand = stand.clone();
                tokio::spawn(async move { stand.at_once(10_000, 8, &slow).await })
            };
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let sample = stand.sample(300, &Request::get("/")).await?;
            held.await??;
            Ok(Observation {
                samples: BTreeMap::from([("hosts".to_owned(), sample)]),
                ..Observation::default()
            })
        },
    )
    .expecting("hosts", &[("0", 0.25), ("1", 0.75)])
}

/// A cluster without endpoints.
fn nobody() -> Case {
    Case::exchanges(
        GROUP,
        "no endpoints",
        0,
        |place| {
            let own = cluster(place, "a", &[], json!({}));
            one_route(place, json!({}), own)
        },
        vec![Request::get("/")],
    )
}
