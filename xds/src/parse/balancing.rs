//! How a cluster's hosts are chosen: policy, localities, panic, subsets, slow start.

use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{
    Cluster, ClusterKind, CommonLb, HashFunction, LbPolicy, LeastRequest, LocalityLb, Maglev,
    PanicThreshold, RingHash, SlowStart, SubsetFallback, SubsetLb, SubsetSelector,
};

use super::cluster::original_dst;
use super::refusal::{At, Outcome, reason, refused, unsupported};
use super::value::{flag, number, percent, positive, struct_labels};
use crate::pb::envoy::config::cluster::v3 as proto;
use crate::pb::envoy::config::cluster::v3::cluster as of;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::load_balancing_policies as policies;
use crate::pb::envoy::extensions::load_balancing_policies::common::v3 as common;
use crate::pb::envoy::r#type::v3::Percent;
use crate::pb::google::protobuf::{Any, Duration as ProtoDuration, UInt64Value};
use crate::{type_url, unpack};

/// Envoy's largest ring, and its largest table of Maglev's.
const MAX_RING_SIZE: u64 = 8 * 1024 * 1024;
const MAX_TABLE_SIZE: u64 = 5_000_011;
const MIN_WEIGHT_PERCENT: f64 = 10.0;

pub(super) fn balancing(message: &proto::Cluster, cluster: &mut Cluster) -> Outcome<()> {
    if let Some(config) = &message.common_lb_config {
        cluster.common_lb = common_lb(config).at("common_lb_config")?;
    }
    if let Some(config) = &message.lb_subset_config {
        let subsets = subsets(config).at("lb_subset_config")?;
        cluster.subsets = (!subsets.selectors.is_empty()).then(|| Arc::new(subsets));
    }
    if let Some(policy) = &message.load_balancing_policy {
        // The new form, which wins over the old.
        return extension(policy, cluster).at("load_balancing_policy");
    }
    let config = message.lb_config.as_ref();
    cluster.lb = match of::LbPolicy::try_from(message.lb_policy) {
        Ok(of::LbPolicy::RoundRobin) => LbPolicy::RoundRobin {
            slow_start: match config {
                Some(of::LbConfig::RoundRobinLbConfig(config)) => {
                    old_slow_start(config.slow_start_config.as_ref()).at("round_robin_lb_config")?
                }
                _ => None,
            },
        },
        Ok(of::LbPolicy::LeastRequest) => LbPolicy::LeastRequest(match config {
            Some(of::LbConfig::LeastRequestLbConfig(config)) => least_request(
                number(config.choice_count.as_ref()),
                config.active_request_bias.as_ref(),
                old_slow_start(config.slow_start_config.as_ref())?,
                false,
            )
            .at("least_request_lb_config")?,
            _ => LeastRequest::default(),
        }),
        Ok(of::LbPolicy::Random) => LbPolicy::Random,
        Ok(of::LbPolicy::RingHash) => LbPolicy::RingHash(match config {
            Some(of::LbConfig::RingHashLbConfig(config)) => ring(
                config.minimum_ring_size.as_ref(),
                config.maximum_ring_size.as_ref(),
                config.hash_function == of::ring_hash_lb_config::HashFunction::MurmurHash2 as i32,
            )
            .at("ring_hash_lb_config")?,
            _ => RingHash::default(),
        }),
        Ok(of::LbPolicy::Maglev) => LbPolicy::Maglev(match config {
            Some(of::LbConfig::MaglevLbConfig(config)) => {
                maglev(config.table_size.as_ref()).at("maglev_lb_config")?
            }
            _ => Maglev::default(),
        }),
        Ok(of::LbPolicy::ClusterProvided) => LbPolicy::ClusterProvided,
        Ok(of::LbPolicy::LoadBalancingPolicyConfig) => {
            return Err(refused("load_balancing_policy", "must be given"));
        }
        Err(_) => {
            return Err(refused(
                "lb_policy",
                format!("{} is not known", message.lb_policy),
            ));
        }
    };
    if let Some(of::LbConfig::OriginalDstLbConfig(config)) = config {
        original_dst(config, cluster).at("original_dst_lb_config")?;
    }
    check_provided(cluster)
}

/// Original destination and only that chooses its hosts itself.
fn check_provided(cluster: &Cluster) -> Outcome<()> {
    let original = cluster.kind == ClusterKind::OriginalDst;
    let provided = cluster.lb == LbPolicy::ClusterProvided;
    if original != provided {
        return Err(refused(
            "lb_policy",
            "CLUSTER_PROVIDED belongs to ORIGINAL_DST clusters, and they to it",
        ));
    }
    Ok(())
}

fn slow_start(
    window: Option<&ProtoDuration>,
    aggression: Option<&core::RuntimeDouble>,
    min_weight: Option<&Percent>,
) -> Outcome<Option<SlowStart>> {
    let Some(window) = positive("slow_start_window", window)? else {
        return Ok(None);
    };
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    if aggression <= 0.0 {
        return Err(refused("aggression", "must be greater than 0"));
    }
    Ok(Some(SlowStart {
        window: window.max(Duration::from_millis(1)),
        aggression,
        min_weight_percent: percent("min_weight_percent", min_weight)?
            .unwrap_or(MIN_WEIGHT_PERCENT),
    }))
}

fn old_slow_start(config: Option<&of::SlowStartConfig>) -> Outcome<Option<SlowStart>> {
    match config {
        Some(config) => slow_start(
            config.slow_start_window.as_ref(),
            config.aggression.as_ref(),
            config.min_weight_percent.as_ref(),
        )
        .at("slow_start_config"),
        None => Ok(None),
    }
}

fn new_slow_start(config: Option<&common::SlowStartConfig>) -> Outcome<Option<SlowStart>> {
    match config {
        Some(config) => slow_start(
            config.slow_start_window.as_ref(),
            config.aggression.as_ref(),
            config.min_weight_percent.as_ref(),
        )
        .at("slow_start_config"),
        None => Ok(None),
    }
}

fn least_request(
    choice_count: Option<u32>,
    bias: Option<&core::RuntimeDouble>,
    slow_start: Option<SlowStart>,
    full_scan: bool,
) -> Outcome<LeastRequest> {
    let choice_count = choice_count.unwrap_or(2);
    if choice_count < 2 {
        return Err(refused("choice_count", "must be at least 2"));
    }
    let active_request_bias = bias.map_or(1.0, |bias| bias.default_value);
    if active_request_bias < 0.0 {
        return Err(refused("active_request_bias", "must be at least 0"));
    }
    Ok(LeastRequest {
        choice_count,
        active_request_bias,
        slow_start,
        full_scan,
    })
}

fn ring(
    minimum: Option<&UInt64Value>,
    maximum: Option<&UInt64Value>,
    murmur: bool,
) -> Outcome<RingHash> {
    let default = RingHash::default();
    let minimum_ring_size = minimum.map_or(default.minimum_ring_size, |size| size.value);
    let maximum_ring_size = maximum.map_or(default.maximum_ring_size, |size| size.value);
    if maximum_ring_size > MAX_RING_SIZE {
        return Err(refused(
            "maximum_ring_size",
            format!("must be at most {MAX_RING_SIZE}"),
        ));
    }
    if minimum_ring_size > maximum_ring_size {
        return Err(refused(
            "minimum_ring_size",
            "must be at most the maximum_ring_size",
        ));
    }
    Ok(RingHash {
        minimum_ring_size,
        maximum_ring_size,
        hash_function: if murmur {
            HashFunction::MurmurHash2
        } else {
            HashFunction::XxHash
        },
    })
}

fn maglev(size: Option<&UInt64Value>) -> Outcome<Maglev> {
    let table_size = size.map_or(Maglev::default().table_size, |size| size.value);
    let prime = table_size > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= table_size)
            .all(|divisor| !table_size.is_multiple_of(divisor));
    if !prime || table_size > MAX_TABLE_SIZE {
        return Err(refused(
            "table_size",
            format!("{table_size} must be a prime of at most {MAX_TABLE_SIZE}"),
        ));
    }
    Ok(Maglev { table_size })
}

fn common_lb(config: &of::CommonLbConfig) -> Outcome<CommonLb> {
    use of::common_lb_config::LocalityConfigSpecifier;
    let mut out = CommonLb::default();
    let panic = percent(
        "healthy_panic_threshold",
        config.healthy_panic_threshold.as_ref(),
    )?;
    if let Some(percent) = panic {
        out.panic_threshold = PanicThreshold { percent };
    }
    match &config.locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            out.locality = LocalityLb::Weighted;
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            out.locality = LocalityLb::ZoneAware;
            out.fail_traffic_on_panic = zone.fail_traffic_on_panic;
        }
        None => {}
    }
    out.close_connections_on_host_set_change = config.close_connections_on_host_set_change;
    if let Some(hashing) = &config.consistent_hashing_lb_config {
        out.use_hostname_for_hashing = hashing.use_hostname_for_hashing;
        unsupported(hashing.hash_balance_factor.is_some(), "hash_balance_factor")?;
    }
    if let Some(set) = &config.override_host_status {
        use core::HealthStatus;
        // By default unknown and healthy hosts only; more is for sessions bound to a host.
        let usual = [HealthStatus::Unknown as i32, HealthStatus::Healthy as i32];
        let more = set.statuses.iter().any(|status| !usual.contains(status));
        unsupported(more, "override_host_status")?;
    }
    Ok(out)
}

fn subsets(config: &of::LbSubsetConfig) -> Outcome<SubsetLb> {
    use of::lb_subset_config::LbSubsetFallbackPolicy;
    use of::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Selector;
    unsupported(config.list_as_any, "list_as_any")?;
    unsupported(
        config.metadata_fallback_policy != 0,
        "metadata_fallback_policy",
    )?;
    unsupported(config.locality_weight_aware, "locality_weight_aware")?;
    unsupported(config.scale_locality_weight, "scale_locality_weight")?;
    let fallback = match LbSubsetFallbackPolicy::try_from(config.fallback_policy) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => SubsetFallback::NoFallback,
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => SubsetFallback::AnyEndpoint,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) => SubsetFallback::DefaultSubset,
        Err(_) => {
            return Err(refused(
                "fallback_policy",
                format!("{} is not known", config.fallback_policy),
            ));
        }
    };
    let mut selectors = Vec::with_capacity(config.subset_selectors.len());
    for (index, selector) in config.subset_selectors.iter().enumerate() {
        let fallback = match Selector::try_from(selector.fallback_policy) {
            Ok(Selector::NotDefined) => Ok(None),
            Ok(Selector::NoFallback) => Ok(Some(SubsetFallback::NoFallback)),
            Ok(Selector::AnyEndpoint) => Ok(Some(SubsetFallback::AnyEndpoint)),
            Ok(Selector::DefaultSubset) => Ok(Some(SubsetFallback::DefaultSubset)),
            Ok(Selector::KeysSubset) => Err(refused(
                "fallback_policy",
                "KEYS_SUBSET is not supported by this proxy",
            )),
            Err(_) => Err(refused("fallback_policy", "is not known")),
        };
        let fallback = fallback.at_element("subset_selectors", index, "")?;
        unsupported(selector.single_host_per_subset, "single_host_per_subset").at_element(
            "subset_selectors",
            index,
            "",
        )?;
        let mut keys: Vec<Arc<str>> = selector
            .keys
            .iter()
            .map(|key| key.as_str().into())
            .collect();
        keys.sort();
        keys.dedup();
        selectors.push(SubsetSelector { keys, fallback });
    }
    let default_subset = config
        .default_subset
        .as_ref()
        .map(struct_labels)
        .transpose();
    Ok(SubsetLb {
        selectors,
        fallback,
        default_subset: default_subset.at("default_subset")?.unwrap_or_default(),
        panic_mode_any: config.panic_mode_any,
    })
}

/// `load_balancing_policy`: the first policy that is known counts, as in Envoy.
fn extension(message: &proto::LoadBalancingPolicy, cluster: &mut Cluster) -> Outcome<()> {
    let mut unknown = Vec::new();
    for policy in &message.policies {
        let Some(any) = policy
            .typed_extension_config
            .as_ref()
            .and_then(|config| config.typed_config.as_ref())
        else {
            continue;
        };
        if one_extension(any, cluster)? {
            return check_provided(cluster);
        }
        unknown.push(any.type_url.clone());
    }
    Err(reason(format!(
        "none of the policies {unknown:?} is supported by this proxy"
    )))
}

fn one_extension(any: &Any, cluster: &mut Cluster) -> Outcome<bool> {
    let url = any.type_url.as_str();
    if url == type_url::<policies::round_robin::v3::RoundRobin>() {
        let config: policies::round_robin::v3::RoundRobin = unpack(any)?;
        locality(config.locality_lb_config.as_ref(), cluster)?;
        let slow_start = new_slow_start(config.slow_start_config.as_ref())?;
        cluster.lb = LbPolicy::RoundRobin { slow_start };
    } else if url == type_url::<policies::least_request::v3::LeastRequest>() {
        let config: policies::least_request::v3::LeastRequest = unpack(any)?;
        locality(config.locality_lb_config.as_ref(), cluster)?;
        let method = policies::least_request::v3::least_request::SelectionMethod::FullScan as i32;
        #[allow(deprecated)]
        let full_scan =
            config.selection_method == method || flag(config.enable_full_scan.as_ref(), false);
        cluster.lb = LbPolicy::LeastRequest(least_request(
            number(config.choice_count.as_ref()),
            config.active_request_bias.as_ref(),
            new_slow_start(config.slow_start_config.as_ref())?,
            full_scan,
        )?);
    } else if url == type_url::<policies::random::v3::Random>() {
        let config: policies::random::v3::Random = unpack(any)?;
        locality(config.locality_lb_config.as_ref(), cluster)?;
        cluster.lb = LbPolicy::Random;
    } else if url == type_url::<policies::ring_hash::v3::RingHash>() {
        let config: policies::ring_hash::v3::RingHash = unpack(any)?;
        if config.locality_weighted_lb_config.is_some() {
            cluster.common_lb.locality = LocalityLb::Weighted;
        }
        consistent(config.consistent_hashing_lb_config.as_ref(), cluster)?;
        let murmur = policies::ring_hash::v3::ring_hash::HashFunction::MurmurHash2 as i32;
        cluster.lb = LbPolicy::RingHash(ring(
            config.minimum_ring_size.as_ref(),
            config.maximum_ring_size.as_ref(),
            config.hash_function == murmur,
        )?);
    } else if url == type_url::<policies::maglev::v3::Maglev>() {
        let config: policies::maglev::v3::Maglev = unpack(any)?;
        if config.locality_weighted_lb_config.is_some() {
            cluster.common_lb.locality = LocalityLb::Weighted;
        }
        consistent(config.consistent_hashing_lb_config.as_ref(), cluster)?;
        cluster.lb = LbPolicy::Maglev(maglev(config.table_size.as_ref())?);
    } else if url == type_url::<policies::cluster_provided::v3::ClusterProvided>() {
        cluster.lb = LbPolicy::ClusterProvided;
    } else if url == type_url::<policies::wrr_locality::v3::WrrLocality>() {
        let config: policies::wrr_locality::v3::WrrLocality = unpack(any)?;
        let Some(inner) = &config.endpoint_picking_policy else {
            return Err(refused("endpoint_picking_policy", "must be given"));
        };
        extension(inner, cluster).at("endpoint_picking_policy")?;
        cluster.common_lb.locality = LocalityLb::Weighted;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn locality(config: Option<&common::LocalityLbConfig>, cluster: &mut Cluster) -> Outcome<()> {
    use common::locality_lb_config::LocalityConfigSpecifier;
    match config.and_then(|config| config.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            cluster.common_lb.locality = LocalityLb::Weighted;
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            unsupported(zone.force_local_zone.is_some(), "force_local_zone")?;
            cluster.common_lb.locality = LocalityLb::ZoneAware;
            cluster.common_lb.fail_traffic_on_panic = zone.fail_traffic_on_panic;
        }
        None => {}
    }
    Ok(())
}

fn consistent(
    config: Option<&common::ConsistentHashingLbConfig>,
    cluster: &mut Cluster,
) -> Outcome<()> {
    if let Some(config) = config {
        unsupported(
            !config.hash_policy.is_empty(),
            "consistent_hashing_lb_config.hash_policy",
        )?;
        cluster.common_lb.use_hostname_for_hashing = config.use_hostname_for_hashing;
        unsupported(config.hash_balance_factor.is_some(), "hash_balance_factor")?;
    }
    Ok(())
}
