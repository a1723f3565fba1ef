//! Routes that no request can reach, since those before them take all: warnings.

use serde::Serialize;
use serde_json::Value;

use super::{Report, at};
use crate::istio::{HttpMatchRequest, VirtualServiceSpec};

pub fn check(spec: &VirtualServiceSpec, report: &mut Report) {
    let http: Vec<Rule> = spec
        .http
        .iter()
        .enumerate()
        .map(|(index, route)| {
            let named = |name: &str, index: usize| match name {
                "" => format!("#{index}"),
                name => format!("{name:?}"),
            };
            Rule {
                name: named(&route.name, index),
                matches: route
                    .r#match
                    .iter()
                    .enumerate()
                    .map(|(index, matched)| {
                        let nameless = HttpMatchRequest {
                            name: String::new(),
                            ..matched.clone()
                        };
                        (named(&matched.name, index), as_value(&nameless))
                    })
                    .collect(),
            }
        })
        .collect();
    rules("http", &http, report);
    let tls = spec.tls.iter().map(|route| as_values(&route.r#match));
    rules("tls", &numbered(tls), report);
    let tcp = spec.tcp.iter().map(|route| as_values(&route.r#match));
    rules("tcp", &numbered(tcp), report);
}

struct Rule {
    name: String,
    /// Name and content of each match.
    matches: Vec<(String, Value)>,
}

fn as_value(matched: &impl Serialize) -> Value {
    serde_json::to_value(matched).unwrap_or_default()
}

fn as_values(matches: &[impl Serialize]) -> Vec<Value> {
    matches.iter().map(as_value).collect()
}

fn numbered(routes: impl Iterator<Item = Vec<Value>>) -> Vec<Rule> {
    let number = |(index, value): (usize, Value)| (format!("#{index}"), value);
    routes
        .enumerate()
        .map(|(index, matches)| Rule {
            name: format!("#{index}"),
            matches: matches.into_iter().enumerate().map(number).collect(),
        })
        .collect()
}

fn rules(field: &str, rules: &[Rule], report: &mut Report) {
    let mut seen: Vec<(&Value, &str)> = Vec::new();
    let mut catch_all = false;
    for (index, rule) in rules.iter().enumerate() {
        let path = at("spec", field, index);
        let mut unused = |reason: &str| {
            let detail = format!("virtualService rule {} not used ({reason})", rule.name);
            report.warn(&path, detail);
        };
        if rule.matches.is_empty() {
            if catch_all {
                unused("only the last rule can have no matches");
            }
            catch_all = true;
            continue;
        }
        if catch_all {
            unused("route without matches defined before");
            continue;
        }
        let mut duplicates = 0;
        for (number, (name, matched)) in rule.matches.iter().enumerate() {
            match seen.iter().find(|(other, _)| *other == matched) {
                Some((_, first)) => {
                    duplicates += 1;
                    let detail = format!(
                        "virtualService rule {} match {name} is not used (duplicate/overlapping match in rule {first})",
                        rule.name
                    );
                    report.warn(&at(&path, "match", number), detail);
                }
                None => seen.push((matched, &rule.name)),
            }
        }
        if duplicates == rule.matches.len() {
            let detail = format!(
                "virtualService rule {} not used (all matches used by prior rules)",
                rule.name
            );
            report.warn(&path, detail);
        }
    }
}
