//! Outlier detection: the rules one by one, and what holds whatever happens.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::config::{Cluster, OutlierDetection};
use trireme_proxy_decide::outlier::{Change, Outcome, Reason};
use trireme_proxy_decide::upstream::{ClusterState, Host};

use crate::world::{cluster, endpoints, rng};

fn state(hosts: u8, outlier: OutlierDetection) -> ClusterState {
    let config = Cluster {
        outlier: Some(outlier),
        ..cluster("c", hosts)
    };
    let endpoints = config.endpoints.clone();
    ClusterState::new(Arc::new(config), endpoints, None, Nanos::ZERO)
}

fn hosts(cluster: &ClusterState) -> Vec<Arc<Host>> {
    cluster.members.iter().cloned().collect()
}

fn fail(cluster: &ClusterState, host: &Arc<Host>, times: u32, now: Nanos) -> Option<Change> {
    let mut change = None;
    for _ in 0..times {
        change = cluster.report(host, Outcome::Status(500), now, &mut rng(0));
    }
    change
}

fn sweep(cluster: &ClusterState, now: Nanos) -> Vec<Change> {
    cluster
        .detector()
        .expect("detection is on")
        .sweep(now, &mut rng(0))
}

#[test]
fn the_fifth_consecutive_error_ejects_at_once() {
    let cluster = state(
        10,
        OutlierDetection {
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        },
    );
    let host = hosts(&cluster)[0].clone();
    assert!(fail(&cluster, &host, 4, Nanos::ZERO).is_none());
    cluster.report(&host, Outcome::Status(200), Nanos::ZERO, &mut rng(0));
    assert!(fail(&cluster, &host, 4, Nanos::ZERO).is_none());
    assert!(matches!(
        fail(&cluster, &host, 1, Nanos::ZERO),
        Some(Change::Ejected {
            reason: Reason::Consecutive5xx,
            ..
        })
    ));
    assert!(host.is_ejected());
}

/// DESIGN §6: with the default cap of 10 % a service under ten hosts never ejects.
#[test]
fn few_hosts_never_eject_by_default() {
    for (count, ejects) in [(1, false), (9, false), (10, true), (19, true)] {
        let cluster = state(count, OutlierDetection::default());
        let first = hosts(&cluster)[0].clone();
        assert_eq!(
            fail(&cluster, &first, 5, Nanos::ZERO).is_some(),
            ejects,
            "{count} hosts"
        );
        let second = hosts(&cluster).get(1).cloned();
        if let Some(second) = second {
            assert!(
                fail(&cluster, &second, 5, Nanos::ZERO).is_none(),
                "{count} hosts"
            );
        }
    }
    let cluster = state(
        3,
        OutlierDetection {
            always_eject_one_host: true,
            ..OutlierDetection::default()
        },
    );
    let all = hosts(&cluster);
    assert!(fail(&cluster, &all[0], 5, Nanos::ZERO).is_some());
    assert!(fail(&cluster, &all[1], 5, Nanos::ZERO).is_none());
}

#[test]
fn ejections_grow_and_are_forgiven() {
    let cluster = state(
        2,
        OutlierDetection {
            max_ejection_percent: 100,
            max_ejection_time: Duration::from_secs(70),
            ..OutlierDetection::default()
        },
    );
    let host = hosts(&cluster)[0].clone();
    let mut now = Nanos::ZERO;
    let mut back = |expected_secs: u64| {
        assert!(fail(&cluster, &host, 5, now).is_some());
        let ejected_at = now;
        let mut guard = 0;
        while host.is_ejected() {
            now = cluster.detector().expect("on").next_sweep();
            sweep(&cluster, now);
            guard += 1;
            assert!(guard < 100);
        }
        assert_eq!(now.since(ejected_at), Duration::from_secs(expected_secs));
    };
    // Ejected at a sweep's time each, so whole intervals pass: 30 s, 60 s, then the cap of 70 s.
    back(30);
    back(60);
    back(70);
    back(70);
    // Every sweep that finds it in, an interval after its return, takes one base time away.
    for _ in 0..3 {
        now = cluster.detector().expect("on").next_sweep();
        sweep(&cluster, now);
    }
    assert!(fail(&cluster, &host, 5, now).is_some());
    assert_eq!(
        host.monitor
            .due_back(cluster.detector().expect("on").config())
            .since(now),
        Duration::from_secs(60)
    );
}

#[test]
fn the_cap_bounds_an_ejections_time() {
    let config = OutlierDetection {
        max_ejection_percent: 100,
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(30),
        max_ejection_time_jitter: Duration::from_secs(4),
        ..OutlierDetection::default()
    };
    let cluster = state(2, config);
    let host = hosts(&cluster)[0].clone();
    assert!(fail(&cluster, &host, 5, Nanos::ZERO).is_some());
    let due = host.monitor.due_back(&config);
    assert!((Nanos::from_secs(30)..=Nanos::from_secs(34)).contains(&due));
    sweep(&cluster, Nanos::from_secs(29));
    assert!(host.is_ejected());
    sweep(&cluster, Nanos::from_secs(45));
    assert!(!host.is_ejected());
}

#[test]
fn gateway_errors_and_local_failures_have_counters_of_their_own() {
    let config = OutlierDetection {
        max_ejection_percent: 100,
        consecutive_5xx: 0,
        consecutive_gateway_failure: 3,
        enforcing_consecutive_gateway_failure: 100,
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: 2,
        ..OutlierDetection::default()
    };
    let cluster = state(3, config);
    let all = hosts(&cluster);
    let report =
        |host: &Arc<Host>, outcome| cluster.report(host, outcome, Nanos::ZERO, &mut rng(0));
    // A 500 between starts the gateway count anew.
    for status in [503, 503, 500, 502, 504] {
        assert!(report(&all[0], Outcome::Status(status)).is_none());
    }
    assert!(matches!(
        report(&all[0], Outcome::Status(503)),
        Some(Change::Ejected {
            reason: Reason::ConsecutiveGatewayFailure,
            ..
        })
    ));
    assert!(report(&all[1], Outcome::ConnectFailed).is_none());
    assert!(report(&all[1], Outcome::Connected).is_none());
    assert!(report(&all[1], Outcome::ConnectFailed).is_none());
    assert!(matches!(
        report(&all[1], Outcome::Timeout(None)),
        Some(Change::Ejected {
            reason: Reason::ConsecutiveLocalOriginFailure,
            ..
        })
    ));
}

/// The example of Envoy's source: rates 50, 100, 100, 100, 100 give the threshold 52.
#[test]
fn success_rates_find_the_outlier() {
    let cluster = state(
        5,
        OutlierDetection {
            max_ejection_percent: 100,
            consecutive_5xx: 0,
            ..OutlierDetection::default()
        },
    );
    let all = hosts(&cluster);
    for (index, host) in all.iter().enumerate() {
        for request in 0..100 {
            let status = if index == 0 && request % 2 == 0 {
                500
            } else {
                200
            };
            cluster.report(host, Outcome::Status(status), Nanos::ZERO, &mut rng(0));
        }
    }
    let changes = sweep(&cluster, Nanos::from_secs(10));
    assert!(matches!(
        changes.as_slice(),
        [Change::Ejected {
            reason: Reason::SuccessRate,
            ..
        }]
    ));
    assert!(all[0].is_ejected());
}

#[test]
fn failure_percentages_need_volume() {
    let config = OutlierDetection {
        max_ejection_percent: 100,
        consecutive_5xx: 0,
        enforcing_success_rate: 0,
        enforcing_failure_percentage: 100,
        ..OutlierDetection::default()
    };
    for (requests, ejected) in [(49, 0), (50, 5)] {
        let cluster = state(5, config);
        for host in hosts(&cluster) {
            for request in 0..requests {
                let status = if request % 10 == 0 { 200 } else { 500 };
                cluster.report(&host, Outcome::Status(status), Nanos::ZERO, &mut rng(0));
            }
        }
        sweep(&cluster, Nanos::from_secs(10));
        assert_eq!(cluster.detector().expect("on").ejected(), ejected);
    }
}

#[test]
fn a_host_that_goes_no_longer_counts_and_comes_back_new() {
    let before = state(
        10,
        OutlierDetection {
            max_ejection_percent: 10,
            ..OutlierDetection::default()
        },
    );
    let host = hosts(&before)[9].clone();
    assert!(fail(&before, &host, 5, Nanos::ZERO).is_some());
    let nine = Arc::new(endpoints("c", &[1; 9]));
    let without = ClusterState::new(
        before.config.clone(),
        Some(nine),
        Some(&before),
        Nanos::ZERO,
    );
    assert_eq!(without.detector().expect("on").ejected(), 0);
    assert!(host.is_gone());
    let ten = Arc::new(endpoints("c", &[1; 10]));
    let again = ClusterState::new(
        before.config.clone(),
        Some(ten),
        Some(&without),
        Nanos::ZERO,
    );
    assert!(!hosts(&again)[9].is_ejected());
    // Reports of requests that the old one still had change nothing.
    assert!(fail(&again, &host, 20, Nanos::ZERO).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Fail(usize, u16),
    Succeed(usize),
    Sweep(u64),
    Resize(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<usize>(), 500u16..505).prop_map(|(host, status)| Step::Fail(host, status)),
        1 => any::<usize>().prop_map(Step::Succeed),
        2 => (1u64..40).prop_map(Step::Sweep),
        1 => (1u8..30).prop_map(Step::Resize),
    ]
}

proptest! {
    /// Ejected hosts never pass the cap by an ejection; hosts return only at sweeps, and neither
    /// before their time nor later than one sweep after it.
    #[test]
    fn ejections_stay_within_bounds(
        count in 1u8..30,
        cap in 0u32..=100,
        enforcing in prop::sample::select(vec![0u32, 50, 100]),
        jitter in 0u64..5,
        steps in prop::collection::vec(step(), 1..300),
        seed: u64,
    ) {
        let config = OutlierDetection {
            consecutive_5xx: 2,
            enforcing_consecutive_5xx: enforcing,
            max_ejection_percent: cap,
            max_ejection_time_jitter: Duration::from_secs(jitter),
            base_ejection_time: Duration::from_secs(15),
            ..OutlierDetection::default()
        };
        let mut rng = rng(seed);
        let mut cluster = state(count, config);
        let mut now = Nanos::ZERO;
        for step in steps {
            let all = hosts(&cluster);
            match step {
                Step::Fail(host, status) => {
                    let host = &all[host % all.len()];
                    let before: Vec<bool> = all.iter().map(|host| host.is_ejected()).collect();
                    if let Some(Change::Ejected { .. }) =
                        cluster.report(host, Outcome::Status(status), now, &mut rng)
                    {
                        let ejected = all.iter().filter(|host| host.is_ejected()).count();
                        prop_assert!(100 * ejected <= cap as usize * all.len());
                    }
                    for (host, was) in all.iter().zip(before) {
                        prop_assert!(!was || host.is_ejected(), "returned between sweeps");
                    }
                }
                Step::Succeed(host) => {
                    let host = &all[host % all.len()];
                    let was = host.is_ejected();
                    cluster.report(host, Outcome::Status(200), now, &mut rng);
                    prop_assert_eq!(was, host.is_ejected());
                }
                Step::Sweep(secs) => {
                    now = now.after(Duration::from_secs(secs));
                    let detector = cluster.detector().expect("on");
                    let due = detector.next_sweep() <= now;
                    let out: Vec<_> = all
                        .iter()
                        .filter(|host| host.is_ejected())
                        .map(|host| (host.clone(), host.monitor.due_back(&config)))
                        .collect();
                    detector.sweep(now, &mut rng);
                    for (host, back) in out {
                        prop_assert_eq!(!host.is_ejected(), due && back <= now);
                    }
                }
                Step::Resize(count) => {
                    let next = Arc::new(endpoints("c", &vec![1; usize::from(count)]));
                    cluster = ClusterState::new(
                        cluster.config.clone(), Some(next), Some(&cluster), now);
                    let ejected = hosts(&cluster).iter().filter(|host| host.is_ejected()).count();
                    prop_assert_eq!(cluster.detector().expect("on").ejected() as usize, ejected);
                }
            }
        }
    }
}
