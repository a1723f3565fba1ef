//! A traffic policy's limits, balancing and ejection as a cluster's.

use trireme_model::istio::{
    ConnectionPoolSettings, ConsistentHash, LoadBalancerSettings, OutlierDetection, RetryBudget,
    SimpleLb, TcpKeepalive, TrafficPolicy, Warmup,
};

use super::Draft;
use crate::assignment::locality_setting;
use crate::mesh_config::MeshConfig;
use crate::proto::{
    cluster as pb, core, duration, exact, kind, predicate, protobuf, route, uint, upstream,
};

use pb::cluster::{DiscoveryType, LbConfig, LbPolicy};

/// Istio's ring where none is asked for.
const RING_SIZE: u64 = 1024;
/// Retry budget where it is given without numbers, of active requests and at the least.
const RETRY_BUDGET_PERCENT: f64 = 20.0;
const RETRY_BUDGET_MIN: u32 = 3;
/// Warm-up where it is given without numbers.
const WARMUP_MIN_PERCENT: f64 = 10.0;
const WARMUP_AGGRESSION: f64 = 1.0;

pub fn apply(draft: &mut Draft, mesh: &MeshConfig, policy: &TrafficPolicy) {
    let pool = policy.connection_pool.clone().unwrap_or_default();
    connection_pool(draft, mesh, &pool, policy.retry_budget.as_ref());
    if let Some(outlier) = &policy.outlier_detection {
        outlier_detection(draft, outlier);
    }
    load_balancer(draft, mesh, policy);
}

/// A limit of zero is no limit.
fn limit(value: i32) -> Option<protobuf::UInt32Value> {
    uint(match u32::try_from(value) {
        Ok(0) | Err(_) => u32::MAX,
        Ok(value) => value,
    })
}

fn connection_pool(
    draft: &mut Draft,
    mesh: &MeshConfig,
    pool: &ConnectionPoolSettings,
    budget: Option<&RetryBudget>,
) {
    let tcp = pool.tcp.clone().unwrap_or_default();
    let http = pool.http.clone().unwrap_or_default();
    draft.cluster.circuit_breakers = Some(pb::CircuitBreakers {
        thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connections: limit(tcp.max_connections),
            max_pending_requests: limit(http.http1_max_pending_requests),
            max_requests: limit(http.http2_max_requests),
            max_retries: limit(http.max_retries),
            retry_budget: budget.map(|budget| pb::circuit_breakers::thresholds::RetryBudget {
                budget_percent: Some(kind::Percent {
                    value: budget.percent.unwrap_or(RETRY_BUDGET_PERCENT),
                }),
                budget_interval: budget.budget_interval.and_then(duration),
                min_retry_concurrency: uint(match budget.min_retry_concurrency {
                    0 => RETRY_BUDGET_MIN,
                    min => min,
                }),
            }),
            track_remaining: true,
            ..pb::circuit_breakers::Thresholds::default()
        }],
        ..pb::CircuitBreakers::default()
    });
    if let Some(timeout) = tcp.connect_timeout {
        draft.cluster.connect_timeout = duration(timeout);
    }
    if let Some(keepalive) = tcp.tcp_keepalive.as_ref().or(mesh.tcp_keepalive.as_ref()) {
        draft.cluster.upstream_connection_options = Some(pb::UpstreamConnectionOptions {
            tcp_keepalive: Some(tcp_keepalive(keepalive)),
            ..pb::UpstreamConnectionOptions::default()
        });
    }
    let idle = http.idle_timeout.or(tcp.idle_timeout);
    let per_connection = u32::try_from(http.max_requests_per_connection).unwrap_or(0);
    if idle.is_some() || per_connection > 0 || tcp.max_connection_duration.is_some() {
        let options = draft.http.get_or_insert_default();
        let common = options.common_http_protocol_options.get_or_insert_default();
        common.idle_timeout = idle.and_then(duration);
        common.max_connection_duration = tcp.max_connection_duration.and_then(duration);
        if per_connection > 0 {
            common.max_requests_per_connection = uint(per_connection);
        }
    }
    if let Some(http2) = draft.http2() {
        if let Ok(streams @ 1..) = u32::try_from(http.max_concurrent_streams) {
            http2.max_concurrent_streams = uint(streams);
        }
        if let Some(keepalive) = &http.http2_keep_alive {
            http2.connection_keepalive = Some(core::KeepaliveSettings {
                interval: keepalive.interval.and_then(duration),
                timeout: keepalive.timeout.and_then(duration),
                ..core::KeepaliveSettings::default()
            });
        }
    }
}

fn tcp_keepalive(keepalive: &TcpKeepalive) -> core::TcpKeepalive {
    let seconds = |length: Option<trireme_model::istio::Duration>| {
        let length = length.filter(|it| !it.is_zero())?;
        uint(u32::try_from(length.as_secs()).unwrap_or(u32::MAX))
    };
    core::TcpKeepalive {
        keepalive_probes: match keepalive.probes {
            0 => None,
            probes => uint(probes),
        },
        keepalive_time: seconds(keepalive.time),
        keepalive_interval: seconds(keepalive.interval),
    }
}

/// What is absent stays absent, so that Envoy's default holds; success rates are not looked at.
fn outlier_detection(draft: &mut Draft, outlier: &OutlierDetection) {
    let enforced = |count: Option<u32>| count.and_then(|it| uint(if it > 0 { 100 } else { 0 }));
    let mut out = pb::OutlierDetection {
        enforcing_success_rate: uint(0),
        consecutive_5xx: outlier.consecutive_5xx_errors.and_then(uint),
        enforcing_consecutive_5xx: enforced(outlier.consecutive_5xx_errors),
        consecutive_gateway_failure: outlier.consecutive_gateway_errors.and_then(uint),
        enforcing_consecutive_gateway_failure: enforced(outlier.consecutive_gateway_errors),
        interval: outlier.interval.and_then(duration),
        base_ejection_time: outlier.base_ejection_time.and_then(duration),
        ..pb::OutlierDetection::default()
    };
    if let Ok(percent @ 1..) = u32::try_from(outlier.max_ejection_percent) {
        out.max_ejection_percent = uint(percent);
    }
    if outlier.split_external_local_origin_errors {
        out.split_external_local_origin_errors = true;
        if let Some(count @ 1..) = outlier.consecutive_local_origin_failures {
            out.consecutive_local_origin_failure = uint(count);
            out.enforcing_consecutive_local_origin_failure = uint(100);
        }
        out.enforcing_local_origin_success_rate = uint(0);
    }
    draft.cluster.outlier_detection = Some(out);
    let common = draft.cluster.common_lb_config.get_or_insert_default();
    common.healthy_panic_threshold = Some(kind::Percent {
        value: f64::from(outlier.min_health_percent.max(0)),
    });
    if !outlier.outlier_detection_http_error_codes.is_empty() {
        let options = draft.http.get_or_insert_default();
        options.outlier_detection = Some(upstream::http_protocol_options::OutlierDetection {
            error_matcher: Some(error_codes(&outlier.outlier_detection_http_error_codes)),
        });
    }
}

fn error_codes(codes: &[u32]) -> predicate::MatchPredicate {
    use predicate::match_predicate::{MatchSet, Rule};
    let one = |code: &u32| predicate::MatchPredicate {
        rule: Some(Rule::HttpResponseHeadersMatch(
            predicate::HttpHeadersMatch {
                headers: vec![route::HeaderMatcher {
                    name: ":status".to_owned(),
                    header_match_specifier: Some(
                        route::header_matcher::HeaderMatchSpecifier::StringMatch(exact(
                            &code.to_string(),
                        )),
                    ),
                    ..route::HeaderMatcher::default()
                }],
            },
        )),
    };
    let mut rules: Vec<_> = codes.iter().map(one).collect();
    match rules.len() {
        1 => rules.remove(0),
        _ => predicate::MatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        },
    }
}

fn load_balancer(draft: &mut Draft, mesh: &MeshConfig, policy: &TrafficPolicy) {
    use pb::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
    let cluster = &mut draft.cluster;
    let original = pb::cluster::ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
    if cluster.cluster_discovery_type == Some(original) {
        cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    let settings = policy.load_balancer.clone().unwrap_or_default();
    let weighted = locality_setting(mesh, policy).is_some_and(|it| {
        let ordered = !it.failover.is_empty() || !it.failover_priority.is_empty();
        !it.distribute.is_empty() || (policy.outlier_detection.is_some() && ordered)
    });
    if weighted {
        let common = cluster.common_lb_config.get_or_insert_default();
        common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig::default(),
        ));
    }
    simple(cluster, &settings);
    if let Some(hash) = &settings.consistent_hash {
        consistent_hash(cluster, hash);
    }
}

fn simple(cluster: &mut pb::Cluster, settings: &LoadBalancerSettings) {
    let slow_start = settings.warmup.as_ref().map(slow_start);
    match settings.simple {
        Some(SimpleLb::Random) => cluster.lb_policy = LbPolicy::Random as i32,
        Some(SimpleLb::RoundRobin) => {
            cluster.lb_policy = LbPolicy::RoundRobin as i32;
            cluster.lb_config = slow_start.map(|slow_start| {
                LbConfig::RoundRobinLbConfig(pb::cluster::RoundRobinLbConfig {
                    slow_start_config: Some(slow_start),
                })
            });
        }
        _ => {
            cluster.lb_policy = LbPolicy::LeastRequest as i32;
            cluster.lb_config = slow_start.map(|slow_start| {
                LbConfig::LeastRequestLbConfig(pb::cluster::LeastRequestLbConfig {
                    slow_start_config: Some(slow_start),
                    ..pb::cluster::LeastRequestLbConfig::default()
                })
            });
        }
    }
}

fn slow_start(warmup: &Warmup) -> pb::cluster::SlowStartConfig {
    pb::cluster::SlowStartConfig {
        slow_start_window: warmup.duration.and_then(duration),
        aggression: Some(core::RuntimeDouble {
            default_value: warmup.aggression.unwrap_or(WARMUP_AGGRESSION),
            // Envoy wants a key; nobody overrides it at run time.
            runtime_key: "warmup.aggression".to_owned(),
        }),
        min_weight_percent: Some(kind::Percent {
            value: warmup.minimum_percent.unwrap_or(WARMUP_MIN_PERCENT),
        }),
    }
}

fn consistent_hash(cluster: &mut pb::Cluster, hash: &ConsistentHash) {
    let size = |value: u64| Some(protobuf::UInt64Value { value });
    if let Some(maglev) = &hash.maglev {
        cluster.lb_policy = LbPolicy::Maglev as i32;
        cluster.lb_config = (maglev.table_size != 0).then(|| {
            LbConfig::MaglevLbConfig(pb::cluster::MaglevLbConfig {
                table_size: size(maglev.table_size),
            })
        });
        return;
    }
    cluster.lb_policy = LbPolicy::RingHash as i32;
    let minimum = match &hash.ring_hash {
        Some(ring) if ring.minimum_ring_size != 0 => Some(ring.minimum_ring_size),
        // Given without a size: Envoy's own.
        Some(_) => None,
        None => Some(RING_SIZE),
    };
    cluster.lb_config = minimum.map(|minimum| {
        LbConfig::RingHashLbConfig(pb::cluster::RingHashLbConfig {
            minimum_ring_size: size(minimum),
            ..pb::cluster::RingHashLbConfig::default()
        })
    });
}
