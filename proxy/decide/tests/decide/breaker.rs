//! Limits.

use std::sync::Arc;

use proptest::prelude::*;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::breaker::{Breaker, Resource, Token};
use trireme_proxy_decide::config::{Cluster, Priority, RetryBudget, Threshold, Thresholds};
use trireme_proxy_decide::upstream::{Admission, ClusterState, PoolView, admit};

use crate::world::cluster;

fn breaker(threshold: Threshold) -> Breaker {
    Breaker::new(
        Thresholds {
            default: threshold,
            ..Thresholds::default()
        },
        Arc::default(),
    )
}

const RESOURCES: [Resource; 4] = [
    Resource::Connections,
    Resource::Pending,
    Resource::Requests,
    Resource::Retries,
];

proptest! {
    /// Limits are never exceeded, and every place comes back.
    #[test]
    fn limits_hold(
        max in 0u32..6,
        steps in prop::collection::vec((0usize..4, any::<bool>(), any::<prop::sample::Index>()), 1..200),
    ) {
        let breaker = breaker(Threshold {
            max_connections: max,
            max_pending_requests: max,
            max_requests: max,
            max_retries: max,
            ..Threshold::default()
        });
        let mut held: Vec<Token> = Vec::new();
        for (resource, take, index) in steps {
            let resource = RESOURCES[resource];
            if take {
                let before = breaker.current(Priority::Default, resource);
                let token = breaker.take(Priority::Default, resource);
                prop_assert_eq!(token.is_some(), before < max);
                held.extend(token);
            } else if !held.is_empty() {
                let at = index.index(held.len());
                let token = held.swap_remove(at);
                if token.resource() == Resource::Pending { token.cancel() } else { drop(token) }
            }
            for resource in RESOURCES {
                prop_assert!(breaker.current(Priority::Default, resource) <= max);
            }
        }
        drop(held);
        for resource in RESOURCES {
            prop_assert_eq!(breaker.current(Priority::Default, resource), 0);
        }
    }

    /// A retry is admitted while there are fewer than the larger of share and minimum.
    #[test]
    fn budgets_hold(percent in 0f64..100.0, minimum in 0u32..5, requests in 0u32..50, pending in 0u32..50) {
        let breaker = breaker(Threshold {
            retry_budget: Some(RetryBudget { percent, min_retry_concurrency: minimum }),
            ..Threshold::default()
        });
        let _requests: Vec<_> = (0..requests)
            .filter_map(|_| breaker.take(Priority::Default, Resource::Requests))
            .collect();
        let _pending: Vec<_> = (0..pending)
            .filter_map(|_| breaker.take(Priority::Default, Resource::Pending))
            .collect();
        let retries: Vec<_> =
            std::iter::from_fn(|| breaker.take(Priority::Default, Resource::Retries)).collect();
        let share = (percent / 100.0 * f64::from(requests + pending)) as usize;
        prop_assert_eq!(retries.len(), share.max(minimum as usize));
    }
}

fn state(threshold: Threshold) -> ClusterState {
    let config = Cluster {
        thresholds: Thresholds {
            default: threshold,
            ..Thresholds::default()
        },
        ..cluster("c", 1)
    };
    let endpoints = config.endpoints.clone();
    ClusterState::new(Arc::new(config), endpoints, None, Nanos::ZERO)
}

/// The circuit breaking task of Istio: one connection, one waiting request; the third is refused.
#[test]
fn one_connection_and_one_waiting() {
    let cluster = state(Threshold {
        max_connections: 1,
        max_pending_requests: 1,
        ..Threshold::default()
    });
    let host = cluster.members.iter().next().expect("a host").clone();
    let mut pool = PoolView::default();
    let Admission::Wait(first, Some(connection)) = admit(&cluster, &host, Priority::Default, pool)
    else {
        panic!("the first waits for a connection of its own");
    };
    // Connected: the request has it, the next waits and opens none.
    drop(first);
    pool.connections = 1;
    let Admission::Wait(second, None) = admit(&cluster, &host, Priority::Default, pool) else {
        panic!("the second waits for the first's connection");
    };
    pool.pending = 1;
    assert!(matches!(
        admit(&cluster, &host, Priority::Default, pool),
        Admission::Overflow
    ));
    let stats: std::collections::BTreeMap<_, _> = cluster.stats.iter().collect();
    assert_eq!(stats["upstream_rq_pending_overflow"], 1);
    assert_eq!(stats["upstream_cx_overflow"], 1);
    second.cancel(&cluster);
    drop(connection);
    for resource in RESOURCES {
        assert_eq!(cluster.breaker.current(Priority::Default, resource), 0);
    }
}

/// A pool without connections may open one past the limit, and only one.
#[test]
fn a_lonely_pool_may_connect() {
    let cluster = state(Threshold {
        max_connections: 0,
        ..Threshold::default()
    });
    let host = cluster.members.iter().next().expect("a host").clone();
    let mut pool = PoolView::default();
    let Admission::Wait(_first, Some(_connection)) =
        admit(&cluster, &host, Priority::Default, pool)
    else {
        panic!("the first opens a connection");
    };
    pool = PoolView {
        connecting_capacity: 1,
        pending: 1,
        connections: 1,
        ..pool
    };
    assert!(matches!(
        admit(&cluster, &host, Priority::Default, pool),
        Admission::Wait(_, None)
    ));
}
