//! Whether a request matches.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use crate::config::{
    HeaderMatch, HeaderMatcher, PathMatch, QueryMatch, QueryMatcher, RouteMatch, StringMatch,
    StringMatcher,
};
use crate::head::RequestHead;

/// Whether `text` is as the matcher says.
#[must_use]
pub fn matches_string(matcher: &StringMatcher, text: &str) -> bool {
    let fold = matcher.ignore_case;
    match &matcher.pattern {
        StringMatch::Exact(wanted) => equal(text, wanted, fold),
        StringMatch::Prefix(wanted) => starts_with(text, wanted, fold),
        StringMatch::Suffix(wanted) => text
            .len()
            .checked_sub(wanted.len())
            .and_then(|start| text.get(start..))
            .is_some_and(|end| equal(end, wanted, fold)),
        StringMatch::Contains(wanted) => {
            if fold {
                text.to_ascii_lowercase()
                    .contains(&wanted.to_ascii_lowercase())
            } else {
                text.contains(&**wanted)
            }
        }
        StringMatch::Regex(regex) => regex.matches(text),
    }
}

/// Whether the request's header is as the matcher says: of several values one is enough. An
/// absent header matches nothing, not even turned around, unless it counts as empty.
#[must_use]
pub fn matches_header(matcher: &HeaderMatcher, head: &RequestHead) -> bool {
    match &matcher.key {
        Some(key) => matches_values(matcher, &head.headers, key),
        None => {
            let value = head.first(&matcher.name);
            matches_any(matcher, value.into_iter().map(Cow::Borrowed))
        }
    }
}

/// The same for the headers of a response.
pub(crate) fn matches_values(
    matcher: &HeaderMatcher,
    headers: &HeaderMap,
    key: &HeaderName,
) -> bool {
    matches_any(matcher, crate::head::values(headers, key))
}

/// The same for values that were looked up elsewhere.
pub(crate) fn matches_any<'a>(
    matcher: &HeaderMatcher,
    mut values: impl Iterator<Item = Cow<'a, str>>,
) -> bool {
    let Some(first) = values.next() else {
        return match matcher.matcher {
            HeaderMatch::Present(present) => present == matcher.invert,
            _ => matcher.treat_missing_as_empty && (matches_one(matcher, "") != matcher.invert),
        };
    };
    let matched = matches_one(matcher, &first) || values.any(|value| matches_one(matcher, &value));
    matched != matcher.invert
}

fn matches_one(matcher: &HeaderMatcher, value: &str) -> bool {
    match &matcher.matcher {
        HeaderMatch::Present(present) => *present,
        HeaderMatch::String(string) => matches_string(string, value),
        HeaderMatch::Range { start, end } => value
            .trim()
            .parse::<i64>()
            .is_ok_and(|number| (*start..*end).contains(&number)),
    }
}

/// Whether the query's first such parameter is as the matcher says.
#[must_use]
pub fn matches_query(matcher: &QueryMatcher, query: Option<&str>) -> bool {
    let value = query.and_then(|query| first_parameter(query, &matcher.name));
    match &matcher.matcher {
        QueryMatch::Present(present) => value.is_some() == *present,
        QueryMatch::String(string) => value.is_some_and(|value| matches_string(string, value)),
    }
}

/// The first value of a query parameter, as it is written.
pub(crate) fn first_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// Whether the request's path is as the match says.
pub(crate) fn matches_path(path: &PathMatch, case_sensitive: bool, head: &RequestHead) -> bool {
    let fold = !case_sensitive;
    let text = head.path.path();
    // A CONNECT request has no path that any other match could look at.
    if head.method == http::Method::CONNECT {
        return matches!(path, PathMatch::Connect);
    }
    match path {
        PathMatch::Prefix(prefix) => starts_with(text, prefix, fold),
        PathMatch::Exact(exact) => equal(text, exact, fold),
        PathMatch::Regex(regex) | PathMatch::Template(regex) => regex.matches(text),
        PathMatch::SeparatedPrefix(prefix) => {
            starts_with(text, prefix, fold)
                && (text.len() == prefix.len() || text.as_bytes()[prefix.len()] == b'/')
        }
        PathMatch::Connect => false,
    }
}

/// Whether the request matches; `draw` is the request's number.
#[must_use]
pub fn matches_route(matches: &RouteMatch, head: &RequestHead, draw: u64) -> bool {
    matches_path(&matches.path, matches.case_sensitive, head)
        && matches
            .runtime_fraction
            .is_none_or(|fraction| fraction.covers(draw))
        && (!matches.grpc || head.is_grpc())
        && matches
            .headers
            .iter()
            .all(|matcher| matches_header(matcher, head))
        && matches
            .query
            .iter()
            .all(|matcher| matches_query(matcher, head.path.query()))
}

fn equal(one: &str, other: &str, fold: bool) -> bool {
    if fold {
        one.eq_ignore_ascii_case(other)
    } else {
        one == other
    }
}

fn starts_with(text: &str, prefix: &str, fold: bool) -> bool {
    if fold {
        text.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    } else {
        text.starts_with(prefix)
    }
}
