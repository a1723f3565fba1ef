use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{
    ClusterSpecifier, OutlierDetection, RouteAction, WeightedCluster, WeightedClusters,
};

use super::support::{answering, cluster, forward, get, http, ok, route, run, stat, status};

#[test]
fn hosts_take_turns() {
    run(async {
        let (one, two) = (
            answering(|_| ok("one")).await,
            answering(|_| ok("two")).await,
        );
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![cluster("back", &[one.address, two.address])],
        )
        .await;
        for _ in 0..10 {
            assert_eq!(get(proxy.address, "/").await.status, 200);
        }
        assert_eq!((one.seen.borrow().len(), two.seen.borrow().len()), (5, 5));
    });
}

#[test]
fn weights_split() {
    run(async {
        let (one, two) = (
            answering(|_| ok("one")).await,
            answering(|_| ok("two")).await,
        );
        let weighted = |name: &str, weight| WeightedCluster {
            name: Arc::from(name),
            cluster_header: None,
            weight,
            metadata_match: Vec::new(),
            headers: Default::default(),
            filters: Default::default(),
            host_rewrite_literal: None,
        };
        let mut action = forward("one");
        action.cluster = ClusterSpecifier::Weighted(WeightedClusters {
            clusters: vec![weighted("one", 30), weighted("two", 70)],
            random_value_header: None,
        });
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(action)))],
            vec![
                cluster("one", &[one.address]),
                cluster("two", &[two.address]),
            ],
        )
        .await;
        for _ in 0..200 {
            get(proxy.address, "/").await;
        }
        let share = one.seen.borrow().len();
        // 30 % of 200 within five standard deviations of 6.5.
        assert!((28..=92).contains(&share), "{share} of 200");
        assert_eq!(share + two.seen.borrow().len(), 200);
    });
}

#[test]
fn a_failing_host_is_ejected_and_returns() {
    run(async {
        let (bad, good) = (
            answering(|_| status("500 Internal Server Error", "")).await,
            answering(|_| ok("")).await,
        );
        let mut watched = cluster("back", &[bad.address, good.address]);
        watched.outlier = Some(OutlierDetection {
            consecutive_5xx: 2,
            max_ejection_percent: 100,
            interval: Duration::from_millis(50),
            base_ejection_time: Duration::from_millis(200),
            ..OutlierDetection::default()
        });
        let proxy = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![watched],
        )
        .await;
        while stat(&proxy, "cluster.back.outlier_detection.ejections_active") == 0 {
            get(proxy.address, "/").await;
        }
        assert_eq!(bad.seen.borrow().len(), 2);
        let ejected = tokio::time::Instant::now();
        while stat(&proxy, "cluster.back.outlier_detection.ejections_active") == 1 {
            assert_eq!(get(proxy.address, "/").await.status, 200);
        }
        assert!(
            ejected.elapsed() >= Duration::from_millis(190),
            "{:?}",
            ejected.elapsed()
        );
    });
}
