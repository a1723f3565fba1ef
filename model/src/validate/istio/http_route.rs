//! HTTP routes: what they match, what they do, and what does not go together.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex::Regex;

use super::host::Check;
use super::virtual_service::{destination, weighted};
use super::{Report, at, header, host};
use crate::istio::{
    CorsPolicy, FaultAbort, FaultDelay, Headers, HttpDirectResponse, HttpFaultInjection,
    HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, Percent, StringMatch,
    grpc_status,
};

/// Longest expression that Istio sends to Envoy.
const REGEX_MAX_BYTES: usize = 1024;
/// Bodies are copied into every proxy's configuration.
const BODY_WARN_BYTES: usize = 100 * 1024;
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Conditions of retries beside status codes.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const CORS_METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];
pub fn check(route: &HttpRoute, is_delegate: bool, path: &str, report: &mut Report) {
    conflicts(route, is_delegate, path, report);
    for (index, matched) in route.r#match.iter().enumerate() {
        matches(matched, &at(path, "match", index), report);
    }
    header::operations(route.headers.as_ref(), path, report);
    cors(route.cors_policy.as_ref(), path, report);
    fault(route.fault.as_ref(), path, report);
    mirrors(route, path, report);
    redirect(route.redirect.as_ref(), &route.r#match, path, report);
    direct_response(route.direct_response.as_ref(), path, report);
    retries(route.retries.as_ref(), path, report);
    rewrite(route.rewrite.as_ref(), path, report);
    authority(route, path, report);
    weighted(route.route.iter().map(|each| each.weight), path, report);
    for (index, each) in route.route.iter().enumerate() {
        let path = at(path, "route", index);
        header::operations(each.headers.as_ref(), &path, report);
        destination(&each.destination, &format!("{path}.destination"), report);
    }
}

fn conflicts(route: &HttpRoute, is_delegate: bool, path: &str, report: &mut Report) {
    if route.delegate.is_some() {
        if is_delegate {
            let detail = "delegate HTTP route cannot contain delegate";
            return report.forbidden(format!("{path}.delegate"), detail);
        }
        for (field, given) in [
            ("redirect", route.redirect.is_some()),
            ("route", !route.route.is_empty()),
        ] {
            if given {
                let detail = format!("root HTTP route {} must not specify {field}", route.name);
                report.forbidden(format!("{path}.{field}"), detail);
            }
        }
        return;
    }
    let others = [
        (
            "route",
            !route.route.is_empty(),
            "HTTP route cannot contain both route and",
        ),
        (
            "fault",
            route.fault.is_some(),
            "HTTP route cannot contain both fault and",
        ),
        (
            "rewrite",
            route.rewrite.is_some(),
            "HTTP route rule cannot contain both rewrite and",
        ),
    ];
    let instead = if route.redirect.is_some() {
        Some("redirect")
    } else if route.direct_response.is_some() {
        Some("direct_response")
    } else {
        None
    };
    match instead {
        Some(instead) => {
            for (field, given, words) in others {
                if given {
                    report.forbidden(format!("{path}.{field}"), format!("{words} {instead}"));
                }
            }
            if route.redirect.is_some() && route.direct_response.is_some() {
                let detail = "HTTP route rule cannot contain both direct_response and redirect";
                report.forbidden(format!("{path}.directResponse"), detail);
            }
        }
        None if route.route.is_empty() => {
            report.required(path, "HTTP route, redirect or direct_response is required");
        }
        None => {}
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        let detail = "HTTP route cannot contain both mirror and mirrors";
        report.forbidden(format!("{path}.mirrors"), detail);
    }
}

fn matches(matched: &HttpMatchRequest, path: &str, report: &mut Report) {
    let headers = |field: &str, headers: &BTreeMap<String, StringMatch>, report: &mut Report| {
        for (name, text) in headers {
            let path = format!("{path}.{field}[{name}]");
            report.check(&path, name.as_str(), header::matched_name(name));
            // In `withoutHeaders` a lone star is Istio's way to say that the header is there at all.
            if !(field == "withoutHeaders" && *text == StringMatch::Regex("*".to_owned())) {
                string_match(Some(text), &path, field, false, report);
            }
        }
    };
    headers("headers", &matched.headers, report);
    headers("withoutHeaders", &matched.without_headers, report);
    for (field, text) in [
        ("uri", &matched.uri),
        ("scheme", &matched.scheme),
        ("method", &matched.method),
        ("authority", &matched.authority),
    ] {
        let path = format!("{path}.{field}");
        string_match(text.as_ref(), &path, field, field == "uri", report);
    }
    for (name, text) in &matched.query_params {
        let path = format!("{path}.queryParams[{name}]");
        string_match(Some(text), &path, "queryParams", false, report);
    }
    if matched.port != 0 {
        let port = matched.port;
        report.check(&format!("{path}.port"), port, host::port(port.into()));
    }
    host::label_map(
        &matched.source_labels,
        &format!("{path}.sourceLabels"),
        report,
    );
    host::gateways(&matched.gateways, path, report);
    let namespace = matched.source_namespace.as_str();
    if !namespace.is_empty() && !host::is_dns_label(namespace) {
        let detail = format!("sourceNamespace match {namespace} is invalid");
        report.invalid(format!("{path}.sourceNamespace"), namespace, detail);
    }
}

fn string_match(
    text: Option<&StringMatch>,
    path: &str,
    what: &str,
    empty_prefix: bool,
    report: &mut Report,
) {
    match text {
        Some(StringMatch::Prefix(prefix)) if prefix.is_empty() && !empty_prefix => {
            let detail = format!("{what:?}: prefix string match should not be empty");
            report.invalid(format!("{path}.prefix"), "", detail);
        }
        Some(StringMatch::Regex(pattern)) if pattern.is_empty() => {
            let detail = format!("{what:?}: regex string match should not be empty");
            report.invalid(format!("{path}.regex"), "", detail);
        }
        Some(StringMatch::Regex(pattern)) => {
            let fault = regex(pattern, what);
            report.check(&format!("{path}.regex"), pattern.as_str(), fault);
        }
        _ => {}
    }
}

fn regex(pattern: &str, what: &str) -> Check {
    if pattern.len() > REGEX_MAX_BYTES {
        return Err(format!(
            "{what:?}: regex is too large, max length allowed is {REGEX_MAX_BYTES}"
        ));
    }
    let Err(error) = Regex::new(pattern) else {
        return Ok(());
    };
    // The last line says what is wrong; those before it draw where.
    let error = error.to_string();
    let last = error.lines().last().unwrap_or("").trim();
    let last = last.strip_prefix("error: ").unwrap_or(last);
    Err(format!(
        "{what:?}: error parsing regexp: {last}; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)"
    ))
}

fn cors(policy: Option<&CorsPolicy>, path: &str, report: &mut Report) {
    let Some(policy) = policy else { return };
    let path = format!("{path}.corsPolicy");
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let path = at(&path, "allowOrigins", index);
        let text = match origin {
            StringMatch::Present => "",
            StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Regex(text) => text,
        };
        if text.is_empty() {
            let detail = "'' is not a valid match type for CORS allow origins";
            report.invalid(path, "", detail);
        } else {
            string_match(Some(origin), &path, "corsPolicy.allowOrigins", true, report);
        }
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        if !CORS_METHODS.contains(&method.as_str()) {
            let detail = format!("{method:?} is not a supported HTTP method");
            report.invalid(at(&path, "allowMethods", index), method.as_str(), detail);
        }
    }
    for (field, names) in [
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ] {
        for (index, name) in names.iter().enumerate() {
            let fault = if name.is_empty() {
                "header name cannot be empty".to_owned()
            } else if name != "*" && !header::is_name(name) {
                format!("header name {name} is not a valid header name")
            } else {
                continue;
            };
            report.invalid(at(&path, field, index), name.as_str(), fault);
        }
    }
    if let Some(age) = policy.max_age
        && age.subsec_nanos() > 0
    {
        let detail = "max_age duration is accurate only to seconds precision";
        report.invalid(format!("{path}.maxAge"), age.to_string(), detail);
    }
}

fn fault(fault: Option<&HttpFaultInjection>, path: &str, report: &mut Report) {
    let Some(fault) = fault else { return };
    let path = format!("{path}.fault");
    if fault.abort.is_none() && fault.delay.is_none() {
        let detail = "HTTP fault injection must have an abort and/or a delay";
        report.required(path.as_str(), detail);
    }
    if let Some(delay) = &fault.delay {
        fault_delay(delay, &format!("{path}.delay"), report);
    }
    if let Some(abort) = &fault.abort {
        fault_abort(abort, &format!("{path}.abort"), report);
    }
}

fn fault_delay(delay: &FaultDelay, path: &str, report: &mut Report) {
    percentage(delay.percentage.as_ref(), path, report);
    if delay.exponential_delay.is_some() {
        let detail = "exponentialDelay not supported yet";
        report.forbidden(format!("{path}.exponentialDelay"), detail);
    } else if delay.fixed_delay.is_none() {
        report.warn(path, "delay configured, but fixedDelay not set");
    }
}

fn fault_abort(abort: &FaultAbort, path: &str, report: &mut Report) {
    percentage(abort.percentage.as_ref(), path, report);
    if let Some(status) = &abort.grpc_status {
        if grpc_status(status).is_none() {
            let detail = format!(
                "gRPC status {status:?} is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md \
                 for a list of supported codes, for example 'NOT_FOUND'"
            );
            report.invalid(format!("{path}.grpcStatus"), status.as_str(), detail);
        }
    } else if abort.http2_error.is_some() {
        let detail = "HTTP/2 abort fault injection not supported yet";
        report.forbidden(format!("{path}.http2Error"), detail);
    } else if let Some(status) = abort.http_status {
        report.check(&format!("{path}.httpStatus"), status, http_status(status));
    } else {
        report.warn(path, "abort configured, but error type not set");
    }
}

fn http_status(status: u32) -> Check {
    if (200..=599).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP status {status} is not in range 200-599"))
    }
}

fn percentage(percentage: Option<&Percent>, path: &str, report: &mut Report) {
    let Some(Percent { value }) = percentage else {
        return;
    };
    let value = *value;
    // Envoy draws among a million.
    if !(0.0..=100.0).contains(&value) || value > 0.0 && value < 0.0001 {
        let detail = format!("percentage {value} is neither 0.0, nor in range [0.0001, 100.0]");
        report.invalid(format!("{path}.percentage.value"), value, detail);
    }
}

fn mirrors(route: &HttpRoute, path: &str, report: &mut Report) {
    let bounds = |percent: Option<&Percent>, path: String, what: &str, report: &mut Report| {
        let Some(Percent { value }) = percent else {
            return;
        };
        let value = *value;
        if value > 100.0 {
            let detail = format!("{what} must have a max value of 100 (it has {value:.6})");
            report.invalid(path, value, detail);
        } else if value < 0.0 {
            let detail = format!("{what} must have a min value of 0 (it has {value:.6})");
            report.invalid(path, value, detail);
        }
    };
    bounds(
        route.mirror_percentage.as_ref(),
        format!("{path}.mirrorPercentage.value"),
        "mirror_percentage",
        report,
    );
    if let Some(mirror) = &route.mirror {
        destination(mirror, &format!("{path}.mirror"), report);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = at(path, "mirrors", index);
        destination(&mirror.destination, &format!("{path}.destination"), report);
        bounds(
            mirror.percentage.as_ref(),
            format!("{path}.percentage.value"),
            "mirror percentage",
            report,
        );
    }
}

fn redirect(
    redirect: Option<&HttpRedirect>,
    matches: &[HttpMatchRequest],
    path: &str,
    report: &mut Report,
) {
    let Some(redirect) = redirect else { return };
    let path = format!("{path}.redirect");
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        let detail = "redirect may only specify one of uri or prefix_rewrite";
        report.forbidden(format!("{path}.prefixRewrite"), detail);
    }
    let other_match = |matched: &HttpMatchRequest| {
        matched
            .uri
            .as_ref()
            .is_some_and(|uri| !matches!(uri, StringMatch::Prefix(_)))
    };
    if !redirect.prefix_rewrite.is_empty() && matches.iter().any(other_match) {
        let detail = "redirect prefix_rewrite requires all URI matches to use prefix match type";
        report.forbidden(format!("{path}.prefixRewrite"), detail);
    }
    if redirect.uri.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.authority.is_empty()
        && redirect.scheme.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none()
    {
        let detail = "redirect must specify URI, authority, scheme, or port";
        report.required(path.as_str(), detail);
    }
    let code = redirect.redirect_code;
    if code != 0 && !(300..=399).contains(&code) {
        let detail = format!("{code} is not a valid redirect code, must be 3xx");
        report.invalid(format!("{path}.redirectCode"), code, detail);
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        let detail = "invalid redirect scheme, must be \"http\" or \"https\"";
        report.invalid(format!("{path}.scheme"), redirect.scheme.as_str(), detail);
    }
    if let Some(port) = redirect.port.filter(|port| *port > 0) {
        report.check(&format!("{path}.port"), port, host::port(port.into()));
    }
}

fn direct_response(response: Option<&HttpDirectResponse>, path: &str, report: &mut Report) {
    let Some(response) = response else { return };
    let path = format!("{path}.directResponse");
    let status = response.status;
    report.check(&format!("{path}.status"), status, http_status(status));
    let Some(body) = &response.body else { return };
    let bytes = match (&body.string, &body.bytes) {
        (Some(text), _) => text.len(),
        (None, Some(encoded)) => BASE64.decode(encoded).map_or(0, |bytes| bytes.len()),
        (None, None) => 0,
    };
    let words = "large direct_responses may impact control plane performance";
    if bytes > BODY_MAX_BYTES {
        report.forbidden(
            format!("{path}.body"),
            format!("{words}, must be less than 1MB"),
        );
    } else if bytes > BODY_WARN_BYTES {
        report.warn(&format!("{path}.body"), words);
    }
}

fn retries(retries: Option<&HttpRetry>, path: &str, report: &mut Report) {
    let Some(retries) = retries else { return };
    let path = format!("{path}.retries");
    if retries.attempts < 0 {
        let detail = "attempts cannot be negative";
        report.invalid(format!("{path}.attempts"), retries.attempts, detail);
    }
    if retries.attempts == 0
        && (retries.per_try_timeout.is_some()
            || !retries.retry_on.is_empty()
            || retries.retry_remote_localities.is_some())
    {
        let detail = "http retry policy configured when attempts are set to 0 (disabled)";
        report.invalid(format!("{path}.attempts"), retries.attempts, detail);
    }
    if retries.retry_on.is_empty() {
        return;
    }
    for policy in retries.retry_on.split(',') {
        let is_status = policy
            .parse::<u16>()
            .is_ok_and(|status| (100..=599).contains(&status));
        if !is_status && !RETRY_ON.contains(&policy) {
            let detail = format!("{policy:?} is not a valid retryOn policy");
            report.invalid(format!("{path}.retryOn"), retries.retry_on.as_str(), detail);
        }
    }
}

fn rewrite(rewrite: Option<&HttpRewrite>, path: &str, report: &mut Report) {
    let Some(rewrite) = rewrite else { return };
    let path = format!("{path}.rewrite");
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        let detail = "rewrite may only contain one of URI or UriRegexRewrite";
        report.forbidden(format!("{path}.uriRegexRewrite"), detail);
    }
    if rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty()
    {
        let detail = "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified";
        report.required(path.as_str(), detail);
    }
    let Some(rule) = &rewrite.uri_regex_rewrite else {
        return;
    };
    let path = format!("{path}.uriRegexRewrite");
    if rule.r#match.is_empty() || rule.rewrite.is_empty() {
        let detail = "UriRegexRewrite requires both Rewrite and Match fields to be specified";
        return report.required(path, detail);
    }
    let fault = regex(&rule.r#match, "HTTPRewrite.UriRegexRewrite.Match");
    report.check(&format!("{path}.match"), rule.r#match.as_str(), fault);
}

/// The authority is set in one place only.
fn authority(route: &HttpRoute, path: &str, report: &mut Report) {
    let mut current = route
        .rewrite
        .as_ref()
        .map_or("", |rewrite| rewrite.authority.as_str());
    let request = route
        .headers
        .as_ref()
        .and_then(|headers: &Headers| headers.request.as_ref());
    let Some(request) = request else { return };
    for (field, pairs) in [("set", &request.set), ("add", &request.add)] {
        for (name, text) in pairs.iter().filter(|(name, _)| header::is_authority(name)) {
            if !current.is_empty() {
                let detail = format!(
                    "authority header cannot be set multiple times: have {current:?}, attempting to set {text:?}"
                );
                report.forbidden(format!("{path}.headers.request.{field}[{name}]"), detail);
                return;
            }
            current = text;
        }
    }
}
