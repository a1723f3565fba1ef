//! Hashes of requests for ring hash and Maglev.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use twox_hash::XxHash64;

use crate::config::{HashPolicy, HashSource};
use crate::head::RequestHead;
use crate::route::Place;

/// Computes the hash of a request; `set_cookies` gets the cookies that were made for it.
pub(crate) fn request_hash(
    policies: &[HashPolicy],
    head: &RequestHead,
    remote: SocketAddr,
    local: SocketAddr,
    set_cookies: &mut Vec<HeaderValue>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        let next = match &policy.source {
            HashSource::Header { name, rewrite } => header_hash(head, name, rewrite.as_ref()),
            HashSource::Cookie { name, ttl, path } => match cookie(head, name) {
                Some(value) => Some(XxHash64::oneshot(0, value.as_bytes())),
                None => ttl.map(|ttl| {
                    let seed = format!("{remote}{local}");
                    let value = format!("{:x}", XxHash64::oneshot(0, seed.as_bytes()));
                    set_cookies.extend(set_cookie(name, &value, path, ttl));
                    XxHash64::oneshot(0, value.as_bytes())
                }),
            },
            HashSource::SourceIp => Some(XxHash64::oneshot(0, remote.ip().to_string().as_bytes())),
            HashSource::QueryParameter(name) => head
                .path
                .query()
                .and_then(|query| crate::route::first_parameter(query, name))
                .map(|value| XxHash64::oneshot(0, value.as_bytes())),
            HashSource::FilterState(_) => None,
        };
        if let Some(next) = next {
            // Rotated, so that equal policies do not cancel each other out.
            hash = Some(hash.map_or(0, |before| before.rotate_left(1)) ^ next);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

/// The hash of a route's policies; none where it has none.
pub(crate) fn of_place(
    place: &Place,
    head: &RequestHead,
    remote: SocketAddr,
    local: SocketAddr,
    set_cookies: &mut Vec<HeaderValue>,
) -> Option<u64> {
    let policies = &place.forward()?.hash_policy;
    if policies.is_empty() {
        return None;
    }
    request_hash(policies, head, remote, local, set_cookies)
}

fn header_hash(
    head: &RequestHead,
    name: &str,
    rewrite: Option<&crate::config::RegexRewrite>,
) -> Option<u64> {
    let mut values: Vec<String> = match head.first(name) {
        Some(value) if name.starts_with(':') || name == "host" => vec![value.to_owned()],
        _ => head
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect(),
    };
    if values.is_empty() {
        return None;
    }
    // The order of values of one name does not count.
    values.sort();
    let hash = values.iter().fold(0, |seed, value| match rewrite {
        Some(rewrite) => {
            let value = rewrite.pattern.replace_all(value, &rewrite.substitution);
            XxHash64::oneshot(seed, value.as_bytes())
        }
        None => XxHash64::oneshot(seed, value.as_bytes()),
    });
    Some(hash)
}

/// A cookie's value, without quotes.
fn cookie<'a>(head: &'a RequestHead, name: &str) -> Option<&'a str> {
    head.headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
        .filter(|value| !value.is_empty())
}

fn set_cookie(name: &str, value: &str, path: &str, ttl: Duration) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    // Writing to a string cannot fail.
    if !ttl.is_zero() {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        let _ = write!(text, "; Path={path}");
    }
    text.push_str("; HttpOnly");
    HeaderValue::from_str(&text).ok()
}
