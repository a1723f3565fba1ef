//! Each planted bug breaks a property that otherwise holds, within a stated number of seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::breaker::{Breaker, Resource};
use trireme_proxy_decide::config::{
    Cluster, OutlierDetection, Priority, RetryBudget, Threshold, Thresholds, Update,
};
use trireme_proxy_decide::outlier::Outcome;
use trireme_proxy_decide::planted::{ALL, Bug, set};
use trireme_proxy_decide::upstream::{ClusterState, Live};

use crate::properties::{Setting, happen};
use crate::world::{cluster, everything, forward, rng, route, routes, snapshot};

fn setting() -> Setting {
    Setting {
        hosts: 4,
        connections: 2,
        pending: 3,
        requests: 5,
        retries: 2,
        budget: None,
        num_retries: 2,
        faults: 5,
    }
}

/// Whether a run of the driver keeps every promise.
fn driven(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        let setting = setting();
        let mut driver = setting.driver(seed);
        for _ in 0..400 {
            happen(&mut driver, &setting);
        }
        driver.close();
    }))
    .is_ok()
}

fn watched(hosts: u8) -> ClusterState {
    let config = Cluster {
        outlier: Some(OutlierDetection {
            consecutive_5xx: 1,
            max_ejection_percent: 40,
            base_ejection_time: Duration::from_secs(1),
            ..OutlierDetection::default()
        }),
        ..cluster("c", hosts)
    };
    let endpoints = config.endpoints.clone();
    ClusterState::new(Arc::new(config), endpoints, None, Nanos::ZERO)
}

/// Whether ejections stay within the cap whatever fails.
fn capped(_seed: u64) -> bool {
    let cluster = watched(10);
    for host in cluster.members.iter() {
        cluster.report(host, Outcome::Status(500), Nanos::ZERO, &mut rng(0));
    }
    cluster.detector().expect("on").ejected() <= 4
}

/// Whether a host stays out until a sweep.
fn swept(_seed: u64) -> bool {
    let cluster = watched(10);
    let host = cluster.members.iter().next().expect("a host");
    cluster.report(host, Outcome::Status(500), Nanos::ZERO, &mut rng(0));
    cluster.report(host, Outcome::Status(200), Nanos::from_secs(5), &mut rng(0));
    host.is_ejected()
}

/// Whether retries stay within the budget.
fn budgeted(_seed: u64) -> bool {
    let thresholds = Thresholds {
        default: Threshold {
            retry_budget: Some(RetryBudget {
                percent: 20.0,
                min_retry_concurrency: 3,
            }),
            ..Threshold::default()
        },
        ..Thresholds::default()
    };
    let breaker = Breaker::new(thresholds, Arc::default());
    let retries: Vec<_> = std::iter::from_fn(|| breaker.take(Priority::Default, Resource::Retries))
        .take(10)
        .collect();
    retries.len() <= 3
}

/// Whether a route and the cluster it newly names come into force together.
fn atomic(_seed: u64) -> bool {
    let to = |name: &str| {
        routes(vec![everything(vec![route(
            "/",
            trireme_proxy_decide::config::RouteAction::Forward(Box::new(forward(name))),
        )])])
    };
    let live = Live::new(snapshot(vec![cluster("v1", 1)], to("v1")), Nanos::ZERO);
    let update = Update {
        routes: vec![(Arc::from("routes"), Some(Arc::new(to("v2"))))],
        clusters: vec![(Arc::from("v2"), Some(Arc::new(cluster("v2", 1))))],
        ..Update::default()
    };
    let next = live.update(live.snapshot().with(&update), Nanos::ZERO);
    next.cluster("v2", Nanos::ZERO).is_some()
}

/// Seeds within which each is found.
const SEEDS: u64 = 40;

#[test]
fn every_planted_bug_is_found() {
    let searches: [(Bug, fn(u64) -> bool); 9] = [
        (Bug::EjectionCapOffByOne, capped),
        (Bug::UnejectBetweenSweeps, swept),
        (Bug::LeakedPendingSlot, driven),
        (Bug::RetrySameHost, driven),
        (Bug::StaleEndpointAfterDrain, driven),
        (Bug::PanicMiscount, driven),
        (Bug::HalfOpenStampede, driven),
        (Bug::BudgetOverflow, budgeted),
        (Bug::NonAtomicSubsetSwitch, atomic),
    ];
    assert_eq!(searches.len(), ALL.len());
    for (bug, holds) in searches {
        assert!(
            (0..5).all(holds),
            "{bug:?}: nothing is found where nothing is planted"
        );
        set(bug, true);
        let seed = (0..SEEDS).find(|seed| !holds(*seed));
        set(bug, false);
        println!("{bug:?}: {seed:?}");
        assert!(seed.is_some(), "{bug:?} was not found");
    }
}
