//! What of a request a route looks at.

use std::collections::{BTreeMap, BTreeSet};

use trireme_model::istio::{HttpMatchRequest, StringMatch};

use crate::proto::{boolean, regex, route as pb, string_match};
use crate::view::selects;

use pb::route_match::PathSpecifier;

/// Every request.
pub fn anything() -> pb::RouteMatch {
    pb::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..pb::RouteMatch::default()
    }
}

/// Whether nothing can come after a route with this match.
pub fn is_catch_all(matched: &pb::RouteMatch) -> bool {
    let any_path = match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*" || regex.regex == "*",
        _ => false,
    };
    any_path && matched.headers.is_empty() && matched.query_parameters.is_empty()
}

/// Whether a client in a namespace with these labels, or behind one of these gateways, is meant.
pub fn source_matches(
    matched: &HttpMatchRequest,
    labels: &BTreeMap<String, String>,
    namespace: &str,
    gateways: &BTreeSet<String>,
) -> bool {
    if !matched.gateways.is_empty() {
        return matched.gateways.iter().any(|it| gateways.contains(it));
    }
    selects(&matched.source_labels, labels)
        && (matched.source_namespace.is_empty() || matched.source_namespace == namespace)
}

pub fn route_match(matched: &HttpMatchRequest) -> pb::RouteMatch {
    let mut out = anything();
    for (name, value) in &matched.headers {
        out.headers.push(header(name, value));
    }
    for (name, value) in &matched.without_headers {
        let mut matcher = header(name, value);
        matcher.invert_match = true;
        // A header that is absent differs from every value.
        matcher.treat_missing_header_as_empty = string_match(value).is_some();
        out.headers.push(matcher);
    }
    out.headers.sort_by(|one, other| one.name.cmp(&other.name));
    for (name, value) in [
        (":method", &matched.method),
        (":authority", &matched.authority),
        (":scheme", &matched.scheme),
    ] {
        if let Some(value) = value {
            out.headers.push(header(name, value));
        }
    }
    if let Some(uri) = &matched.uri {
        out.path_specifier = Some(match uri {
            StringMatch::Exact(path) => PathSpecifier::Path(path.clone()),
            StringMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone()),
            StringMatch::Regex(text) => PathSpecifier::SafeRegex(regex(text)),
            StringMatch::Present => PathSpecifier::Prefix("/".to_owned()),
        });
    }
    out.case_sensitive = boolean(!matched.ignore_uri_case);
    for (name, value) in &matched.query_params {
        use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        out.query_parameters.push(pb::QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(match string_match(value) {
                Some(matcher) => Specifier::StringMatch(matcher),
                None => Specifier::PresentMatch(true),
            }),
        });
    }
    out
}

fn header(name: &str, value: &StringMatch) -> pb::HeaderMatcher {
    use pb::header_matcher::HeaderMatchSpecifier as Specifier;
    pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match string_match(value) {
            Some(matcher) => Specifier::StringMatch(matcher),
            None => Specifier::PresentMatch(true),
        }),
        ..pb::HeaderMatcher::default()
    }
}
