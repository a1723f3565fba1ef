//! Requests and limits.

use serde_json::Value;

use super::{Errors, name};
use crate::quantity::Quantity;
use crate::status::FieldError;

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

fn is_standard(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-")
}

/// `resources` of a container: known names, nothing negative, requests within limits.
pub fn requirements(requirements: &Value, path: &str, errors: &mut Errors) {
    amounts(&requirements["limits"], &format!("{path}.limits"), errors);
    amounts(
        &requirements["requests"],
        &format!("{path}.requests"),
        errors,
    );
    let limits = &requirements["limits"];
    for (resource, request) in requirements["requests"].as_object().into_iter().flatten() {
        let limit = &limits[resource.as_str()];
        let (Some(asked), Some(most)) = (amount(request), amount(limit)) else {
            continue;
        };
        let path = format!("{path}.requests");
        let shown = limit.as_str().unwrap_or("");
        if !is_native(resource) && asked != most {
            let detail = format!("must be equal to {resource} limit of {shown}");
            errors.push(FieldError::invalid(path, request.clone(), detail));
        } else if asked.nanos() > most.nanos() {
            let detail = format!("must be less than or equal to {resource} limit of {shown}");
            errors.push(FieldError::invalid(path, request.clone(), detail));
        }
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| Quantity::parse(text).ok())
}

fn amounts(list: &Value, path: &str, errors: &mut Errors) {
    for (resource, value) in list.as_object().into_iter().flatten() {
        let path = format!("{path}[{resource}]");
        let faults = name::qualified(resource);
        if !faults.is_empty() {
            for fault in faults {
                errors.push(FieldError::invalid(path.clone(), resource.as_str(), fault));
            }
        } else if !resource.contains('/') && !is_standard(resource) {
            let detail = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(path.clone(), resource.as_str(), detail));
            let detail = "must be a standard resource for containers";
            errors.push(FieldError::invalid(path.clone(), resource.as_str(), detail));
        }
        let Some(amount) = amount(value) else {
            continue;
        };
        if amount.is_negative() {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                "must be greater than or equal to 0",
            ));
        } else if !is_native(resource) && !amount.is_whole() {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                "must be an integer",
            ));
        }
    }
}

/// Capacity or another plain list of amounts.
pub fn list(list: &Value, path: &str, errors: &mut Errors) {
    for (resource, value) in list.as_object().into_iter().flatten() {
        let path = format!("{path}[{resource}]");
        for fault in name::qualified(resource) {
            errors.push(FieldError::invalid(path.clone(), resource.as_str(), fault));
        }
        if amount(value).is_some_and(|amount| amount.is_negative()) {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                "must be greater than or equal to 0",
            ));
        }
    }
}
