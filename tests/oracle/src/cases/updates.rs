//! Configuration that changes under way: endpoints and routes, without a request that fails for it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Observation, Stand};
use crate::client::{Request, Response};
use crate::place::Place;
use crate::shape::{Resources, any_host, discovered, endpoints, merged, routed, routes, to};

const GROUP: &str = "update";
/// Requests after a change, to see what it did.
const AFTER: usize = 24;
/// Draws of a sample by weights.
const DRAWS: usize = 400;
/// Numbers of requests before a change, while it comes, and after it.
const DURING: usize = 1000;
const THEN: usize = 50_000;

/// What was answered, without what depends on when the change came.
fn classes(responses: &[Response]) -> Vec<String> {
    let of = |response: &Response| match response.get("x-host") {
        Some(_) => response.status.to_string(),
        None => format!("{} {}", response.status, response.body.trim()),
    };
    let mut all: Vec<String> = responses.iter().map(of).collect();
    all.sort();
    all.dedup();
    all
}

fn generation(number: u32) -> Value {
    json!({ "response_headers_to_add": [{ "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        "header": { "key": "x-generation", "value": number.to_string() } }] })
}

fn is_generation(number: u32) -> impl Fn(&Response) -> bool {
    move |response| response.get("x-generation") == Some(&number.to_string())
}

async fn batch(stand: &Stand, first: usize, count: usize) -> anyhow::Result<Vec<Response>> {
    let mut responses = Vec::new();
    for number in first..first + count {
        responses.push(stand.send(number, &Request::get("/")).await?);
    }
    Ok(responses)
}

/// What was answered before a change, while it came, and after it.
struct Change {
    before: Vec<Response>,
    during: Vec<Response>,
    after: Vec<Response>,
}

impl Change {
    /// Changes to `resources`, which are in force when `there` is answered; `count` requests before and after.
    async fn to(
        stand: &Stand,
        resources: &Resources,
        count: usize,
        there: impl Fn(&Response) -> bool,
    ) -> anyhow::Result<Self> {
        let before = batch(stand, 0, count).await?;
        let during = stand
            .change(resources, DURING, &Request::get("/"), there)
            .await?;
        let after = batch(stand, THEN, count).await?;
        Ok(Self {
            before,
            during,
            after,
        })
    }

    /// What was answered while the change came that neither what was before nor what is after it answers. When the
    /// change came is chance; that nothing else is ever answered is not.
    fn strange(&self) -> Vec<String> {
        let usual = [classes(&self.before), classes(&self.after)].concat();
        let mut during = classes(&self.during);
        during.retain(|class| !usual.contains(class));
        during
    }
}

fn by_host(responses: &[Response]) -> BTreeMap<String, u64> {
    let mut hosts = BTreeMap::new();
    for response in responses {
        let host = response
            .get("x-host")
            .map_or_else(|| response.status.to_string(), str::to_owned);
        *hosts.entry(host).or_insert(0) += 1;
    }
    hosts
}

/// One cluster of discovered endpoints behind discovered routes.
fn start(place: &Place, hosts: &[(usize, u32)]) -> Resources {
    Resources {
        listeners: vec![routed(place)],
        clusters: vec![discovered(place, "a", json!({}))],
        routes: vec![routes(place, any_host(json!([to(place, "a", json!({}))])))],
        endpoints: vec![endpoints_of(place, hosts)],
    }
}

fn endpoints_of(place: &Place, hosts: &[(usize, u32)]) -> Value {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|(host, weight)| (place.hosts[*host], *weight))
        .collect();
    endpoints(place, "a", &hosts)
}

/// Endpoints change from `before` to `after`; a change is there when `there` is answered.
fn endpoint_change(
    name: &'static str,
    before: &'static [(usize, u32)],
    after: &'static [(usize, u32)],
    there: fn(&Response) -> bool,
) -> Case {
    Case::new(
        GROUP,
        name,
        3,
        |place| start(place, before),
        move |stand| async move {
            let changed = Resources {
                endpoints: vec![endpoints_of(&stand.place, after)],
                ..Resources::default()
            };
            let change = Change::to(&stand, &changed, AFTER, there).await?;
            Ok(Observation {
                exact: json!({
                    "before": by_host(&change.before),
                    "strange": change.strange(),
                    "after": by_host(&change.after),
                }),
                ..Observation::default()
            })
        },
    )
}

/// Routes change to `after`, which names itself the second generation.
fn route_change(
    name: &'static str,
    hosts: usize,
    clusters: &'static [&'static str],
    after: fn(&Place) -> Value,
) -> Case {
    let routes_of = |place: &Place, all: Value, number: u32| {
        let mut hosts = any_host(all);
        hosts[0] = merged(hosts[0].clone(), generation(number));
        routes(place, hosts)
    };
    Case::new(
        GROUP,
        name,
        hosts,
        move |place| Resources {
            listeners: vec![routed(place)],
            clusters: clusters
                .iter()
                .map(|name| discovered(place, name, json!({})))
                .collect(),
            routes: vec![routes_of(place, json!([to(place, "a", json!({}))]), 1)],
            endpoints: clusters
                .iter()
                .zip(&place.hosts)
                .map(|(name, host)| endpoints(place, name, &[(*host, 1)]))
                .collect(),
        },
        move |stand| async move {
            let changed = Resources {
                routes: vec![routes_of(&stand.place, after(&stand.place), 2)],
                ..Resources::default()
            };
            let change = Change::to(&stand, &changed, AFTER, is_generation(2)).await?;
            Ok(Observation {
                exact: json!({
                    "before": by_host(&change.before),
                    "strange": change.strange(),
                    "after": by_host(&change.after),
                    "log": stand.log(THEN).await?,
                }),
                ..Observation::default()
            })
        },
    )
}

/// Weights of a split change; what each is drawn by shows in a sample.
fn weights() -> Case {
    let split = |place: &Place, first: u32, number: u32| {
        let destinations = json!([
            { "name": place.cluster("a"), "weight": first },
            { "name": place.cluster("b"), "weight": 100 - first }]);
        let route = json!({ "match": { "prefix": "/" },
            "route": { "weighted_clusters": { "clusters": destinations } } });
        let mut hosts = any_host(json!([route]));
        hosts[0] = merged(hosts[0].clone(), generation(number));
        routes(place, hosts)
    };
    Case::new(
        GROUP,
        "weights of a split",
        2,
        move |place| Resources {
            listeners: vec![routed(place)],
            clusters: vec![
                discovered(place, "a", json!({})),
                discovered(place, "b", json!({})),
            ],
            routes: vec![split(place, 90, 1)],
            endpoints: vec![
                endpoints(place, "a", &[(place.hosts[0], 1)]),
                endpoints(place, "b", &[(place.hosts[1], 1)]),
            ],
        },
        move |stand| async move {
            let changed = Resources {
                routes: vec![split(&stand.place, 20, 2)],
                ..Resources::default()
            };
            let change = Change::to(&stand, &changed, DRAWS, is_generation(2)).await?;
            Ok(Observation {
                exact: json!({ "strange": change.strange() }),
                samples: BTreeMap::from([
                    ("before".to_owned(), by_host(&change.before)),
                    ("after".to_owned(), by_host(&change.after)),
                ]),
                ..Observation::default()
            })
        },
    )
    .expecting("before", &[("0", 0.9), ("1", 0.1)])
    .expecting("after", &[("0", 0.2), ("1", 0.8)])
}

/// A request under way keeps what it began with, whatever changes meanwhile.
fn under_way() -> Case {
    Case::new(
        GROUP,
        "a request under way",
        2,
        |place| start(place, &[(0, 1)]),
        |stand| async move {
            let slow = Request::get("/").plan("*=200+after:3000");
            let (before, sent) = (stand.clone(), slow.clone());
            let waiting = tokio::spawn(async move { before.send(0, &sent).await });
            // It has reached its server.
            while stand.attempts(0).is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let changed = Resources {
                endpoints: vec![endpoints_of(&stand.place, &[(1, 1)])],
                ..Resources::default()
            };
            let there = |response: &Response| response.get("x-host") == Some("1");
            stand
                .change(&changed, DURING, &Request::get("/"), there)
                .await?;
            let answered = waiting.await??;
            Ok(Observation {
                exact: json!({ "status": answered.status, "body": answered.body, "log": stand.log(0).await? }),
                ..Observation::default()
            })
        },
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        endpoint_change("an endpoint goes", &[(0, 1), (1, 1)], &[(1, 1)], |answer| {
            answer.get("x-host") == Some("1")
        }),
        endpoint_change("all endpoints go", &[(0, 1), (1, 1)], &[], |answer| {
            answer.status == 503
        }),
        endpoint_change(
            "endpoints come where there were none",
            &[],
            &[(0, 1)],
            |answer| answer.status == 200,
        ),
        endpoint_change(
            "others in their place",
            &[(0, 1), (1, 1)],
            &[(2, 1)],
            |answer| answer.get("x-host") == Some("2"),
        ),
        route_change("a route to another cluster", 2, &["a", "b"], |place| {
            json!([to(place, "b", json!({}))])
        }),
        route_change(
            "a route becomes an answer",
            1,
            &["a"],
            |_| json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 418, "body": { "inline_string": "tea" } } }]),
        ),
        route_change("a route to an unknown cluster", 1, &["a"], |place| {
            json!([to(place, "nowhere", json!({}))])
        }),
        route_change(
            "a route becomes a redirect",
            1,
            &["a"],
            |_| json!([{ "match": { "prefix": "/" }, "redirect": { "path_redirect": "/there" } }]),
        ),
        weights(),
        under_way(),
    ]
}
