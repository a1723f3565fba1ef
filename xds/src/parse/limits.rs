//! Circuit breakers and outlier detection.

use std::time::Duration;

use trireme_proxy_decide::config::{OutlierDetection, RetryBudget, Threshold, Thresholds};

use super::refusal::{At, Outcome, refused, unsupported};
use super::value::{duration_or, flag, number, percent, positive, whole_percent};
use crate::pb::envoy::config::cluster::v3 as proto;
use crate::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds as Proto;
use crate::pb::envoy::config::core::v3::RoutingPriority;
use crate::pb::google::protobuf::{self as google, UInt32Value};

pub(super) fn thresholds(message: &proto::CircuitBreakers) -> Outcome<Thresholds> {
    let mut thresholds = Thresholds::default();
    // The first of a priority counts, as in Envoy.
    let (mut default, mut high) = (None, None);
    for (index, one) in message.thresholds.iter().enumerate() {
        let of = match RoutingPriority::try_from(one.priority) {
            Ok(RoutingPriority::Default) => &mut default,
            Ok(RoutingPriority::High) => &mut high,
            Err(_) => {
                return Err(refused(
                    "priority",
                    format!("{} is not known", one.priority),
                ))
                .at_element("thresholds", index, "");
            }
        };
        if of.is_none() {
            *of = Some(threshold(one).at_element("thresholds", index, "")?);
        }
    }
    thresholds.default = default.unwrap_or_default();
    thresholds.high = high.unwrap_or_default();
    for (index, one) in message.per_host_thresholds.iter().enumerate() {
        let only_connections = one.max_pending_requests.is_none()
            && one.max_requests.is_none()
            && one.max_retries.is_none()
            && one.max_connection_pools.is_none()
            && one.retry_budget.is_none();
        unsupported(!only_connections, "limits other than max_connections").at_element(
            "per_host_thresholds",
            index,
            "",
        )?;
        if one.priority == RoutingPriority::Default as i32 {
            thresholds.max_connections_per_host = number(one.max_connections.as_ref());
        } else {
            unsupported(one.max_connections.is_some(), "priority").at_element(
                "per_host_thresholds",
                index,
                "",
            )?;
        }
    }
    Ok(thresholds)
}

fn threshold(message: &Proto) -> Outcome<Threshold> {
    let default = Threshold::default();
    let or = |given: Option<&UInt32Value>, default| number(given).unwrap_or(default);
    let retry_budget = message
        .retry_budget
        .as_ref()
        .map(|budget| -> Outcome<RetryBudget> {
            unsupported(budget.budget_interval.is_some(), "budget_interval")?;
            let default = RetryBudget::default();
            Ok(RetryBudget {
                percent: percent("budget_percent", budget.budget_percent.as_ref())?
                    .unwrap_or(default.percent),
                min_retry_concurrency: or(
                    budget.min_retry_concurrency.as_ref(),
                    default.min_retry_concurrency,
                ),
            })
        });
    Ok(Threshold {
        max_connections: or(message.max_connections.as_ref(), default.max_connections),
        max_pending_requests: or(
            message.max_pending_requests.as_ref(),
            default.max_pending_requests,
        ),
        max_requests: or(message.max_requests.as_ref(), default.max_requests),
        max_retries: or(message.max_retries.as_ref(), default.max_retries),
        max_connection_pools: or(
            message.max_connection_pools.as_ref(),
            default.max_connection_pools,
        ),
        retry_budget: retry_budget.transpose().at("retry_budget")?,
        track_remaining: message.track_remaining,
    })
}

pub(super) fn outlier(message: &proto::OutlierDetection) -> Outcome<OutlierDetection> {
    unsupported(!message.monitors.is_empty(), "monitors")?;
    unsupported(
        flag(message.detect_degraded_hosts.as_ref(), false),
        "detect_degraded_hosts",
    )?;
    let default = OutlierDetection::default();
    let count = |given: Option<&UInt32Value>, default| number(given).unwrap_or(default);
    let longer = |field: &str, given: Option<&google::Duration>, default: Duration| {
        positive(field, given).map(|given| given.unwrap_or(default))
    };
    let base_ejection_time = longer(
        "base_ejection_time",
        message.base_ejection_time.as_ref(),
        default.base_ejection_time,
    )?;
    // Where it is not given, the longest is Envoy's default or the base, whichever is longer.
    let max_ejection_time = longer(
        "max_ejection_time",
        message.max_ejection_time.as_ref(),
        default.max_ejection_time.max(base_ejection_time),
    )?;
    if max_ejection_time < base_ejection_time {
        return Err(refused(
            "max_ejection_time",
            "must be greater than or equal to base_ejection_time",
        ));
    }
    Ok(OutlierDetection {
        consecutive_5xx: count(message.consecutive_5xx.as_ref(), default.consecutive_5xx),
        enforcing_consecutive_5xx: whole_percent(
            "enforcing_consecutive_5xx",
            message.enforcing_consecutive_5xx.as_ref(),
            default.enforcing_consecutive_5xx,
        )?,
        consecutive_gateway_failure: count(
            message.consecutive_gateway_failure.as_ref(),
            default.consecutive_gateway_failure,
        ),
        enforcing_consecutive_gateway_failure: whole_percent(
            "enforcing_consecutive_gateway_failure",
            message.enforcing_consecutive_gateway_failure.as_ref(),
            default.enforcing_consecutive_gateway_failure,
        )?,
        split_external_local_origin_errors: message.split_external_local_origin_errors,
        consecutive_local_origin_failure: count(
            message.consecutive_local_origin_failure.as_ref(),
            default.consecutive_local_origin_failure,
        ),
        enforcing_consecutive_local_origin_failure: whole_percent(
            "enforcing_consecutive_local_origin_failure",
            message.enforcing_consecutive_local_origin_failure.as_ref(),
            default.enforcing_consecutive_local_origin_failure,
        )?,
        interval: longer("interval", message.interval.as_ref(), default.interval)?,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter: duration_or(
            "max_ejection_time_jitter",
            message.max_ejection_time_jitter.as_ref(),
            default.max_ejection_time_jitter,
        )?,
        max_ejection_percent: whole_percent(
            "max_ejection_percent",
            message.max_ejection_percent.as_ref(),
            default.max_ejection_percent,
        )?,
        always_eject_one_host: flag(
            message.always_eject_one_host.as_ref(),
            default.always_eject_one_host,
        ),
        success_rate_minimum_hosts: count(
            message.success_rate_minimum_hosts.as_ref(),
            default.success_rate_minimum_hosts,
        ),
        success_rate_request_volume: count(
            message.success_rate_request_volume.as_ref(),
            default.success_rate_request_volume,
        ),
        success_rate_stdev_factor: count(
            message.success_rate_stdev_factor.as_ref(),
            default.success_rate_stdev_factor,
        ),
        enforcing_success_rate: whole_percent(
            "enforcing_success_rate",
            message.enforcing_success_rate.as_ref(),
            default.enforcing_success_rate,
        )?,
        enforcing_local_origin_success_rate: whole_percent(
            "enforcing_local_origin_success_rate",
            message.enforcing_local_origin_success_rate.as_ref(),
            default.enforcing_local_origin_success_rate,
        )?,
        failure_percentage_threshold: whole_percent(
            "failure_percentage_threshold",
            message.failure_percentage_threshold.as_ref(),
            default.failure_percentage_threshold,
        )?,
        enforcing_failure_percentage: whole_percent(
            "enforcing_failure_percentage",
            message.enforcing_failure_percentage.as_ref(),
            default.enforcing_failure_percentage,
        )?,
        enforcing_failure_percentage_local_origin: whole_percent(
            "enforcing_failure_percentage_local_origin",
            message.enforcing_failure_percentage_local_origin.as_ref(),
            default.enforcing_failure_percentage_local_origin,
        )?,
        failure_percentage_minimum_hosts: count(
            message.failure_percentage_minimum_hosts.as_ref(),
            default.failure_percentage_minimum_hosts,
        ),
        failure_percentage_request_volume: count(
            message.failure_percentage_request_volume.as_ref(),
            default.failure_percentage_request_volume,
        ),
        successful_active_health_check_uneject_host: flag(
            message.successful_active_health_check_uneject_host.as_ref(),
            default.successful_active_health_check_uneject_host,
        ),
    })
}
