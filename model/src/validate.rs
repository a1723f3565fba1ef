//! Whether an object is what its kind allows, and whether a change is: every fault found, each with its field, in
//! Kubernetes' words.
//!
//! Objects come here checked by [`crate::schema`] and filled by [`crate::defaults`]; on anything else the answers are
//! still well-formed, only less to the point.

mod cluster;
mod config;
mod container;
mod endpoints;
mod environment;
mod istio;
mod metadata;
pub mod name;
mod pod;
mod probe;
mod rbac;
mod resources;
mod scheduling;
mod service;
mod volume;
mod workload;

use serde_json::Value;

use crate::kinds::{self, Kind};
use crate::status::FieldError;

type Errors = Vec<FieldError>;

/// Faults of a new object.
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if kind.is_virtual() {
        cluster::review(kind, object, &mut errors);
        return errors;
    }
    metadata::create(kind, object, &mut errors);
    if *kind == *kinds::POD && !items(&object["spec"]["ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden(
            "spec.ephemeralContainers",
            "cannot be set on create",
        ));
    }
    contents(kind, object, &mut errors);
    errors
}

/// What is odd about an object, though it is allowed.
pub fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    if kind.is_istio() {
        istio::warnings(kind, object)
    } else {
        Vec::new()
    }
}

/// Faults of a changed object: those it has, and changes its kind does not allow.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(new, old, &mut errors);
    contents(kind, new, &mut errors);
    if *kind == *kinds::POD {
        pod::update(new, old, &mut errors);
    } else if *kind == *kinds::DEPLOYMENT || *kind == *kinds::REPLICA_SET {
        immutable(
            new,
            old,
            &["spec", "selector"],
            "field is immutable",
            &mut errors,
        );
    } else if *kind == *kinds::SERVICE {
        service::update(new, old, &mut errors);
    } else if *kind == *kinds::CONFIG_MAP {
        config::update(new, old, &["data", "binaryData"], &mut errors);
    } else if *kind == *kinds::SECRET {
        immutable(new, old, &["type"], "field is immutable", &mut errors);
        config::update(new, old, &["data"], &mut errors);
    } else if *kind == *kinds::ROLE_BINDING || *kind == *kinds::CLUSTER_ROLE_BINDING {
        immutable(new, old, &["roleRef"], "cannot change roleRef", &mut errors);
    } else if *kind == *kinds::ENDPOINT_SLICE {
        immutable(
            new,
            old,
            &["addressType"],
            "field is immutable",
            &mut errors,
        );
    } else if *kind == *kinds::NODE {
        cluster::node_update(new, old, &mut errors);
    }
    errors
}

/// Faults of a changed status. Everything beside the status is as stored already.
pub fn status_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(new, old, &mut errors);
    if *kind == *kinds::DEPLOYMENT || *kind == *kinds::REPLICA_SET {
        workload::status(&new["status"], &mut errors);
    } else if *kind == *kinds::POD {
        pod::status_update(new, old, &mut errors);
    } else if *kind == *kinds::NODE {
        cluster::node(new, &mut errors);
        cluster::node_update(new, old, &mut errors);
    }
    errors
}

/// Faults of a change made through `pods/ephemeralcontainers`: existing ones stay as they are.
pub fn ephemeral_containers_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(new, old, &mut errors);
    contents(kinds::POD, new, &mut errors);
    pod::ephemeral_update(new, old, &mut errors);
    errors
}

/// Faults of an autoscaling/v1 Scale.
pub fn scale(scale: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if text(&scale["metadata"], "name").is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    }
    not_negative(&scale["spec"], "spec", &["replicas"], &mut errors);
    errors
}

/// Faults of a core/v1 Binding.
pub fn binding(binding: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let kind = text(&binding["target"], "kind");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(
            "target.kind",
            kind,
            &["Node", "<empty>"],
        ));
    }
    if text(&binding["target"], "name").is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

/// Faults of an authentication/v1 TokenRequest.
pub fn token_request(request: &Value) -> Vec<FieldError> {
    /// Ten minutes, as Kubernetes asks.
    const MIN_SECONDS: i64 = 600;
    let mut errors = Errors::new();
    if let Some(seconds) = request["spec"]["expirationSeconds"].as_i64() {
        let path = "spec.expirationSeconds";
        if seconds < MIN_SECONDS {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        } else if seconds > 1 << 32 {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
    }
    errors
}

fn contents(kind: &Kind, object: &Value, errors: &mut Errors) {
    if *kind == *kinds::POD {
        pod::spec(&object["spec"], "spec", errors);
    } else if *kind == *kinds::DEPLOYMENT {
        workload::deployment(&object["spec"], errors);
    } else if *kind == *kinds::REPLICA_SET {
        workload::replica_set(&object["spec"], errors);
    } else if *kind == *kinds::SERVICE {
        service::service(&object["spec"], errors);
    } else if *kind == *kinds::ENDPOINTS {
        endpoints::endpoints(object, errors);
    } else if *kind == *kinds::ENDPOINT_SLICE {
        endpoints::slice(object, errors);
    } else if *kind == *kinds::CONFIG_MAP {
        config::config_map(object, errors);
    } else if *kind == *kinds::SECRET {
        config::secret(object, errors);
    } else if *kind == *kinds::ROLE || *kind == *kinds::CLUSTER_ROLE {
        rbac::role(kind, object, errors);
    } else if *kind == *kinds::ROLE_BINDING || *kind == *kinds::CLUSTER_ROLE_BINDING {
        rbac::binding(kind, object, errors);
    } else if *kind == *kinds::NODE {
        cluster::node(object, errors);
    } else if *kind == *kinds::LEASE {
        cluster::lease(&object["spec"], errors);
    } else if *kind == *kinds::NAMESPACE {
        cluster::namespace(object, errors);
    } else if *kind == *kinds::EVENT || *kind == *kinds::EVENTS_EVENT {
        cluster::event(kind, object, errors);
    } else if *kind == *kinds::SERVICE_ACCOUNT {
        cluster::service_account(object, errors);
    } else if kind.is_istio() {
        errors.extend(istio::errors(kind, object));
    }
}

/// The elements of a list, or none.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A string field, empty where there is none.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

/// Complains about a field that changed.
fn immutable(new: &Value, old: &Value, path: &[&str], detail: &str, errors: &mut Errors) {
    let at = |object: &Value| {
        path.iter()
            .fold(object.clone(), |value, field| value[*field].clone())
    };
    let (after, before) = (at(new), at(old));
    if after != before {
        errors.push(FieldError::invalid(path.join("."), after, detail));
    }
}

/// Complains about negative numbers among the named fields.
fn not_negative(value: &Value, path: &str, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        if let Some(number) = value[*field].as_i64().filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(
                format!("{path}.{field}"),
                number,
                detail,
            ));
        }
    }
}

/// Complains about a string outside the listed ones; an empty one is a missing one.
fn one_of(value: &Value, path: &str, field: &str, allowed: &[&str], errors: &mut Errors) {
    match text(value, field) {
        "" => errors.push(FieldError::required(format!("{path}.{field}"), "")),
        given if allowed.contains(&given) => {}
        given => errors.push(FieldError::not_supported(
            format!("{path}.{field}"),
            given,
            allowed,
        )),
    }
}
