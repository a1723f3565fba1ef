//! The search for a route, told step by step.

use std::sync::Arc;

use super::matching::{matches_header, matches_path, matches_query};
use super::place::{Lookup, find};
use crate::config::{Origin, Route, RouteAction, RouteConfiguration, RouteMatch};
use crate::head::RequestHead;

/// How a route was found, for people.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What was looked at, in order.
    pub steps: Vec<TraceStep>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// What: `virtual host reviews:9080`, `route 2 (canary)`.
    pub what: String,
    /// What came of it.
    pub result: String,
    /// The object behind it.
    pub origin: Option<Origin>,
}

impl Trace {
    /// Adds a step.
    pub fn add(&mut self, what: String, result: String, origin: Option<&Origin>) {
        self.steps.push(TraceStep {
            what,
            result,
            origin: origin.cloned(),
        });
    }
}

/// Looks for the request's route as [`find`] does, and tells how.
#[must_use]
pub fn explain(
    configuration: &Arc<RouteConfiguration>,
    head: &RequestHead,
    internal: bool,
    draw: u64,
) -> (Lookup, Trace) {
    let lookup = find(configuration, head, internal, draw);
    let mut trace = Trace::default();
    let host = match &lookup {
        Lookup::NoVirtualHost => None,
        Lookup::NoRoute(host) | Lookup::NeedsTls(host) => {
            configuration.virtual_hosts.get(*host as usize)
        }
        Lookup::Found(place) => Some(place.virtual_host()),
    };
    let Some(host) = host else {
        trace.add(
            format!("route configuration {}", configuration.name),
            format!(
                "no virtual host has the authority {:?}: 404",
                head.authority()
            ),
            None,
        );
        return (lookup, trace);
    };
    trace.add(
        format!("virtual host {}", host.name),
        format!("has the authority {:?}", head.authority()),
        host.origin.as_ref(),
    );
    if matches!(lookup, Lookup::NeedsTls(_)) {
        trace.add(
            format!("virtual host {}", host.name),
            "wants TLS: redirected to https".to_owned(),
            host.origin.as_ref(),
        );
        return (lookup, trace);
    }
    for (index, route) in host.routes.iter().enumerate() {
        let what = if route.name.is_empty() {
            format!("route {}", index + 1)
        } else {
            format!("route {} ({})", index + 1, route.name)
        };
        if let Some(reason) = mismatch(&route.matches, head, draw) {
            trace.add(what, reason, route.origin.as_ref());
            continue;
        }
        trace.add(what, matched(route, &lookup, head), route.origin.as_ref());
        return (lookup, trace);
    }
    trace.add(
        format!("virtual host {}", host.name),
        "no route matches: 404".to_owned(),
        host.origin.as_ref(),
    );
    (lookup, trace)
}

fn matched(route: &Route, lookup: &Lookup, head: &RequestHead) -> String {
    match &route.action {
        RouteAction::Direct(direct) => format!("matches: answers {}", direct.status.as_u16()),
        RouteAction::Redirect(redirect) => {
            format!("matches: redirects with {}", redirect.status.as_u16())
        }
        RouteAction::NonForwarding => "matches: nothing to forward to, 503".to_owned(),
        RouteAction::Forward(_) => {
            let Lookup::Found(place) = lookup else {
                return "matches".to_owned();
            };
            let cluster = place.cluster(head).unwrap_or("(no cluster named)");
            match place.weighted() {
                Some(weighted) => {
                    format!("matches: cluster {cluster}, of weight {}", weighted.weight)
                }
                None => format!("matches: cluster {cluster}"),
            }
        }
    }
}

/// Why the request does not match; none where it does.
fn mismatch(matches: &RouteMatch, head: &RequestHead, draw: u64) -> Option<String> {
    if !matches_path(&matches.path, matches.case_sensitive, head) {
        return Some(format!(
            "path {:?} is not {:?}",
            head.path.path(),
            matches.path
        ));
    }
    if let Some(fraction) = matches.runtime_fraction
        && !fraction.covers(draw)
    {
        return Some(format!(
            "not in the share of {} of {}",
            fraction.numerator, fraction.denominator
        ));
    }
    if matches.grpc && !head.is_grpc() {
        return Some("is not gRPC".to_owned());
    }
    if let Some(matcher) = matches
        .headers
        .iter()
        .find(|matcher| !matches_header(matcher, head))
    {
        return Some(format!(
            "header {} is {:?}, wanted {}{:?}",
            matcher.name,
            head.joined(&matcher.name, matcher.key.as_ref()),
            if matcher.invert { "not " } else { "" },
            matcher.matcher
        ));
    }
    matches
        .query
        .iter()
        .find(|matcher| !matches_query(matcher, head.path.query()))
        .map(|matcher| {
            format!(
                "query parameter {} is not {:?}",
                matcher.name, matcher.matcher
            )
        })
}
