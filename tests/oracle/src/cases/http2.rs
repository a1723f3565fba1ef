//! HTTP/2 on either side.

use serde_json::{Value, json};

use crate::case::{Case, Observation, Stand};
use crate::client::http2::Connection;
use crate::client::{Request, Response};
use crate::shape::{cluster, http2, merged, one_route};

const GROUP: &str = "http2";

/// Which side speaks it.
#[derive(Clone, Copy)]
enum Sides {
    Upstream,
    Downstream,
    Both,
}

impl Sides {
    fn name(self) -> &'static str {
        match self {
            Sides::Upstream => "behind",
            Sides::Downstream => "in front",
            Sides::Both => "on both sides",
        }
    }

    fn cluster(self) -> Value {
        match self {
            Sides::Upstream | Sides::Both => http2(),
            Sides::Downstream => json!({}),
        }
    }
}

async fn send(
    stand: &Stand,
    connection: Option<&Connection>,
    number: usize,
    request: &Request,
) -> anyhow::Result<Response> {
    match connection {
        Some(connection) => {
            let request = request.clone().header("x-key", &stand.key(number));
            connection.send(&request).await
        }
        None => stand.send(number, request).await,
    }
}

async fn connection(stand: &Stand, sides: Sides) -> anyhow::Result<Option<Connection>> {
    Ok(match sides {
        Sides::Upstream => None,
        Sides::Downstream | Sides::Both => Some(Connection::open(stand.place.listener).await?),
    })
}

fn case(sides: Sides, name: &str, action: Value, extra: Value, requests: Vec<Request>) -> Case {
    Case::new(
        GROUP,
        format!("{}: {name}", sides.name()),
        2,
        move |place| {
            one_route(
                place,
                action.clone(),
                cluster(
                    place,
                    "a",
                    // One, so that who is tried first is no draw.
                    &place.hosts[..1],
                    merged(sides.cluster(), extra.clone()),
                ),
            )
        },
        move |stand| {
            let requests = requests.clone();
            async move {
                let connection = connection(&stand, sides).await?;
                let mut list = Vec::new();
                for (number, request) in requests.iter().enumerate() {
                    let response = send(&stand, connection.as_ref(), number, request).await?;
                    list.push(json!({
                        "response": response.json(),
                        "upstream": stand.seen(number),
                        "log": stand.log(number).await?,
                    }));
                }
                Ok(Observation {
                    exact: list.into(),
                    ..Observation::default()
                })
            }
        },
    )
}

/// Several at once: of one connection, and within the cluster's limit.
fn at_once(sides: Sides, limit: u32) -> Case {
    let name = match limit {
        0 => format!("{}: twenty at once", sides.name()),
        _ => format!("{}: six at once, at most {limit}", sides.name()),
    };
    let count = if limit == 0 { 20 } else { 6 };
    Case::new(
        GROUP,
        name,
        1,
        move |place| {
            let breakers = match limit {
                0 => json!({}),
                _ => json!({ "circuit_breakers": { "thresholds": [{ "max_requests": limit }] } }),
            };
            one_route(
                place,
                json!({}),
                cluster(place, "a", &place.hosts, merged(sides.cluster(), breakers)),
            )
        },
        move |stand| async move {
            let connection = connection(&stand, sides).await?;
            // The connection behind is there before they come.
            send(&stand, connection.as_ref(), 0, &Request::get("/")).await?;
            let slow = Request::get("/").plan("*=200+after:800");
            let all = (1..=count).map(|number| send(&stand, connection.as_ref(), number, &slow));
            let responses = futures_util::future::try_join_all(all).await?;
            let mut answers: Vec<String> = responses
                .iter()
                .map(|response| {
                    format!(
                        "{} {}",
                        response.status,
                        response.get("x-envoy-overloaded").unwrap_or("-")
                    )
                })
                .collect();
            answers.sort();
            let names = [
                "upstream_rq_pending_overflow",
                "upstream_cx_total",
                "upstream_cx_http2_total",
            ];
            Ok(Observation {
                exact: json!({ "answers": answers, "counters": stand.counters("a", &names).await? }),
                ..Observation::default()
            })
        },
    )
}

pub fn cases() -> Vec<Case> {
    let get = Request::get;
    let mut all = Vec::new();
    for sides in [Sides::Upstream, Sides::Downstream, Sides::Both] {
        all.extend([
            case(
                sides,
                "requests and answers",
                json!({}),
                json!({}),
                vec![
                    get("/a?b=c"),
                    get("/").method("POST").body("posted"),
                    get("/").method("HEAD"),
                    get("/").plan("*=204"),
                    get("/").plan("*=304"),
                    get("/").plan("*=500+x-own:1"),
                    get("/").header("x-forwarded-for", "192.0.2.7"),
                    get("/").header("cookie", "a=1").also("cookie", "b=2"),
                ],
            ),
            case(
                sides,
                "retries",
                json!({ "retry_policy": { "retry_on": "5xx,reset", "num_retries": 2 } }),
                json!({}),
                vec![
                    get("/").plan("*=503,200"),
                    get("/").plan("*=500"),
                    get("/").method("POST").body("again").plan("*=503,503,200"),
                ],
            ),
            case(
                sides,
                "a time limit",
                json!({ "timeout": "0.3s" }),
                json!({}),
                vec![get("/").plan("*=hang"), get("/")],
            ),
            case(
                sides,
                "hosts and paths rewritten",
                json!({ "prefix_rewrite": "/new/", "host_rewrite_literal": "other.test" }),
                json!({}),
                vec![get("/old")],
            ),
            at_once(sides, 0),
        ]);
    }
    for sides in [Sides::Upstream, Sides::Both] {
        all.extend([
            case(
                sides,
                "a stream that is reset",
                json!({}),
                json!({}),
                vec![get("/").plan("*=reset"), get("/")],
            ),
            at_once(sides, 3),
        ]);
    }
    all.push(case(
        Sides::Both,
        "trailers",
        json!({}),
        json!({}),
        vec![
            get("/")
                .method("POST")
                .header("te", "trailers")
                .header("content-type", "application/grpc")
                .plan("*=200+content-type:application/grpc+trailer:grpc-status=0"),
        ],
    ));
    all
}
