//! The CORS filter.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::{CorsPolicy, StringMatch};
use crate::head::RequestHead;
use crate::route::matches_string;

const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What a request's origin gets added to its response.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<Arc<str>>,
}

/// What the filter decides about a request.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// It goes on; its response may get headers.
    Continue(Option<Grant>),
    /// It is a preflight, answered with 200 and these headers; the response gets the grant's too.
    Preflight(HeaderMap, Option<Grant>),
}

/// Decides about a request. `policies` has the most specific first; `draw` is the request's
/// number.
pub(crate) fn decide(policies: &[&Arc<CorsPolicy>], head: &RequestHead, draw: u64) -> Verdict {
    let Some(first) = policies.first() else {
        return Verdict::Continue(None);
    };
    let enforced = first.enabled.is_none_or(|share| share.covers(draw));
    let Some(origin) = head.headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
        return Verdict::Continue(None);
    };
    if !enforced {
        return Verdict::Continue(None);
    }
    let allowed = policies
        .iter()
        .find(|policy| !policy.allow_origins.is_empty())
        .is_some_and(|policy| allows(policy, origin));
    let credentials = policies
        .iter()
        .find_map(|policy| policy.allow_credentials)
        .unwrap_or(false);
    let text = |field: fn(&CorsPolicy) -> &Option<Arc<str>>| {
        policies
            .iter()
            .find_map(|policy| field(policy).as_ref().filter(|text| !text.is_empty()))
    };
    let grant = allowed.then(|| Grant {
        origin: origin.clone(),
        credentials,
        expose: text(|policy| &policy.expose_headers).cloned(),
    });
    let asked = head
        .headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|method| !method.is_empty());
    let Some(asked) = asked.filter(|_| head.method == Method::OPTIONS) else {
        return Verdict::Continue(grant);
    };
    let forwards = policies
        .iter()
        .find_map(|policy| policy.forward_not_matching_preflights)
        .unwrap_or(true);
    if !allowed && forwards {
        return Verdict::Continue(grant);
    }
    let mut headers = HeaderMap::new();
    if allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    if credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Some(methods) = text(|policy| &policy.allow_methods) {
        insert(
            &mut headers,
            ACCESS_CONTROL_ALLOW_METHODS,
            methods,
            Some(asked),
        );
    }
    if let Some(names) = text(|policy| &policy.allow_headers) {
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        insert(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, names, asked);
    }
    if let Some(age) = text(|policy| &policy.max_age) {
        insert(&mut headers, ACCESS_CONTROL_MAX_AGE, age, None);
    }
    if policies
        .iter()
        .any(|policy| policy.allow_private_network_access)
        && head.first(REQUEST_PRIVATE_NETWORK) == Some("true")
    {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    Verdict::Preflight(headers, grant)
}

/// Adds what the origin gets to a response.
pub(crate) fn grant(grant: &Grant, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, grant.origin.clone());
    if grant.credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Some(expose) = &grant.expose {
        insert(headers, ACCESS_CONTROL_EXPOSE_HEADERS, expose, None);
    }
}

fn allows(policy: &CorsPolicy, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    policy.allow_origins.iter().any(|matcher| {
        matches!(&matcher.pattern, StringMatch::Exact(all) if &**all == "*")
            || matches_string(matcher, origin)
    })
}

/// Inserts a value; `*` stands for what was asked.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str, asked: Option<&HeaderValue>) {
    let value = match (value, asked) {
        ("*", Some(asked)) => Some(asked.clone()),
        (value, _) => HeaderValue::from_str(value).ok(),
    };
    if let Some(value) = value {
        headers.insert(name, value);
    }
}
