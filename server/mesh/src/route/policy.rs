//! Policies of routes: retries, faults, CORS, redirects, direct responses, keys of consistent hashing.

use base64::Engine;
use trireme_model::istio::{
    ConsistentHash, CorsPolicy, HttpDirectResponse, HttpFaultInjection, HttpRedirect, HttpRetry,
    RedirectPort, UnmatchedPreflights, grpc_status,
};

use crate::proto::{
    all, boolean, core, duration, extensions, route as pb, runtime_share, share, string_match, uint,
};

use extensions::filters::common::fault::v3 as delay;
use extensions::filters::http::{cors::v3 as cors_filter, fault::v3 as fault_filter};

pub const FAULT_FILTER: &str = "envoy.filters.http.fault";
pub const CORS_FILTER: &str = "envoy.filters.http.cors";

/// Istio's policy where none is written.
const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const RETRIES: u32 = 2;
/// How often another host is looked for that was not tried before.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
const INBOUND_RETRY_ON: &str = "reset-before-request";
const STATUS_CODES: &str = "retriable-status-codes";

/// `None` where retries are turned off. With consistent hashing a retry stays with its host.
pub fn retry(retries: Option<&HttpRetry>, hashed: bool) -> Option<pb::RetryPolicy> {
    let mut policy = pb::RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: uint(RETRIES),
        retry_host_predicate: match hashed {
            true => Vec::new(),
            false => vec![previous_hosts()],
        },
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..pb::RetryPolicy::default()
    };
    let Some(retries) = retries else {
        return Some(policy);
    };
    let attempts = u32::try_from(retries.attempts).unwrap_or(0);
    if attempts == 0 {
        return None;
    }
    policy.num_retries = uint(attempts);
    if !retries.retry_on.is_empty() {
        (policy.retry_on, policy.retriable_status_codes) = retry_on(&retries.retry_on);
    }
    policy.per_try_timeout = retries
        .per_try_timeout
        .filter(|it| !it.is_zero())
        .and_then(duration);
    match retries.retry_ignore_previous_hosts {
        Some(true) => policy.retry_host_predicate = vec![previous_hosts()],
        Some(false) => policy.retry_host_predicate.clear(),
        None => {}
    }
    if retries.retry_remote_localities == Some(true) {
        use extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
        use pb::retry_policy::{RetryPriority, retry_priority::ConfigType};
        let config = PreviousPrioritiesConfig {
            update_frequency: 2,
        };
        policy.retry_priority = Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(ConfigType::TypedConfig(trireme_xds::pack(&config))),
        });
    }
    policy.retry_back_off = retries.backoff.map(|base| pb::retry_policy::RetryBackOff {
        base_interval: duration(base),
        ..pb::retry_policy::RetryBackOff::default()
    });
    Some(policy)
}

fn previous_hosts() -> pb::retry_policy::RetryHostPredicate {
    use extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    use pb::retry_policy::{RetryHostPredicate, retry_host_predicate::ConfigType};
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(ConfigType::TypedConfig(trireme_xds::pack(
            &PreviousHostsPredicate::default(),
        ))),
    }
}

pub fn inbound_retry() -> pb::RetryPolicy {
    pb::RetryPolicy {
        retry_on: INBOUND_RETRY_ON.to_owned(),
        num_retries: uint(RETRIES),
        ..pb::RetryPolicy::default()
    }
}

/// Conditions and status codes, which Istio lets stand in one list.
fn retry_on(text: &str) -> (String, Vec<u32>) {
    let mut conditions = Vec::new();
    let mut codes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        match part.parse::<u32>() {
            Ok(code @ 100..=599) => codes.push(code),
            _ => conditions.push(part),
        }
    }
    if !codes.is_empty() && !conditions.contains(&STATUS_CODES) {
        conditions.push(STATUS_CODES);
    }
    (conditions.join(","), codes)
}

/// `None` where there is nothing that Envoy knows.
pub fn fault(fault: &HttpFaultInjection) -> Option<fault_filter::HttpFault> {
    let delay = fault.delay.as_ref().and_then(|it| {
        Some(delay::FaultDelay {
            percentage: Some(it.percentage.as_ref().map_or_else(all, share)),
            fault_delay_secifier: Some(delay::fault_delay::FaultDelaySecifier::FixedDelay(
                duration(it.fixed_delay?)?,
            )),
        })
    });
    let abort = fault.abort.as_ref().and_then(|it| {
        use fault_filter::fault_abort::ErrorType;
        let error = match (it.http_status, &it.grpc_status) {
            (Some(status), _) => ErrorType::HttpStatus(status),
            (None, Some(status)) => ErrorType::GrpcStatus(grpc_status(status)?),
            (None, None) => return None,
        };
        Some(fault_filter::FaultAbort {
            percentage: Some(it.percentage.as_ref().map_or_else(all, share)),
            error_type: Some(error),
            ..fault_filter::FaultAbort::default()
        })
    });
    (delay.is_some() || abort.is_some()).then(|| fault_filter::HttpFault {
        delay,
        abort,
        ..fault_filter::HttpFault::default()
    })
}

pub fn cors(cors: &CorsPolicy) -> cors_filter::CorsPolicy {
    cors_filter::CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().filter_map(string_match).collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors
            .max_age
            .map(|it| it.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.allow_credentials.and_then(boolean),
        filter_enabled: runtime_share(all()),
        forward_not_matching_preflights: boolean(
            cors.unmatched_preflights != UnmatchedPreflights::Ignore,
        ),
        ..cors_filter::CorsPolicy::default()
    }
}

/// `None` for a code that Envoy cannot redirect with.
pub fn redirect(redirect: &HttpRedirect, port: u32, tls: bool) -> Option<pb::RedirectAction> {
    use pb::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
    };
    let scheme = match (redirect.scheme.as_str(), tls) {
        ("", true) => "https",
        ("", false) => "http",
        (scheme, _) => scheme,
    };
    let asked = match (redirect.port, redirect.derive_port) {
        (Some(port), _) => port,
        (None, Some(RedirectPort::FromRequestPort)) => port,
        (None, _) => 0,
    };
    let default = matches!((asked, scheme), (80, "http") | (443, "https"));
    Some(pb::RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: if default { 0 } else { asked },
        response_code: match redirect.redirect_code {
            0 | 301 => Code::MovedPermanently,
            302 => Code::Found,
            303 => Code::SeeOther,
            307 => Code::TemporaryRedirect,
            308 => Code::PermanentRedirect,
            _ => return None,
        } as i32,
        path_rewrite_specifier: match (redirect.prefix_rewrite.as_str(), redirect.uri.as_str()) {
            ("", "") => None,
            ("", uri) => Some(PathRewriteSpecifier::PathRedirect(uri.to_owned())),
            (prefix, _) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.to_owned())),
        },
        scheme_rewrite_specifier: (!redirect.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.clone())),
        ..pb::RedirectAction::default()
    })
}

pub fn direct_response(response: &HttpDirectResponse) -> pb::DirectResponseAction {
    use core::data_source::Specifier;
    let body = response.body.as_ref().and_then(|body| {
        let engine = base64::engine::general_purpose::STANDARD;
        match (&body.string, &body.bytes) {
            (Some(text), _) => Some(Specifier::InlineString(text.clone())),
            // What is no Base64 validation has refused.
            (None, Some(bytes)) => Some(Specifier::InlineBytes(engine.decode(bytes).ok()?)),
            (None, None) => None,
        }
    });
    pb::DirectResponseAction {
        status: response.status,
        body: body.map(|specifier| core::DataSource {
            specifier: Some(specifier),
            ..core::DataSource::default()
        }),
        ..pb::DirectResponseAction::default()
    }
}

/// What of a request chooses its host; `None` where the rule names nothing.
pub fn hash(hash: &ConsistentHash) -> Option<pb::route_action::HashPolicy> {
    use pb::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Header::default()
        })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            path: cookie.path.clone(),
            ttl: cookie.ttl.and_then(duration),
            attributes: cookie
                .attributes
                .iter()
                .map(|it| CookieAttribute {
                    name: it.name.clone(),
                    value: it.value.clone(),
                })
                .collect(),
        })
    } else if hash.use_source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
    } else {
        return None;
    };
    Some(pb::route_action::HashPolicy {
        policy_specifier: Some(specifier),
        ..pb::route_action::HashPolicy::default()
    })
}
