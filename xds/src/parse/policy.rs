//! Policies of routes: retries, hashes, rewrites, redirects, direct responses, mirrors.

use std::time::Duration;

use ::http::StatusCode;
use trireme_proxy_decide::config::{
    Direct, Fraction, HashPolicy, HashSource, HostRewrite, Mirror, PathRewrite, RateLimitedBackOff,
    Redirect, ResetHeader, ResetHeaderFormat, RetryOn, RetryPolicy,
};

use super::matcher;
use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{
    duration, duration_or, header_name, inline, number, optional_header_name, port, positive,
    runtime_fraction, status, text,
};
use crate::pb::envoy::config::route::v3 as route;
use crate::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use crate::unpack;

/// Bodies of direct responses are in every proxy's memory: Envoy's default limit.
const MAX_DIRECT_BODY_BYTES: usize = 4096;
const BASE_INTERVAL: Duration = Duration::from_millis(25);
/// The largest back-off is this many times the base where it is not given.
const MAX_INTERVAL_FACTOR: u32 = 10;
const RATE_LIMITED_MAX_INTERVAL: Duration = Duration::from_secs(300);

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
const OMIT_CANARY_HOSTS: &str = "envoy.retry_host_predicates.omit_canary_hosts";
const PREVIOUS_PRIORITIES: &str = "envoy.retry_priorities.previous_priorities";

pub(super) fn retry(message: &route::RetryPolicy) -> Outcome<RetryPolicy> {
    unsupported(
        !message.retry_options_predicates.is_empty(),
        "retry_options_predicates",
    )?;
    unsupported(message.refresh_cluster_on_retry, "refresh_cluster_on_retry")?;
    let (mut avoid_previous_hosts, mut omit_canary_hosts) = (false, false);
    for predicate in &message.retry_host_predicate {
        match predicate.name.as_str() {
            PREVIOUS_HOSTS => avoid_previous_hosts = true,
            OMIT_CANARY_HOSTS => omit_canary_hosts = true,
            other => {
                return Err(refused(
                    "retry_host_predicate",
                    format!("{other:?} is not supported by this proxy"),
                ));
            }
        }
    }
    let back_off = message.retry_back_off.as_ref();
    let base_interval = match back_off {
        Some(back_off) => positive(
            "retry_back_off.base_interval",
            back_off.base_interval.as_ref(),
        )?
        .ok_or_else(|| refused("retry_back_off.base_interval", "must be given"))?
        // Envoy counts in whole milliseconds and rounds less up to one.
        .max(Duration::from_millis(1)),
        None => BASE_INTERVAL,
    };
    let max_interval = positive(
        "retry_back_off.max_interval",
        back_off.and_then(|back_off| back_off.max_interval.as_ref()),
    )?
    .unwrap_or(base_interval.saturating_mul(MAX_INTERVAL_FACTOR));
    if max_interval < base_interval {
        return Err(refused(
            "retry_back_off.max_interval",
            "must be greater than or equal to the base_interval",
        ));
    }
    let limited = message.rate_limited_retry_back_off.as_ref();
    Ok(RetryPolicy {
        retry_on: RetryOn::parse_any(&message.retry_on),
        num_retries: number(message.num_retries.as_ref()).unwrap_or(1),
        per_try_timeout: duration("per_try_timeout", message.per_try_timeout.as_ref())?,
        per_try_idle_timeout: duration(
            "per_try_idle_timeout",
            message.per_try_idle_timeout.as_ref(),
        )?,
        retriable_status_codes: each(
            "retriable_status_codes",
            &message.retriable_status_codes,
            |code| u16::try_from(*code).map_err(|_| reason(format!("{code} is no HTTP status"))),
        )?,
        retriable_headers: each(
            "retriable_headers",
            &message.retriable_headers,
            matcher::header,
        )?,
        retriable_request_headers: each(
            "retriable_request_headers",
            &message.retriable_request_headers,
            matcher::header,
        )?,
        base_interval,
        max_interval,
        rate_limited_back_off: limited
            .map(rate_limited)
            .transpose()
            .at("rate_limited_retry_back_off")?,
        avoid_previous_hosts,
        omit_canary_hosts,
        host_selection_max_attempts: host_selection(message.host_selection_retry_max_attempts),
        previous_priorities_update_frequency: message
            .retry_priority
            .as_ref()
            .map(priorities)
            .transpose()
            .at("retry_priority")?,
    })
}

/// Envoy's default where the field has proto3's zero.
fn host_selection(attempts: i64) -> u32 {
    match u32::try_from(attempts) {
        Ok(0) | Err(_) => 1,
        Ok(attempts) => attempts,
    }
}

fn priorities(message: &route::retry_policy::RetryPriority) -> Outcome<u32> {
    use route::retry_policy::retry_priority::ConfigType;
    if message.name != PREVIOUS_PRIORITIES {
        return Err(refused(
            "name",
            format!("{:?} is not supported by this proxy", message.name),
        ));
    }
    let Some(ConfigType::TypedConfig(any)) = &message.config_type else {
        return Err(refused("typed_config", "must be given"));
    };
    let config: PreviousPrioritiesConfig = unpack(any).at("typed_config")?;
    match u32::try_from(config.update_frequency) {
        Ok(frequency) if frequency > 0 => Ok(frequency),
        _ => Err(refused(
            "typed_config.update_frequency",
            "must be greater than 0",
        )),
    }
}

fn rate_limited(
    message: &route::retry_policy::RateLimitedRetryBackOff,
) -> Outcome<RateLimitedBackOff> {
    use route::retry_policy::ResetHeaderFormat as Proto;
    if message.reset_headers.is_empty() {
        return Err(refused("reset_headers", "must not be empty"));
    }
    let reset_headers = each("reset_headers", &message.reset_headers, |header| {
        Ok(ResetHeader {
            name: header_name(&header.name).at("name")?,
            format: match Proto::try_from(header.format) {
                Ok(Proto::Seconds) => ResetHeaderFormat::Seconds,
                Ok(Proto::UnixTimestamp) => ResetHeaderFormat::UnixTimestamp,
                Err(_) => return Err(refused("format", format!("{} is not known", header.format))),
            },
        })
    })?;
    Ok(RateLimitedBackOff {
        reset_headers,
        max_interval: positive("max_interval", message.max_interval.as_ref())?
            .unwrap_or(RATE_LIMITED_MAX_INTERVAL),
    })
}

/// Hedging would send a request twice: only a policy that does nothing is accepted.
pub(super) fn no_hedging(message: Option<&route::HedgePolicy>) -> Outcome<()> {
    let Some(policy) = message else {
        return Ok(());
    };
    let idle = number(policy.initial_requests.as_ref()).unwrap_or(1) <= 1
        && policy
            .additional_request_chance
            .as_ref()
            .is_none_or(|chance| chance.numerator == 0)
        && !policy.hedge_on_per_try_timeout;
    unsupported(!idle, "hedge_policy")
}

pub(super) fn hash(message: &route::route_action::HashPolicy) -> Outcome<HashPolicy> {
    use route::route_action::hash_policy::PolicySpecifier;
    let source = match &message.policy_specifier {
        Some(PolicySpecifier::Header(header)) => HashSource::Header {
            name: header.header_name.to_ascii_lowercase().into(),
            rewrite: header
                .regex_rewrite
                .as_ref()
                .map(matcher::regex_rewrite)
                .transpose()
                .at("header.regex_rewrite")?,
        },
        Some(PolicySpecifier::Cookie(cookie)) => {
            if cookie.name.is_empty() {
                return Err(refused("cookie.name", "must not be empty"));
            }
            unsupported(!cookie.attributes.is_empty(), "cookie.attributes")?;
            HashSource::Cookie {
                name: cookie.name.as_str().into(),
                ttl: duration("cookie.ttl", cookie.ttl.as_ref())?,
                path: cookie.path.as_str().into(),
            }
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => {
            HashSource::SourceIp
        }
        Some(PolicySpecifier::ConnectionProperties(_)) => {
            return Err(refused("connection_properties.source_ip", "must be true"));
        }
        Some(PolicySpecifier::QueryParameter(parameter)) => {
            HashSource::QueryParameter(parameter.name.as_str().into())
        }
        Some(PolicySpecifier::FilterState(state)) => {
            HashSource::FilterState(state.key.as_str().into())
        }
        None => return Err(reason("must say what to hash")),
    };
    Ok(HashPolicy {
        source,
        terminal: message.terminal,
    })
}

pub(super) fn path_rewrite(action: &route::RouteAction) -> Outcome<Option<PathRewrite>> {
    unsupported(action.path_rewrite_policy.is_some(), "path_rewrite_policy")?;
    let rewrite = action.regex_rewrite.as_ref().map(matcher::regex_rewrite);
    let mut given = Vec::new();
    if let Some(rewrite) = rewrite.transpose().at("regex_rewrite")? {
        given.push(PathRewrite::Regex(rewrite));
    }
    if let Some(prefix) = text(&action.prefix_rewrite) {
        given.push(PathRewrite::Prefix(prefix));
    }
    if let Some(path) = text(&action.path_rewrite) {
        given.push(full_path("path_rewrite", path)?);
    }
    if given.len() > 1 {
        return Err(refused(
            "prefix_rewrite",
            "only one of prefix_rewrite, regex_rewrite and path_rewrite may be given",
        ));
    }
    Ok(given.pop())
}

/// Envoy's new field is a format; text without operators says the same in both.
fn full_path(field: &str, path: std::sync::Arc<str>) -> Outcome<PathRewrite> {
    unsupported(path.contains('%'), field)?;
    Ok(PathRewrite::Full(path))
}

pub(super) fn host_rewrite(
    message: Option<&route::route_action::HostRewriteSpecifier>,
) -> Outcome<Option<HostRewrite>> {
    use route::route_action::HostRewriteSpecifier;
    Ok(match message {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(host.as_str().into()))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => {
            auto.value.then_some(HostRewrite::Auto)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(header)) => Some(HostRewrite::Header(
            header_name(header).at("host_rewrite_header")?,
        )),
        Some(HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => Some(HostRewrite::PathRegex(
            matcher::regex_rewrite(rewrite).at("host_rewrite_path_regex")?,
        )),
        Some(HostRewriteSpecifier::HostRewrite(_)) => {
            return Err(refused("host_rewrite", "is not supported by this proxy"));
        }
    })
}

pub(super) fn mirror(message: &route::route_action::RequestMirrorPolicy) -> Outcome<Mirror> {
    unsupported(
        !message.request_headers_mutations.is_empty(),
        "request_headers_mutations",
    )?;
    unsupported(
        !message.host_rewrite_literal.is_empty(),
        "host_rewrite_literal",
    )?;
    let cluster_header = optional_header_name("cluster_header", &message.cluster_header)?;
    if message.cluster.is_empty() == cluster_header.is_none() {
        return Err(reason("must have either a cluster or a cluster_header"));
    }
    let share = match &message.runtime_fraction {
        Some(share) => runtime_fraction(share).at("runtime_fraction")?,
        None => Fraction::ALL,
    };
    Ok(Mirror {
        cluster: message.cluster.as_str().into(),
        cluster_header,
        share,
        disable_shadow_host_suffix: message.disable_shadow_host_suffix_append,
    })
}

pub(super) fn redirect(message: &route::RedirectAction) -> Outcome<Redirect> {
    use route::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
    };
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            return Err(refused(
                "response_code",
                format!("{} is not known", message.response_code),
            ));
        }
    };
    let (mut https, mut scheme) = (false, None);
    match &message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(value)) => https = *value,
        Some(SchemeRewriteSpecifier::SchemeRedirect(value)) => scheme = text(value),
        None => {}
    }
    let (mut path, mut prefix, mut regex) = (None, None, None);
    match &message.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(value)) => path = text(value),
        Some(PathRewriteSpecifier::PrefixRewrite(value)) => prefix = Some(value.as_str().into()),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            regex = Some(matcher::regex_rewrite(rewrite).at("regex_rewrite")?);
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(refused("path_rewrite", "is not supported by this proxy"));
        }
        None => {}
    }
    let port = match message.port_redirect {
        0 => None,
        given => Some(port(given).at("port_redirect")?),
    };
    Ok(Redirect {
        status,
        https,
        scheme,
        host: text(&message.host_redirect),
        port,
        path,
        prefix,
        regex,
        strip_query: message.strip_query,
    })
}

pub(super) fn direct(
    message: &route::DirectResponseAction,
    limit: Option<usize>,
) -> Outcome<Direct> {
    unsupported(message.body_format.is_some(), "body_format")?;
    let body = match &message.body {
        Some(source) => inline(source).at("body")?,
        None => Default::default(),
    };
    let limit = limit.unwrap_or(MAX_DIRECT_BODY_BYTES);
    if body.len() > limit {
        return Err(refused(
            "body",
            format!("has {} bytes; at most {limit} are allowed", body.len()),
        ));
    }
    Ok(Direct {
        status: status(message.status).at("status")?,
        body,
        content_type: None,
    })
}

pub(super) fn max_stream_duration(
    message: &route::route_action::MaxStreamDuration,
) -> Outcome<trireme_proxy_decide::config::MaxStreamDuration> {
    Ok(trireme_proxy_decide::config::MaxStreamDuration {
        max_stream_duration: duration("max_stream_duration", message.max_stream_duration.as_ref())?,
        grpc_timeout_header_max: duration(
            "grpc_timeout_header_max",
            message.grpc_timeout_header_max.as_ref(),
        )?,
        grpc_timeout_header_offset: message
            .grpc_timeout_header_offset
            .as_ref()
            .map(|offset| duration_or("grpc_timeout_header_offset", Some(offset), Duration::ZERO))
            .transpose()?,
    })
}
