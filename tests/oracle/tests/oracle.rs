//! Runs every case against both proxies and prints what differed.
//!
//! `TRIREME_ORACLE=envoy` runs stock Envoy alone and checks what each case expects by itself;
//! `TRIREME_ORACLE_CASES=text` keeps the cases whose names hold the text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oracle::case::{self, Case, Observation, Stand};
use oracle::differences::{self, DELIBERATE, OPEN};
use oracle::place::Place;
use oracle::proxy::{self, Proxy};
use oracle::shape::Resources;
use oracle::upstream::Upstreams;
use tokio::sync::Semaphore;

/// Cases under way at once: enough to hide their waiting, few enough that times stay true on two cores.
const AT_ONCE: usize = 12;
/// Of one case, whatever it waits for.
const CASE_LIMIT: Duration = Duration::from_secs(90);
/// Fewer would not be the oracle.
const LEAST_CASES: usize = 120;

struct Outcome {
    group: &'static str,
    name: String,
    result: Result<()>,
    took: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_proxy_does_what_envoy_does() -> Result<()> {
    let begin = Instant::now();
    let alone = std::env::var("TRIREME_ORACLE").is_ok_and(|which| which == "envoy");
    let wanted = std::env::var("TRIREME_ORACLE_CASES").unwrap_or_default();
    let mut cases = oracle::cases::all();
    ensure!(cases.len() >= LEAST_CASES, "only {} cases", cases.len());
    cases.retain(|case| format!("{}/{}", case.group, case.name).contains(&wanted));
    let scratch = tempfile::tempdir()?;
    let sides: &[&'static str] = if alone {
        &["envoy"]
    } else {
        &["envoy", "trireme"]
    };
    let mut proxies = BTreeMap::new();
    let mut stands: Vec<Vec<Stand>> = Vec::new();
    let mut upstreams = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let place = place_of(case, number, "envoy", scratch.path());
        upstreams.push(Upstreams::start(&place.hosts).await?);
    }
    for side in sides {
        let places: Vec<Place> = cases
            .iter()
            .enumerate()
            .map(|(number, case)| place_of(case, number, side, scratch.path()))
            .collect();
        let mut all = Resources::default();
        for (case, place) in cases.iter().zip(&places) {
            let own = (case.configuration)(place);
            all.listeners.extend(own.listeners);
            all.clusters.extend(own.clusters);
            all.routes.extend(own.routes);
            all.endpoints.extend(own.endpoints);
        }
        let proxy = Arc::new(Proxy::start(side, &all, scratch.path()).await?);
        let listeners: Vec<_> = places.iter().map(|place| place.listener).collect();
        proxies.insert(*side, (proxy.clone(), listeners));
        let of_side = places.into_iter().zip(&upstreams);
        stands.push(
            of_side
                .map(|(place, upstreams)| Stand {
                    place,
                    upstreams: upstreams.clone(),
                    proxy: proxy.clone(),
                })
                .collect(),
        );
    }
    for (proxy, listeners) in proxies.values() {
        proxy.ready(listeners, scratch.path()).await?;
    }
    println!(
        "{} cases, both proxies ready after {:.1} s",
        cases.len(),
        begin.elapsed().as_secs_f64()
    );
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        let stands: Vec<Stand> = stands.iter().map(|side| side[number].clone()).collect();
        let slots = slots.clone();
        running.push(tokio::spawn(async move {
            let _slot = slots.acquire_owned().await;
            let begin = Instant::now();
            let result = run(&case, stands).await;
            Outcome {
                group: case.group,
                name: case.name,
                result,
                took: begin.elapsed(),
            }
        }));
    }
    let mut outcomes = Vec::new();
    for one in running {
        outcomes.push(one.await?);
    }
    report(&outcomes, begin.elapsed())
}

fn place_of(case: &Case, number: usize, side: &'static str, scratch: &std::path::Path) -> Place {
    let log = proxy::access_log(side, scratch);
    let name = format!("case{number:03}");
    Place::new(&name, number, case.hosts, side, log.display().to_string())
}

/// Both sides one after the other, so that neither takes the other's time.
async fn run(case: &Case, stands: Vec<Stand>) -> Result<()> {
    let mut observed: Vec<Observation> = Vec::new();
    for stand in stands {
        let side = stand.place.side;
        let script = tokio::time::timeout(CASE_LIMIT, (case.script)(stand));
        let observation = script
            .await
            .with_context(|| format!("{side}: not within {} s", CASE_LIMIT.as_secs()))?
            .with_context(|| side.to_owned())?;
        observed.push(observation);
    }
    case::expect(case, &observed[0]).context("envoy itself")?;
    match observed.as_slice() {
        [envoy, own] => case::compare(case, envoy, own),
        _ => Ok(()),
    }
}

fn report(outcomes: &[Outcome], took: Duration) -> Result<()> {
    let mut groups: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut failures = Vec::new();
    for outcome in outcomes {
        let full = format!("{}/{}", outcome.group, outcome.name);
        let deliberate = differences::find(DELIBERATE, outcome.group, &outcome.name);
        let open = differences::find(OPEN, outcome.group, &outcome.name);
        let (column, word) = match (&outcome.result, deliberate, open) {
            (Ok(()), None, None) => (0, "same"),
            (Ok(()), ..) => (3, "SAME, though listed as different"),
            (Err(_), Some(_), _) => (1, "different on purpose"),
            (Err(_), None, Some(_)) => (2, "different, open"),
            (Err(_), None, None) => (3, "DIFFERENT"),
        };
        groups.entry(outcome.group).or_default()[column] += 1;
        println!("{full:<60} {:>6.1} s  {word}", outcome.took.as_secs_f64());
        if let Err(error) = &outcome.result {
            println!("      {error:#}");
        }
        if let Some(difference) = deliberate.or(open) {
            println!("      listed: {}", difference.reason);
        }
        if column == 3 {
            failures.push(full);
        }
    }
    println!(
        "\n{:<12} {:>6} {:>12} {:>6} {:>8}",
        "group", "same", "on purpose", "open", "wrong"
    );
    for (group, [same, deliberate, open, wrong]) in &groups {
        println!("{group:<12} {same:>6} {deliberate:>12} {open:>6} {wrong:>8}");
    }
    println!(
        "{} cases in {:.0} s, {} wrong",
        outcomes.len(),
        took.as_secs_f64(),
        failures.len()
    );
    ensure!(failures.is_empty(), "wrong: {}", failures.join(", "));
    Ok(())
}
