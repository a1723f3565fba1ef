//! Rewriting of authorities and paths, and redirects.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{
    HostRewrite, PathMatch, PathRewrite, Redirect, RegexRewrite, Route, RouteForward,
};
use crate::head::RequestHead;
use crate::route::Place;

/// The path before it was rewritten.
pub(crate) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// The authority before it was rewritten.
pub(crate) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Sets the authority; one that is no header value changes nothing.
pub(crate) fn set_authority(head: &mut RequestHead, authority: &str) {
    if let Ok(value) = HeaderValue::from_str(authority) {
        head.authority = value;
    }
}

/// Sets path and query; what is no path changes nothing.
pub(crate) fn set_path(head: &mut RequestHead, path: &str) {
    if let Ok(path) = PathAndQuery::try_from(path) {
        head.path = path;
    }
}

/// Sets another authority, keeping the old where it is wanted.
pub(crate) fn replace_authority(
    head: &mut RequestHead,
    authority: &str,
    append_forwarded_host: bool,
    keep_original: bool,
) {
    let before = head.authority.clone();
    if !before.is_empty() {
        if append_forwarded_host {
            append_forwarded(&mut head.headers, &before);
        }
        if keep_original {
            head.headers.insert(ORIGINAL_HOST, before);
        }
    }
    set_authority(head, authority);
}

/// Appends to `x-forwarded-host` what is not its last already.
fn append_forwarded(headers: &mut HeaderMap, host: &HeaderValue) {
    let known = headers
        .get(&FORWARDED_HOST)
        .and_then(|value| value.to_str().ok());
    let next = match (known, host.to_str()) {
        (Some(known), Ok(host)) if !known.is_empty() => {
            if known.rsplit(',').next().map(str::trim) == Some(host) {
                return;
            }
            HeaderValue::from_str(&format!("{known},{host}")).ok()
        }
        _ => Some(host.clone()),
    };
    if let Some(next) = next {
        headers.insert(FORWARDED_HOST, next);
    }
}

/// The authority that the action gives, but for the chosen host's name, which comes later.
pub(crate) fn rewrite_authority(place: &Place, head: &mut RequestHead, keep_original: bool) {
    let Some(forward) = place.forward() else {
        return;
    };
    // The weighted cluster's comes first and unremarked; the action's may replace it.
    if let Some(literal) = place
        .weighted()
        .and_then(|weighted| weighted.host_rewrite_literal.as_ref())
    {
        set_authority(head, literal);
    }
    let authority = match &forward.host_rewrite {
        Some(HostRewrite::Literal(literal)) => literal.to_string(),
        Some(HostRewrite::Header(name)) => match head.headers.get(name) {
            Some(value) => value.to_str().unwrap_or("").to_owned(),
            None => return,
        },
        Some(HostRewrite::PathRegex(rewrite)) => replace(rewrite, head.path.path()),
        Some(HostRewrite::Auto) | None => return,
    };
    if !authority.is_empty() {
        replace_authority(
            head,
            &authority,
            forward.append_x_forwarded_host,
            keep_original,
        );
    }
}

/// Rewrites the path as the action says.
pub(crate) fn rewrite_path(
    forward: &RouteForward,
    route: &Route,
    head: &mut RequestHead,
    keep_original: bool,
) {
    let Some(rewrite) = &forward.path_rewrite else {
        return;
    };
    let path = match rewrite {
        PathRewrite::Prefix(prefix) if prefix.is_empty() => return,
        PathRewrite::Prefix(prefix) => with_prefix(route, head, prefix),
        PathRewrite::Regex(rewrite) => with_path(head, &replace(rewrite, head.path.path())),
        PathRewrite::Full(path) => with_path(head, path),
    };
    change_path(head, &path, keep_original);
}

fn change_path(head: &mut RequestHead, path: &str, keep_original: bool) {
    if keep_original && let Ok(original) = HeaderValue::from_str(head.path.as_str()) {
        head.headers.insert(ORIGINAL_PATH, original);
    }
    set_path(head, path);
}

/// Path and query with another beginning in place of what the route matched.
fn with_prefix(route: &Route, head: &RequestHead, prefix: &str) -> String {
    let whole = head.path.as_str();
    let matched = match &route.matches.path {
        PathMatch::Prefix(matched)
        | PathMatch::Exact(matched)
        | PathMatch::SeparatedPrefix(matched) => matched.len(),
        PathMatch::Regex(_) | PathMatch::Template(_) => head.path.path().len(),
        PathMatch::Connect => 0,
    };
    format!("{prefix}{}", whole.get(matched..).unwrap_or(""))
}

/// Another path with the same query.
fn with_path(head: &RequestHead, path: &str) -> String {
    match head.path.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

fn replace(rewrite: &RegexRewrite, text: &str) -> String {
    rewrite.pattern.replace_all(text, &rewrite.substitution)
}

/// Where a redirect leads. The head's path is changed as a rewrite would, as Envoy does before it
/// answers.
pub(crate) fn redirect(
    redirect: &Redirect,
    route: &Route,
    head: &mut RequestHead,
    keep_original: bool,
) -> String {
    if let Some(rewrite) = &redirect.regex {
        let path = with_path(head, &replace(rewrite, head.path.path()));
        change_path(head, &path, keep_original);
    } else if let Some(prefix) = redirect
        .prefix
        .as_deref()
        .filter(|prefix| !prefix.is_empty())
    {
        let path = with_prefix(route, head, prefix);
        change_path(head, &path, keep_original);
    }
    location(redirect, head)
}

/// Where a request that must use TLS is sent.
pub(crate) fn https_location(head: &RequestHead) -> String {
    let redirect = Redirect {
        status: http::StatusCode::MOVED_PERMANENTLY,
        https: true,
        scheme: None,
        host: None,
        port: None,
        path: None,
        prefix: None,
        regex: None,
        strip_query: false,
    };
    location(&redirect, head)
}

fn location(redirect: &Redirect, head: &RequestHead) -> String {
    let own = head.scheme();
    let scheme = match &redirect.scheme {
        Some(scheme) if !scheme.is_empty() => scheme,
        _ if redirect.https => "https",
        _ => own,
    };
    let mut out = format!("{scheme}://");
    match redirect.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => out.push_str(host),
        None => out.push_str(host_for(head, scheme, redirect.port.is_some())),
    }
    if let Some(port) = redirect.port {
        out.push(':');
        crate::text::number(u64::from(port), &mut out);
    }
    match redirect.path.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => {
            out.push_str(path);
            if !path.contains('?')
                && !redirect.strip_query
                && let Some(query) = head.path.query()
            {
                out.push('?');
                out.push_str(query);
            }
        }
        None if redirect.strip_query => out.push_str(head.path.path()),
        None => out.push_str(head.path.as_str()),
    }
    out
}

/// The request's host, without its port where the redirect brings its own or where it is the
/// default port of a scheme that changes.
fn host_for<'a>(head: &'a RequestHead, scheme: &str, other_port: bool) -> &'a str {
    let host = head.authority();
    let end = if host.starts_with('[') {
        host.rfind("]:").map(|at| at + 1)
    } else {
        host.rfind(':')
    };
    let Some(end) = end else { return host };
    let port = &host[end..];
    let before = head
        .first("x-forwarded-proto")
        .unwrap_or_else(|| head.scheme());
    let default = scheme != before
        && ((before == "https" && port == ":443") || (before == "http" && port == ":80"));
    if other_port || default {
        &host[..end]
    } else {
        host
    }
}
