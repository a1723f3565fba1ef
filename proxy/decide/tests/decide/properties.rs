//! What holds whatever happens: random events against the driver, which checks every step.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::rand_core::RngCore;
use trireme_proxy_decide::config::{
    Cluster, Endpoint, FaultAbort, FaultDelay, FaultPolicy, Fraction, HttpFilter, LbPolicy,
    LeastRequest, OutlierDetection, RetryBudget, RetryOn, RetryPolicy, RouteAction, RouterFilter,
    Snapshot, Threshold, Thresholds,
};
use trireme_proxy_decide::exchange::Event;
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;

use crate::driver::Driver;
use crate::world::{
    cluster, connection, endpoints, everything, forward, hcm, route, routes, snapshot,
};

/// A cluster with tight limits behind a route that retries.
#[derive(Clone, Debug)]
pub struct Setting {
    pub hosts: u8,
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
    pub budget: Option<f64>,
    pub num_retries: u32,
    pub faults: u32,
}

pub fn settings() -> impl Strategy<Value = Setting> {
    (
        1u8..6,
        0u32..5,
        0u32..5,
        0u32..6,
        0u32..3,
        prop::option::of(0f64..50.0),
        0u32..4,
        0u32..30,
    )
        .prop_map(
            |(hosts, connections, pending, requests, retries, budget, num_retries, faults)| {
                Setting {
                    hosts,
                    connections,
                    pending,
                    requests,
                    retries,
                    budget,
                    num_retries,
                    faults,
                }
            },
        )
}

impl Setting {
    pub fn cluster(&self) -> Cluster {
        Cluster {
            lb: LbPolicy::LeastRequest(LeastRequest::default()),
            thresholds: Thresholds {
                default: Threshold {
                    max_connections: self.connections,
                    max_pending_requests: self.pending,
                    max_requests: self.requests,
                    max_retries: self.retries,
                    retry_budget: self.budget.map(|percent| RetryBudget {
                        percent,
                        min_retry_concurrency: 1,
                    }),
                    ..Threshold::default()
                },
                ..Thresholds::default()
            },
            outlier: Some(OutlierDetection {
                consecutive_5xx: 3,
                max_ejection_percent: 50,
                base_ejection_time: Duration::from_secs(5),
                ..OutlierDetection::default()
            }),
            ..cluster("c", self.hosts)
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut action = forward("c");
        action.timeout = Some(Duration::from_secs(20));
        action.retry_policy = Some(Arc::new(RetryPolicy {
            retry_on: RetryOn::parse_any("5xx,connect-failure,refused-stream"),
            num_retries: self.num_retries,
            per_try_timeout: Some(Duration::from_secs(6)),
            avoid_previous_hosts: true,
            host_selection_max_attempts: 5,
            ..RetryPolicy::default()
        }));
        snapshot(
            vec![self.cluster()],
            routes(vec![everything(vec![route(
                "/",
                RouteAction::Forward(Box::new(action)),
            )])]),
        )
    }

    pub fn driver(&self, seed: u64) -> Driver {
        let mut hcm = hcm();
        hcm.filters = vec![
            HttpFilter::Fault {
                name: Arc::from("fault"),
                policy: Arc::new(FaultPolicy {
                    delay: Some(FaultDelay::Fixed {
                        delay: Duration::from_millis(500),
                        share: Fraction::percent(self.faults),
                    }),
                    abort: Some(FaultAbort::Http {
                        status: 418,
                        share: Fraction::percent(self.faults),
                    }),
                    ..FaultPolicy::default()
                }),
            },
            HttpFilter::Router(RouterFilter::default()),
        ];
        let mut driver = Driver::new(self.snapshot(), connection(hcm), seed);
        driver.connects = false;
        driver
    }
}

const BREAKS: [Broken; 4] = [
    Broken::ConnectionTermination,
    Broken::RemoteReset,
    Broken::RemoteRefusedStream,
    Broken::ProtocolError,
];

/// One random thing that happens.
pub fn happen(driver: &mut Driver, setting: &Setting) {
    let mut draw =
        |bound: usize| usize::try_from(driver.rng.next_u64() % bound.max(1) as u64).expect("small");
    let (what, which, more) = (draw(20), draw(1 << 16), draw(1 << 16));
    let active = driver.active();
    let open = driver.open();
    match what {
        0..=4 => {
            let head = RequestHead::get("host", "/").expect("valid");
            driver.begin(head, more % 3 != 0);
        }
        5..=7 => {
            let connecting = driver.connecting();
            if !connecting.is_empty() {
                driver.connected(connecting[which % connecting.len()], more % 4 != 0);
            }
        }
        8..=12 if !active.is_empty() => {
            let request = active[which % active.len()];
            if driver.requests[request].exchange.is_streaming() {
                driver.end(request);
            } else {
                let status = [200, 200, 500, 503, 404][more % 5];
                driver.answer(request, status, &[], more % 2 == 0);
            }
        }
        13 | 14 if !active.is_empty() => {
            let request = active[which % active.len()];
            driver.break_off(request, BREAKS[more % BREAKS.len()], "");
        }
        15 if !open.is_empty() => driver.leave(open[which % open.len()]),
        16 if !open.is_empty() => driver.on(open[which % open.len()], Event::RequestEnd),
        17 if !open.is_empty() && more % 4 == 0 => {
            driver.on(open[which % open.len()], Event::BodyTooLarge);
        }
        18 => driver.pass(Duration::from_millis(which as u64 % 3_000)),
        19 if more % 4 == 0 => {
            // Some other hosts, or one that drains.
            let hosts = 1 + which % usize::from(setting.hosts + 2);
            let mut next = endpoints("c", &vec![1; hosts]);
            if more % 8 == 0 {
                let drains: &mut Endpoint = &mut next.localities[0].endpoints[0];
                drains.health = trireme_proxy_decide::config::EndpointHealth::Draining;
            }
            let changed = Cluster {
                endpoints: Some(Arc::new(next)),
                ..setting.cluster()
            };
            let snapshot = driver.live.snapshot().with_cluster(changed);
            driver.update(snapshot);
        }
        _ => {}
    }
    driver.check_limits();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every request gets exactly one answer, limits hold, retries stay within the policy and
    /// away from hosts already tried, and at the end nothing is held: under any order of events.
    #[test]
    fn exchanges_keep_their_promises(setting in settings(), seed: u64, steps in 1usize..400) {
        let mut driver = setting.driver(seed);
        for _ in 0..steps {
            happen(&mut driver, &setting);
        }
        driver.close();
    }

    /// The same seed gives the same run.
    #[test]
    fn runs_repeat(setting in settings(), seed: u64) {
        let run = || {
            let mut driver = setting.driver(seed);
            for _ in 0..150 {
                happen(&mut driver, &setting);
            }
            let told: Vec<_> = driver
                .requests
                .iter()
                .map(|request| {
                    (
                        request.attempts.clone(),
                        request.exchange.details().to_owned(),
                        request.exchange.outcome(driver.now),
                    )
                })
                .collect();
            driver.close();
            told
        };
        prop_assert_eq!(run(), run());
    }
}
