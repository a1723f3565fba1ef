//! EnvoyFilter: rate limits and nothing else. Whatever else would be patched is refused with what to use instead.

use serde_json::{Map, Value};

use super::{Report, at, host};
use crate::istio::{ApplyTo, ConfigPatch, EnvoyFilterSpec, Operation};

/// The HTTP filters that may be added.
pub const FILTERS: [&str; 2] = [
    "envoy.filters.http.local_ratelimit",
    "envoy.filters.http.ratelimit",
];

pub fn check(spec: &EnvoyFilterSpec, report: &mut Report) {
    if let Some(selector) = &spec.workload_selector {
        host::selector(&selector.labels, "spec.workloadSelector.labels", report);
    }
    for (index, patch) in spec.config_patches.iter().enumerate() {
        config_patch(patch, &at("spec", "configPatches", index), report);
    }
}

/// A field of Envoy's configuration, in either spelling.
fn field<'a>(value: &'a Map<String, Value>, snake: &str, camel: &str) -> Option<&'a Value> {
    value.get(snake).or_else(|| value.get(camel))
}

fn config_patch(patch: &ConfigPatch, path: &str, report: &mut Report) {
    let Some(own) = &patch.patch else {
        return report.required(format!("{path}.patch"), "patch is required");
    };
    let operation = format!("{path}.patch.operation");
    let value = format!("{path}.patch.value");
    match patch.apply_to {
        ApplyTo::HttpFilter => {
            let inserts = matches!(
                own.operation,
                Operation::InsertBefore
                    | Operation::InsertAfter
                    | Operation::InsertFirst
                    | Operation::Add
            );
            if !inserts {
                let detail = "only INSERT_BEFORE, INSERT_AFTER, INSERT_FIRST and ADD are possible for HTTP_FILTER here";
                report.forbidden(operation, detail);
            }
            let name = own.value.get("name").and_then(Value::as_str).unwrap_or("");
            if !FILTERS.contains(&name) {
                report.invalid(format!("{value}.name"), name, only_rate_limits());
            }
        }
        ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            if own.operation != Operation::Merge {
                let detail = "only MERGE is possible for VIRTUAL_HOST and HTTP_ROUTE here";
                report.forbidden(operation, detail);
            }
            route_level(&own.value, &value, report);
        }
        ApplyTo::Cluster => {
            let detail = "clusters of rate limit services need no patch: name the service's own cluster (outbound|PORT||HOST) in the filter";
            report.forbidden(format!("{path}.applyTo"), detail);
        }
        _ => report.forbidden(format!("{path}.applyTo"), only_rate_limits()),
    }
}

fn only_rate_limits() -> String {
    format!(
        "EnvoyFilter is limited to rate limits here: HTTP_FILTER with {}, and their settings of VIRTUAL_HOST and HTTP_ROUTE; use VirtualService, DestinationRule, Gateway or Sidecar for the rest",
        FILTERS.join(" or ")
    )
}

/// What a virtual host or route may say: settings of these filters, and descriptors (`rate_limits`).
fn route_level(value: &Map<String, Value>, path: &str, report: &mut Report) {
    for (name, inner) in value {
        match name.as_str() {
            "typed_per_filter_config" | "typedPerFilterConfig" => {
                for filter in inner.as_object().into_iter().flat_map(Map::keys) {
                    if !FILTERS.contains(&filter.as_str()) {
                        let path = format!("{path}.{name}[{filter}]");
                        report.forbidden(path, only_rate_limits());
                    }
                }
            }
            "rate_limits" | "rateLimits" => {}
            "route" => {
                let route = inner.as_object().cloned().unwrap_or_default();
                let known = field(&route, "rate_limits", "rateLimits").is_some();
                if !known || route.len() > 1 {
                    report.forbidden(format!("{path}.route"), only_rate_limits());
                }
            }
            _ => report.forbidden(format!("{path}.{name}"), only_rate_limits()),
        }
    }
}
