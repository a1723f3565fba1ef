//! Faults and CORS, and what virtual hosts and routes say to filters.

use std::sync::Arc;

use trireme_proxy_decide::config::{
    CorsPolicy, FaultAbort, FaultDelay, FaultPolicy, FilterOverrides, Fraction,
};

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{
    flag, fraction, number, optional_runtime_fraction, positive, status, text, texts,
};
use super::{matcher, rate_limit};
use crate::pb::envoy::config::route::v3 as route;
use crate::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
use crate::pb::envoy::extensions::filters::http::cors::v3 as cors;
use crate::pb::envoy::extensions::filters::http::fault::v3 as fault;
use crate::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimitPerRoute;
use crate::pb::envoy::r#type::v3 as proto;
use crate::pb::google::protobuf::Any;
use crate::{type_url, unpack};

fn share(percentage: Option<&proto::FractionalPercent>) -> Outcome<Fraction> {
    match percentage {
        Some(percentage) => fraction(percentage).at("percentage"),
        None => Ok(Fraction::NONE),
    }
}

pub(super) fn fault(message: &fault::HttpFault) -> Outcome<FaultPolicy> {
    unsupported(message.response_rate_limit.is_some(), "response_rate_limit")?;
    unsupported(message.filter_metadata.is_some(), "filter_metadata")?;
    let delay = message.delay.as_ref().map(delay).transpose().at("delay")?;
    let abort = message.abort.as_ref().map(abort).transpose().at("abort")?;
    Ok(FaultPolicy {
        delay,
        abort,
        upstream_cluster: text(&message.upstream_cluster),
        headers: each("headers", &message.headers, matcher::header)?,
        downstream_nodes: texts(&message.downstream_nodes),
        max_active_faults: number(message.max_active_faults.as_ref()),
    })
}

fn delay(delay: &common_fault::FaultDelay) -> Outcome<FaultDelay> {
    use common_fault::fault_delay::FaultDelaySecifier;
    let share = share(delay.percentage.as_ref())?;
    match &delay.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            match positive("fixed_delay", Some(fixed))? {
                Some(delay) => Ok(FaultDelay::Fixed { delay, share }),
                None => Err(refused("fixed_delay", "must be given")),
            }
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => Ok(FaultDelay::Header { share }),
        None => Err(reason("must have a fixed_delay or header_delay")),
    }
}

fn abort(abort: &fault::FaultAbort) -> Outcome<FaultAbort> {
    use fault::fault_abort::ErrorType;
    unsupported(!abort.response_body.is_empty(), "response_body")?;
    let share = share(abort.percentage.as_ref())?;
    match &abort.error_type {
        Some(ErrorType::HttpStatus(code)) => Ok(FaultAbort::Http {
            status: status(*code).at("http_status")?.as_u16(),
            share,
        }),
        Some(ErrorType::GrpcStatus(code)) => Ok(FaultAbort::Grpc {
            status: *code,
            share,
        }),
        Some(ErrorType::HeaderAbort(_)) => Ok(FaultAbort::Header { share }),
        None => Err(reason(
            "must have an http_status, grpc_status or header_abort",
        )),
    }
}

pub(super) fn cors(message: &cors::CorsPolicy) -> Outcome<CorsPolicy> {
    Ok(CorsPolicy {
        allow_origins: each(
            "allow_origin_string_match",
            &message.allow_origin_string_match,
            matcher::string,
        )?,
        allow_methods: text(&message.allow_methods),
        allow_headers: text(&message.allow_headers),
        expose_headers: text(&message.expose_headers),
        max_age: text(&message.max_age),
        allow_credentials: message.allow_credentials.as_ref().map(|value| value.value),
        enabled: optional_runtime_fraction("filter_enabled", message.filter_enabled.as_ref())?,
        shadow_enabled: optional_runtime_fraction(
            "shadow_enabled",
            message.shadow_enabled.as_ref(),
        )?,
        forward_not_matching_preflights: message
            .forward_not_matching_preflights
            .as_ref()
            .map(|value| value.value),
        allow_private_network_access: flag(message.allow_private_network_access.as_ref(), false),
    })
}

/// CORS in its old place, on the virtual host or the route's action.
pub(super) fn old_cors(message: &route::CorsPolicy) -> Outcome<CorsPolicy> {
    let enabled = message
        .enabled_specifier
        .as_ref()
        .map(|specifier| match specifier {
            route::cors_policy::EnabledSpecifier::FilterEnabled(share) => share,
        });
    cors(&cors::CorsPolicy {
        allow_origin_string_match: message.allow_origin_string_match.clone(),
        allow_methods: message.allow_methods.clone(),
        allow_headers: message.allow_headers.clone(),
        expose_headers: message.expose_headers.clone(),
        max_age: message.max_age.clone(),
        allow_credentials: message.allow_credentials,
        filter_enabled: enabled.cloned(),
        shadow_enabled: message.shadow_enabled.clone(),
        allow_private_network_access: message.allow_private_network_access,
        forward_not_matching_preflights: message.forward_not_matching_preflights,
    })
}

/// `typed_per_filter_config` of one level.
pub(super) fn overrides<'a>(
    configured: impl IntoIterator<Item = (&'a String, &'a Any)>,
) -> Outcome<FilterOverrides> {
    let mut overrides = FilterOverrides::default();
    for (name, any) in configured {
        one_override(&mut overrides, name, any).at_element("typed_per_filter_config", 0, name)?;
    }
    overrides.disabled.sort();
    Ok(overrides)
}

fn one_override(overrides: &mut FilterOverrides, name: &str, any: &Any) -> Outcome<()> {
    let url = any.type_url.as_str();
    if url == type_url::<fault::HttpFault>() {
        overrides.fault = Some(Arc::new(fault(&unpack(any)?)?));
    } else if url == type_url::<cors::CorsPolicy>() {
        overrides.cors = Some(Arc::new(cors(&unpack(any)?)?));
    } else if url == type_url::<LocalRateLimit>() {
        overrides.local_rate_limit = Some(Arc::new(rate_limit::local(&unpack(any)?)?));
    } else if url == type_url::<route::FilterConfig>() {
        let config: route::FilterConfig = unpack(any)?;
        if config.disabled {
            overrides.disabled.push(name.into());
        } else if let Some(inner) = &config.config {
            match one_override(overrides, name, inner) {
                Err(_) if config.is_optional => {}
                other => other.at("config")?,
            }
        }
    } else if url == type_url::<RateLimitPerRoute>() {
        let config: RateLimitPerRoute = unpack(any)?;
        let plain = config.rate_limits.is_empty()
            && config.domain.is_empty()
            && config.override_option == 0
            && config.vh_rate_limits == 0;
        unsupported(!plain, "rate_limit_per_route")?;
    } else {
        return Err(reason(format!(
            "settings of type {url} are not supported by this proxy"
        )));
    }
    Ok(())
}
