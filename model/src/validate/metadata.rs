//! Rules for every object's metadata, and for the label selectors that refer to it.

use serde_json::Value;

use super::{Errors, items, name, text};
use crate::kinds::{self, Kind};
use crate::meta;
use crate::status::FieldError;

/// All annotations of one object together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// The rule for the names of a kind's objects.
fn name_rule(kind: &Kind) -> fn(&str) -> Vec<String> {
    if *kind == *kinds::NAMESPACE {
        name::label
    } else if *kind == *kinds::SERVICE {
        name::label_1035
    } else if kind.group == "rbac.authorization.k8s.io" {
        name::path_segment
    } else {
        name::subdomain
    }
}

pub fn create(kind: &Kind, object: &Value, errors: &mut Errors) {
    let own_name = meta::name(object);
    let generated = meta::generate_name(object);
    let rule = name_rule(kind);
    if !generated.is_empty() {
        // The suffix follows, so a trailing dash is fine.
        let checked = generated
            .strip_suffix('-')
            .map_or_else(|| generated.to_owned(), |stem| format!("{stem}a"));
        for fault in rule(&checked) {
            errors.push(FieldError::invalid(
                "metadata.generateName",
                generated,
                fault,
            ));
        }
    }
    if own_name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        for fault in rule(own_name) {
            errors.push(FieldError::invalid("metadata.name", own_name, fault));
        }
    }
    let namespace = meta::namespace(object);
    if kind.namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            for fault in name::label(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", namespace, fault));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        ));
    }
    contents(object, errors);
}

pub fn update(new: &Value, old: &Value, errors: &mut Errors) {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
    ] {
        let (before, after) = (&old["metadata"][field], &new["metadata"][field]);
        if before != after {
            errors.push(FieldError::invalid(
                format!("metadata.{field}"),
                after.clone(),
                "field is immutable",
            ));
        }
    }
    if meta::generation(new) < meta::generation(old) {
        errors.push(FieldError::invalid(
            "metadata.generation",
            meta::generation(new),
            "must not be decremented",
        ));
    }
    if meta::deletion_timestamp(old).is_some() {
        let kept = meta::finalizers(old);
        let added: Vec<String> = meta::finalizers(new)
            .into_iter()
            .filter(|finalizer| !kept.contains(finalizer))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added
                    .iter()
                    .map(|finalizer| format!("{finalizer:?}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    contents(new, errors);
}

fn contents(object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    labels(&metadata["labels"], "metadata.labels", errors);
    annotations(&metadata["annotations"], "metadata.annotations", errors);
    for (index, finalizer) in items(&metadata["finalizers"]).iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or("");
        let path = format!("metadata.finalizers[{index}]");
        let faults = name::qualified(finalizer);
        let standard = matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes");
        if faults.is_empty() && !finalizer.contains('/') && !standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, finalizer, detail));
        } else {
            for fault in faults {
                errors.push(FieldError::invalid(path.clone(), finalizer, fault));
            }
        }
    }
    owners(&metadata["ownerReferences"], errors);
}

fn owners(list: &Value, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for (index, owner) in items(list).iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        let field = |name: &str| format!("{path}.{name}");
        if text(owner, "apiVersion")
            .rsplit('/')
            .next()
            .unwrap_or("")
            .is_empty()
        {
            errors.push(FieldError::invalid(
                field("apiVersion"),
                text(owner, "apiVersion"),
                "version must not be empty",
            ));
        }
        for name in ["kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                errors.push(FieldError::invalid(field(name), "", "must not be empty"));
            }
        }
        if owner["controller"].as_bool().unwrap_or(false) {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    list.clone(),
                    detail,
                ));
            } else {
                controller = Some(this);
            }
        }
    }
}

pub fn labels(map: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in map.as_object().into_iter().flatten() {
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(path, key.as_str(), fault));
        }
        let value = value.as_str().unwrap_or("");
        for fault in name::label_value(value) {
            errors.push(FieldError::invalid(path, value, fault));
        }
    }
}

pub fn annotations(map: &Value, path: &str, errors: &mut Errors) {
    let mut total_bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        for fault in name::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), fault));
        }
        total_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if total_bytes > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
}

/// A LabelSelector.
pub fn selector(selector: &Value, path: &str, errors: &mut Errors) {
    labels(
        &selector["matchLabels"],
        &format!("{path}.matchLabels"),
        errors,
    );
    for (index, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = items(&expression["values"]);
        match text(expression, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(format!("{path}.values"), detail));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let detail =
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(format!("{path}.values"), detail));
                }
            }
            other => {
                errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        let key = text(expression, "key");
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, fault));
        }
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            for fault in name::label_value(value) {
                errors.push(FieldError::invalid(
                    format!("{path}.values[{index}]"),
                    value,
                    fault,
                ));
            }
        }
    }
}
