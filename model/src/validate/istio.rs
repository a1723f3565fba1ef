//! Istio's networking kinds, in the words of Istio's own validation, each fault with its field.
//!
//! First the rules that the table of types tells ([`rules`]): enumerations, durations, required and exclusive fields.
//! An object that keeps them is read as its type, and what remains is judged kind by kind, faults and warnings in one
//! pass. Source: `pkg/config/validation` of Istio 1.2x.

mod destination_rule;
mod envoy_filter;
mod gateway;
mod header;
mod host;
mod http_route;
mod load_balancer;
mod rules;
mod service_entry;
mod sidecar;
mod tls;
mod traffic_policy;
mod unreachable;
mod virtual_service;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::istio::{self, Object};
use crate::kinds::Kind;
use crate::meta;
use crate::status::FieldError;

/// What is wrong, and what is only odd.
#[derive(Default)]
struct Report {
    errors: Vec<FieldError>,
    warnings: Vec<String>,
}

impl Report {
    fn invalid(
        &mut self,
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.errors.push(FieldError::invalid(path, value, detail));
    }

    fn required(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::required(path, detail));
    }

    /// Fields that do not go together.
    fn forbidden(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::forbidden(path, detail));
    }

    /// A fault that a check of one value answered, if any.
    fn check(&mut self, path: &str, value: impl Into<Value>, fault: Result<(), String>) {
        if let Err(detail) = fault {
            self.invalid(path, value, detail);
        }
    }

    fn warn(&mut self, path: &str, detail: impl std::fmt::Display) {
        self.warnings.push(format!("{path}: {detail}"));
    }
}

/// Faults of an object of one of these kinds.
pub(super) fn errors(kind: &Kind, object: &Value) -> Vec<FieldError> {
    report(kind, object).errors
}

/// What is odd about an object of one of these kinds, though it is admitted.
pub(super) fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    report(kind, object).warnings
}

fn report(kind: &Kind, object: &Value) -> Report {
    let mut report = Report::default();
    rules::check(kind, object, &mut report);
    if !report.errors.is_empty() {
        return report;
    }
    let namespace = meta::namespace(object);
    match kind.kind {
        "VirtualService" => read(
            object,
            &mut report,
            |object: &istio::VirtualService, report| {
                virtual_service::check(&object.spec, namespace, report);
            },
        ),
        "DestinationRule" => read(
            object,
            &mut report,
            |object: &istio::DestinationRule, report| {
                destination_rule::check(&object.spec, namespace, report);
            },
        ),
        "Gateway" => read(object, &mut report, |object: &istio::Gateway, report| {
            gateway::check(object, report);
        }),
        "ServiceEntry" => read(
            object,
            &mut report,
            |object: &istio::ServiceEntry, report| {
                service_entry::check(&object.spec, namespace, report);
            },
        ),
        "WorkloadEntry" => read(
            object,
            &mut report,
            |object: &istio::WorkloadEntry, report| {
                service_entry::endpoint(&object.spec, "spec", None, true, report);
            },
        ),
        "Sidecar" => read(object, &mut report, |object: &istio::Sidecar, report| {
            sidecar::check(&object.spec, namespace, report);
        }),
        "EnvoyFilter" => read(
            object,
            &mut report,
            |object: &istio::EnvoyFilter, report| {
                envoy_filter::check(&object.spec, report);
            },
        ),
        _ => {}
    }
    report
}

/// Reads the object as its type; one that keeps the rules of the table does not fail to be read, and if one did, that
/// would be said and not hidden.
fn read<S: Default + DeserializeOwned>(
    object: &Value,
    report: &mut Report,
    check: impl FnOnce(&Object<S>, &mut Report),
) {
    match Object::read(object) {
        Ok(object) => check(&object, report),
        Err(error) => report.errors.push(FieldError::type_invalid(
            "spec",
            Value::Null,
            error.to_string(),
        )),
    }
}

fn at(path: &str, field: &str, index: usize) -> String {
    format!("{path}.{field}[{index}]")
}
