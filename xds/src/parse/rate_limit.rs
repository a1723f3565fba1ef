//! Local and global rate limits, and the descriptors that routes make for them.

use trireme_proxy_decide::config::{
    Descriptor, DescriptorAction, DescriptorEntry, Fraction, HeaderValueMatch, LocalRateLimit,
    RateLimit, RateLimitFilter, TokenBucket,
};
use trireme_proxy_decide::ratelimit::LimitState;

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{duration_or, flag, number, optional_runtime_fraction, positive};
use super::{header, matcher};
use crate::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use crate::pb::envoy::config::route::v3::{RateLimit as RouteRateLimit, rate_limit as route};
use crate::pb::envoy::extensions::common::ratelimit::v3 as common;
use crate::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_proto;
use crate::pb::envoy::extensions::filters::http::ratelimit::v3 as global_proto;
use crate::pb::envoy::r#type::v3 as proto;

/// Envoy refuses faster refills than this.
const MIN_FILL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);
const TIMEOUT: std::time::Duration = std::time::Duration::from_millis(20);
const TOO_MANY_REQUESTS: u16 = 429;
/// Stages are numbered from 0 to this.
const MAX_STAGE: u32 = 10;

fn bucket(message: &proto::TokenBucket) -> Outcome<TokenBucket> {
    let fill_interval = positive("fill_interval", message.fill_interval.as_ref())?
        .ok_or_else(|| refused("fill_interval", "must be given"))?;
    if fill_interval < MIN_FILL_INTERVAL {
        return Err(refused("fill_interval", "must be at least 50ms"));
    }
    if message.max_tokens == 0 {
        return Err(refused("max_tokens", "must be greater than 0"));
    }
    let tokens_per_fill = number(message.tokens_per_fill.as_ref()).unwrap_or(1);
    if tokens_per_fill == 0 {
        return Err(refused("tokens_per_fill", "must be greater than 0"));
    }
    Ok(TokenBucket {
        max_tokens: message.max_tokens,
        tokens_per_fill,
        fill_interval,
    })
}

/// A status that is below 400 counts as 429, as in Envoy.
fn refusal_status(status: Option<&proto::HttpStatus>) -> u16 {
    let code = status.and_then(|status| u16::try_from(status.code).ok());
    code.filter(|code| *code >= 400)
        .unwrap_or(TOO_MANY_REQUESTS)
}

fn stage(stage: u32) -> Outcome<u32> {
    if stage > MAX_STAGE {
        return Err(refused(
            "stage",
            format!("{stage} must be at most {MAX_STAGE}"),
        ));
    }
    Ok(stage)
}

pub(super) fn local(message: &local_proto::LocalRateLimit) -> Outcome<LocalRateLimit> {
    unsupported(
        message.local_cluster_rate_limit.is_some(),
        "local_cluster_rate_limit",
    )?;
    unsupported(
        message.enable_retry_after_header,
        "enable_retry_after_header",
    )?;
    unsupported(
        message.vh_rate_limits == common::VhRateLimitsOptions::Include as i32
            || message.vh_rate_limits == common::VhRateLimitsOptions::Ignore as i32,
        "vh_rate_limits",
    )?;
    let bucket_of = message.token_bucket.as_ref().map(bucket).transpose();
    Ok(LocalRateLimit {
        stat_prefix: message.stat_prefix.as_str().into(),
        bucket: bucket_of.at("token_bucket")?,
        enabled: optional_runtime_fraction("filter_enabled", message.filter_enabled.as_ref())?
            .unwrap_or(Fraction::NONE),
        enforced: optional_runtime_fraction("filter_enforced", message.filter_enforced.as_ref())?
            .unwrap_or(Fraction::NONE),
        status: refusal_status(message.status.as_ref()),
        rate_limited_as_resource_exhausted: message.rate_limited_as_resource_exhausted,
        response_headers_to_add: header::additions(
            "response_headers_to_add",
            &message.response_headers_to_add,
        )?,
        request_headers_to_add: header::additions(
            "request_headers_to_add_when_not_enforced",
            &message.request_headers_to_add_when_not_enforced,
        )?,
        descriptors: each("descriptors", &message.descriptors, descriptor)?,
        stage: stage(message.stage)?,
        per_connection: message.local_rate_limit_per_downstream_connection,
        always_consume_default_bucket: flag(
            message.always_consume_default_token_bucket.as_ref(),
            true,
        ),
        ratelimit_headers: message.enable_x_ratelimit_headers != 0,
        rate_limits: each("rate_limits", &message.rate_limits, rate_limit)?,
        state: LimitState::default(),
    })
}

fn descriptor(message: &common::LocalRateLimitDescriptor) -> Outcome<Descriptor> {
    unsupported(message.shadow_mode, "shadow_mode")?;
    let entries = message.entries.iter().map(|entry| DescriptorEntry {
        key: entry.key.as_str().into(),
        value: entry.value.as_str().into(),
    });
    let bucket = match &message.token_bucket {
        Some(message) => bucket(message).at("token_bucket")?,
        None => return Err(refused("token_bucket", "must be given")),
    };
    Ok(Descriptor {
        entries: entries.collect(),
        bucket,
    })
}

pub(super) fn global(message: &global_proto::RateLimit) -> Outcome<RateLimitFilter> {
    if message.domain.is_empty() {
        return Err(refused("domain", "must not be empty"));
    }
    unsupported(
        !matches!(message.request_type.as_str(), "" | "both"),
        "request_type",
    )?;
    unsupported(
        !message.response_headers_to_add.is_empty(),
        "response_headers_to_add",
    )?;
    unsupported(message.status_on_error.is_some(), "status_on_error")?;
    unsupported(message.filter_enabled.is_some(), "filter_enabled")?;
    unsupported(message.filter_enforced.is_some(), "filter_enforced")?;
    unsupported(
        message.failure_mode_deny_percent.is_some(),
        "failure_mode_deny_percent",
    )?;
    unsupported(!message.rate_limits.is_empty(), "rate_limits")?;
    unsupported(
        message.enable_retry_after_header,
        "enable_retry_after_header",
    )?;
    let service = message.rate_limit_service.as_ref();
    let target = service
        .and_then(|service| service.grpc_service.as_ref())
        .and_then(|service| service.target_specifier.as_ref());
    let cluster = match target {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) if !envoy.cluster_name.is_empty() => {
            envoy.cluster_name.as_str().into()
        }
        _ => {
            return Err(refused(
                "rate_limit_service.grpc_service",
                "must be envoy_grpc with a cluster_name",
            ));
        }
    };
    Ok(RateLimitFilter {
        domain: message.domain.as_str().into(),
        stage: stage(message.stage)?,
        cluster,
        timeout: duration_or("timeout", message.timeout.as_ref(), TIMEOUT)?,
        failure_mode_deny: message.failure_mode_deny,
        status: refusal_status(message.rate_limited_status.as_ref()),
        rate_limited_as_resource_exhausted: message.rate_limited_as_resource_exhausted,
        ratelimit_headers: message.enable_x_ratelimit_headers != 0,
        disable_x_envoy_ratelimited_header: message.disable_x_envoy_ratelimited_header,
    })
}

/// One of a route's, virtual host's or filter's `rate_limits`.
pub(super) fn rate_limit(message: &RouteRateLimit) -> Outcome<RateLimit> {
    unsupported(message.limit.is_some(), "limit")?;
    unsupported(message.hits_addend.is_some(), "hits_addend")?;
    unsupported(message.apply_on_stream_done, "apply_on_stream_done")?;
    unsupported(message.x_ratelimit_option != 0, "x_ratelimit_option")?;
    Ok(RateLimit {
        stage: stage(number(message.stage.as_ref()).unwrap_or(0))?,
        actions: each("actions", &message.actions, action)?,
    })
}

fn key_or(key: &str, default: &str) -> std::sync::Arc<str> {
    if key.is_empty() {
        default.into()
    } else {
        key.into()
    }
}

fn action(message: &route::Action) -> Outcome<DescriptorAction> {
    use route::action::ActionSpecifier;
    let other = |what| Err(refused(what, "is not supported by this proxy"));
    match &message.action_specifier {
        Some(ActionSpecifier::SourceCluster(_)) => Ok(DescriptorAction::SourceCluster),
        Some(ActionSpecifier::DestinationCluster(_)) => Ok(DescriptorAction::DestinationCluster),
        Some(ActionSpecifier::RequestHeaders(action)) => Ok(DescriptorAction::RequestHeader {
            header: action.header_name.to_ascii_lowercase().into(),
            key: action.descriptor_key.as_str().into(),
            skip_if_absent: action.skip_if_absent,
        }),
        Some(ActionSpecifier::RemoteAddress(_)) => Ok(DescriptorAction::RemoteAddress),
        Some(ActionSpecifier::MaskedRemoteAddress(action)) => {
            let bits = |given, most: u8| match number(given) {
                None => Ok(most),
                Some(bits) => u8::try_from(bits)
                    .ok()
                    .filter(|bits| *bits <= most)
                    .ok_or_else(|| reason(format!("{bits} bits must be at most {most}"))),
            };
            Ok(DescriptorAction::MaskedRemoteAddress {
                v4_bits: bits(action.v4_prefix_mask_len.as_ref(), 32)?,
                v6_bits: bits(action.v6_prefix_mask_len.as_ref(), 128)?,
            })
        }
        Some(ActionSpecifier::GenericKey(action)) => Ok(DescriptorAction::GenericKey {
            key: key_or(&action.descriptor_key, "generic_key"),
            value: action.descriptor_value.as_str().into(),
        }),
        Some(ActionSpecifier::HeaderValueMatch(action)) => {
            Ok(DescriptorAction::HeaderValueMatch(HeaderValueMatch {
                key: key_or(&action.descriptor_key, "header_match"),
                value: action.descriptor_value.as_str().into(),
                expect_match: flag(action.expect_match.as_ref(), true),
                headers: each(
                    "header_value_match.headers",
                    &action.headers,
                    matcher::header,
                )?,
            }))
        }
        Some(ActionSpecifier::QueryParameterValueMatch(action)) => {
            Ok(DescriptorAction::QueryParameterValueMatch {
                key: key_or(&action.descriptor_key, "query_match"),
                value: action.descriptor_value.as_str().into(),
                expect_match: flag(action.expect_match.as_ref(), true),
                parameters: each(
                    "query_parameter_value_match.query_parameters",
                    &action.query_parameters,
                    matcher::query,
                )?,
            })
        }
        Some(ActionSpecifier::QueryParameters(_)) => other("query_parameters"),
        Some(ActionSpecifier::Metadata(_)) => other("metadata"),
        Some(ActionSpecifier::Extension(_)) => other("extension"),
        Some(ActionSpecifier::RemoteAddressMatch(_)) => other("remote_address_match"),
        #[allow(deprecated)]
        Some(ActionSpecifier::DynamicMetadata(_)) => other("dynamic_metadata"),
        None => Err(reason("must have an action")),
    }
}
