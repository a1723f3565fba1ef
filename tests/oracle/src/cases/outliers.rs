//! Ejection of hosts that fail, and their return.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::case::{Case, Observation, Stand, milliseconds};
use crate::client::Request;
use crate::shape::{cluster, merged, one_route};

const GROUP: &str = "outlier";
const INTERVAL_MS: f64 = 500.0;
const BASE_MS: f64 = 1500.0;
/// Within 5 % of the ejection time and one sweep.
const TOLERANCE_MS: f64 = BASE_MS * 0.05 + INTERVAL_MS + 60.0;

/// Envoy's main thread decides on an ejection, and its workers are told: the next request must not overtake.
const APART: Duration = Duration::from_millis(40);

/// Envoy's ejection is in force a moment late: on a busy machine one request or two go astray.
const LATE: f64 = 2.0;

const ENFORCED: &[&str] = &[
    "outlier_detection.ejections_enforced_total",
    "outlier_detection.ejections_enforced_consecutive_5xx",
    "outlier_detection.ejections_enforced_consecutive_gateway_failure",
    "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
];

const DETECTED: &[&str] = &[
    "outlier_detection.ejections_overflow",
    "outlier_detection.ejections_detected_consecutive_5xx",
];

fn detection(settings: Value) -> Value {
    let base = json!({
        "interval": "0.5s", "base_ejection_time": "30s", "max_ejection_percent": 100,
        "enforcing_consecutive_5xx": 100, "enforcing_success_rate": 0, "consecutive_5xx": 3,
    });
    json!({
        "outlier_detection": merged(base, settings),
        // Envoy otherwise keeps such changes from its workers for up to a second.
        "common_lb_config": { "healthy_panic_threshold": { "value": 0 }, "update_merge_window": "0s" },
    })
}

/// Requests one after the other under one plan; the hosts that answered.
async fn hosts(
    stand: &Stand,
    first: usize,
    count: usize,
    plan: &str,
) -> anyhow::Result<Vec<String>> {
    let mut hosts = Vec::new();
    for number in first..first + count {
        let response = stand.send(number, &Request::get("/").plan(plan)).await?;
        let host = response.get("x-host").map(str::to_owned);
        hosts.push(host.unwrap_or_else(|| response.status.to_string()));
        tokio::time::sleep(APART).await;
    }
    Ok(hosts)
}

fn count(hosts: &[String], host: &str) -> usize {
    hosts.iter().filter(|one| *one == host).count()
}

/// How many requests host 0 gets of many while it fails so, and the counters after.
fn ejected(name: &str, number_of_hosts: usize, plan: &'static str, settings: Value) -> Case {
    Case::new(
        GROUP,
        name,
        number_of_hosts,
        move |place| {
            one_route(
                place,
                json!({}),
                cluster(place, "a", &place.hosts, detection(settings.clone())),
            )
        },
        move |stand| async move {
            hosts(&stand, 0, number_of_hosts * 8, plan).await?;
            let all = format!("{}/{}/", stand.place.side, stand.place.name);
            let attempts = stand.upstreams.attempts(&all);
            let mut shares: Vec<usize> = (0..number_of_hosts)
                .map(|host| attempts.iter().filter(|one| one.host == host).count())
                .collect();
            // Where the round begins is drawn by chance.
            shares.sort_unstable();
            let mut times = BTreeMap::new();
            for (index, share) in shares.into_iter().enumerate() {
                times.insert(format!("requests of host {index}"), (number(share), LATE));
            }
            let detected = stand.counters("a", DETECTED).await?;
            for (name, count) in detected.as_object().into_iter().flatten() {
                times.insert(name.clone(), (count.as_f64().unwrap_or(0.0), LATE));
            }
            let active = ["outlier_detection.ejections_active"];
            Ok(Observation {
                exact: json!({
                    "active": stand.counters("a", &active).await?,
                    "counters": stand.counters("a", ENFORCED).await?,
                }),
                times,
                ..Observation::default()
            })
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "a few dozen")]
fn number(count: usize) -> f64 {
    count as f64
}

pub fn cases() -> Vec<Case> {
    let gateway = |settings: Value| {
        merged(
            json!({ "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100,
                "enforcing_consecutive_5xx": 0 }),
            settings,
        )
    };
    vec![
        ejected("three errors", 3, "0=500", json!({})),
        ejected(
            "two errors and a success",
            3,
            "0=500",
            json!({ "consecutive_5xx": 30 }),
        ),
        ejected("one error", 2, "0=503", json!({ "consecutive_5xx": 1 })),
        ejected("no errors", 3, "0=404", json!({})),
        ejected("gateway errors", 3, "0=502", gateway(json!({}))),
        ejected(
            "errors that are no gateway's",
            3,
            "0=500",
            gateway(json!({})),
        ),
        ejected("resets", 3, "0=reset", json!({})),
        ejected(
            "at most 10 percent of three",
            3,
            "0=500",
            json!({ "max_ejection_percent": 10 }),
        ),
        ejected(
            "at most 50 percent of two",
            2,
            "*=500",
            json!({ "max_ejection_percent": 50 }),
        ),
        ejected(
            "at most 50 percent of three",
            3,
            "*=500",
            json!({ "max_ejection_percent": 50 }),
        ),
        ejected(
            "at most 34 percent of three",
            3,
            "*=500",
            json!({ "max_ejection_percent": 34 }),
        ),
        ejected("all of two", 2, "*=500", json!({})),
        ejected(
            "seen and not enforced",
            3,
            "0=500",
            json!({ "enforcing_consecutive_5xx": 0 }),
        ),
        ejected(
            "resets as of local origin",
            3,
            "0=reset",
            json!({ "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2,
                "enforcing_consecutive_local_origin_failure": 100 }),
        ),
        ejected(
            "errors beside those of local origin",
            3,
            "0=500",
            json!({ "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2 }),
        ),
        comes_back("back after the ejection time", 1),
        comes_back("back after twice the ejection time", 2),
        sweeps(
            "success rate",
            json!({ "enforcing_success_rate": 100, "enforcing_consecutive_5xx": 0,
                "success_rate_minimum_hosts": 3, "success_rate_request_volume": 3,
                "success_rate_stdev_factor": 1000, "interval": "1s" }),
        ),
        sweeps(
            "failure percentage",
            json!({ "enforcing_failure_percentage": 100, "enforcing_consecutive_5xx": 0,
                "failure_percentage_minimum_hosts": 3, "failure_percentage_request_volume": 3,
                "failure_percentage_threshold": 60, "interval": "1s" }),
        ),
    ]
}

/// From the ejection to the next request that the host gets, at the ejection of a number.
fn comes_back(name: &'static str, ejection: usize) -> Case {
    Case::new(
        GROUP,
        name,
        2,
        |place| {
            one_route(
                place,
                json!({}),
                cluster(
                    place,
                    "a",
                    &place.hosts,
                    detection(json!({ "base_ejection_time": "1.5s", "max_ejection_time": "30s" })),
                ),
            )
        },
        move |stand| async move {
            let mut number = 0;
            let mut took = Duration::ZERO;
            for _ in 0..ejection {
                // Until it is out.
                loop {
                    let seen = hosts(&stand, number, 2, "0=500").await?;
                    number += 2;
                    if count(&seen, "0") == 0 || number > 400 {
                        break;
                    }
                }
                let out = Instant::now();
                // Until it is back.
                loop {
                    let seen = hosts(&stand, number, 2, "0=200").await?;
                    number += 2;
                    took = out.elapsed();
                    if count(&seen, "0") > 0 || took > Duration::from_secs(15) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "one or two")]
            let tolerance = TOLERANCE_MS + BASE_MS * 0.05 * (ejection - 1) as f64;
            Ok(Observation {
                exact: stand.counters("a", ENFORCED).await?,
                times: BTreeMap::from([("away".to_owned(), (milliseconds(took), tolerance))]),
                ..Observation::default()
            })
        },
    )
}

/// Ejections that are decided at sweeps over what all hosts did.
fn sweeps(name: &'static str, settings: Value) -> Case {
    Case::new(
        GROUP,
        name,
        4,
        move |place| {
            one_route(
                place,
                json!({}),
                cluster(place, "a", &place.hosts, detection(settings.clone())),
            )
        },
        |stand| async move {
            let begin = Instant::now();
            let mut number = 0;
            // Enough for two whole intervals, evenly.
            while begin.elapsed() < Duration::from_millis(2600) {
                hosts(&stand, number, 4, "0=500").await?;
                number += 4;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let seen = hosts(&stand, number, 12, "0=500").await?;
            let names = [
                "outlier_detection.ejections_active",
                "outlier_detection.ejections_enforced_success_rate",
                "outlier_detection.ejections_enforced_failure_percentage",
            ];
            Ok(Observation {
                exact: json!({ "host 0 after": count(&seen, "0"), "counters": stand.counters("a", &names).await? }),
                ..Observation::default()
            })
        },
    )
}
