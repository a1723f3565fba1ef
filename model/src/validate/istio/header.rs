//! Names and values of headers.

use std::sync::OnceLock;

use regex::Regex;

use super::Report;
use super::host::Check;
use crate::istio::{HeaderOperations, Headers};

const PSEUDO: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// RFC 7230's token.
pub fn is_name(name: &str) -> bool {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    PATTERN
        .get_or_init(|| Regex::new(r"\A[!#$%&'*+\-.^_`|~A-Za-z0-9]+\z").ok())
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(name))
}

/// A header that a match names: also HTTP/2's own, and Istio's `@request.auth.claims...`.
pub fn matched_name(name: &str) -> Check {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if PSEUDO.contains(&name) || is_claim(name) || is_name(name) {
        return Ok(());
    }
    Err(format!("header name {name} is not a valid header name"))
}

/// Whether the name stands for a claim of the request's token.
pub fn is_claim(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("@request.auth.claims")
        .is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
}

pub fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn set_in_request(name: &str) -> Check {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if name.starts_with(':') && !is_authority(name) {
        return Err(format!(
            "invalid header {name:?}: header cannot have \":\" prefix"
        ));
    }
    Ok(())
}

fn changed(name: &str) -> Check {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if name.eq_ignore_ascii_case("host") {
        return Err(format!("invalid header {name:?}: cannot set Host header"));
    }
    if name.starts_with(':') {
        return Err(format!(
            "invalid header {name:?}: header cannot have \":\" prefix"
        ));
    }
    Ok(())
}

/// Changes of headers, as routes and destinations have them.
pub fn operations(headers: Option<&Headers>, path: &str, report: &mut Report) {
    let Some(headers) = headers else { return };
    let mut side = |side: Option<&HeaderOperations>, which: &str, name_check: fn(&str) -> Check| {
        let Some(side) = side else { return };
        for (field, pairs) in [("add", &side.add), ("set", &side.set)] {
            for (name, text) in pairs {
                let path = format!("{path}.headers.{which}.{field}[{name}]");
                report.check(&path, text.as_str(), name_check(name));
                report.check(&path, text.as_str(), value(text));
            }
        }
        for (index, name) in side.remove.iter().enumerate() {
            let path = format!("{path}.headers.{which}.remove[{index}]");
            report.check(&path, name.as_str(), changed(name));
        }
    };
    side(headers.request.as_ref(), "request", set_in_request);
    side(headers.response.as_ref(), "response", changed);
}

/// A value may hold Envoy's variables: `%NAME%`, `%NAME(argument)%`, `%NAME(["argument"])%`; `%%` is a percent sign.
pub fn value(text: &str) -> Check {
    if text
        .bytes()
        .any(|byte| byte < 0x20 && byte != b'\t' || byte == 0x7f)
    {
        return Err(format!("header value configuration {text} is invalid"));
    }
    variables(text).map_err(|detail| format!("header value configuration: {detail}"))
}

fn variables(text: &str) -> Check {
    let fault = |detail: &str| Err(format!("invalid header configuration. {detail}"));
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let open = &rest[at + 1..];
        if open.is_empty() {
            return fault("Un-escaped %");
        }
        if let Some(after) = open.strip_prefix('%') {
            rest = after;
            continue;
        }
        let unterminated = format!("Un-terminated variable expression '{text}'");
        let Some(end) = open.find(['%', '(']) else {
            return fault(&unterminated);
        };
        let after = &open[end + 1..];
        if open.as_bytes()[end] == b'%' {
            rest = after;
            continue;
        }
        let Some(close) = after.find(')') else {
            return fault(&unterminated);
        };
        let Some(percent) = after[close + 1..].find(|letter| letter != ' ') else {
            return fault(&unterminated);
        };
        let after = &after[close + 1 + percent..];
        match after.strip_prefix('%') {
            Some(after) => rest = after,
            None => return fault("Expecting '%' or whitespace after"),
        }
    }
    Ok(())
}
