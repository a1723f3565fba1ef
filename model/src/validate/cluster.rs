//! Nodes, namespaces, leases, events, service accounts, access reviews.

use serde_json::Value;

use super::{Errors, items, name, not_negative, resources, scheduling, text};
use crate::kinds::{self, Kind};
use crate::meta;
use crate::status::FieldError;

pub fn node(object: &Value, errors: &mut Errors) {
    scheduling::taints(&object["spec"]["taints"], "spec.taints", errors);
    for (index, range) in items(&object["spec"]["podCIDRs"]).iter().enumerate() {
        let range = range.as_str().unwrap_or("");
        if !is_range(range) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(
                format!("spec.podCIDRs[{index}]"),
                range,
                detail,
            ));
        }
    }
    for list in ["capacity", "allocatable"] {
        resources::list(&object["status"][list], &format!("status.{list}"), errors);
    }
}

/// `address/prefix length`.
fn is_range(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let Ok(length) = length.parse::<u8>() else {
        return false;
    };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => length <= 32,
        Ok(std::net::IpAddr::V6(_)) => length <= 128,
        Err(_) => false,
    }
}

/// What a node once got, it keeps.
pub fn node_update(new: &Value, old: &Value, errors: &mut Errors) {
    let before = &old["spec"]["podCIDRs"];
    if !items(before).is_empty() && new["spec"]["podCIDRs"] != *before {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
    let before = text(&old["spec"], "providerID");
    if !before.is_empty() && text(&new["spec"], "providerID") != before {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", detail));
    }
}

pub fn namespace(object: &Value, errors: &mut Errors) {
    for (index, finalizer) in items(&object["spec"]["finalizers"]).iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or("");
        for fault in name::qualified(finalizer) {
            errors.push(FieldError::invalid(
                format!("spec.finalizers[{index}]"),
                finalizer,
                fault,
            ));
        }
    }
}

pub fn lease(spec: &Value, errors: &mut Errors) {
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    not_negative(spec, "spec", &["leaseTransitions"], errors);
}

pub fn event(kind: &Kind, object: &Value, errors: &mut Errors) {
    /// Of the message, as events.k8s.io has it.
    const NOTE_MAX_BYTES: usize = 1024;
    let subject = if *kind == *kinds::EVENT {
        "involvedObject"
    } else {
        "regarding"
    };
    let namespace = text(&object[subject], "namespace");
    let own = meta::namespace(object);
    // Events about cluster-scoped objects live in `default`.
    if namespace.is_empty() {
        if own != "default" && own != "kube-system" {
            let detail = "does not match event.namespace";
            errors.push(FieldError::invalid(
                format!("{subject}.namespace"),
                namespace,
                detail,
            ));
        }
    } else if namespace != own {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(
            format!("{subject}.namespace"),
            namespace,
            detail,
        ));
    }
    if *kind == *kinds::EVENTS_EVENT && text(object, "note").len() > NOTE_MAX_BYTES {
        errors.push(FieldError::invalid(
            "note",
            "",
            "can have at most 1024 bytes",
        ));
    }
}

pub fn service_account(object: &Value, errors: &mut Errors) {
    for (index, secret) in items(&object["imagePullSecrets"]).iter().enumerate() {
        let own = text(secret, "name");
        if !own.is_empty() {
            for fault in name::subdomain(own) {
                errors.push(FieldError::invalid(
                    format!("imagePullSecrets[{index}].name"),
                    own,
                    fault,
                ));
            }
        }
    }
}

/// Reviews are questions; what is asked has to be said once.
pub fn review(kind: &Kind, object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    if *kind == *kinds::SELF_SUBJECT_RULES_REVIEW {
        if text(spec, "namespace").is_empty() {
            errors.push(FieldError::required("spec.namespace", ""));
        }
        return;
    }
    if *kind != *kinds::SELF_SUBJECT_ACCESS_REVIEW && *kind != *kinds::SUBJECT_ACCESS_REVIEW {
        return;
    }
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if !resource.is_null() && !path.is_null() {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            detail,
        ));
    }
    if resource.is_null() && path.is_null() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            detail,
        ));
    }
    if *kind == *kinds::SUBJECT_ACCESS_REVIEW
        && text(spec, "user").is_empty()
        && items(&spec["groups"]).is_empty()
    {
        errors.push(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
}
