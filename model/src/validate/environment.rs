//! Environment variables, and the references to fields and resources of the pod that volumes share with them.

use serde_json::Value;

use super::{Errors, items, name, text};
use crate::status::FieldError;

/// Fields of a pod that an environment variable can show.
const ENVIRONMENT_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Resources that an environment variable or a downward API file can show.
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub fn environment(container: &Value, path: &str, errors: &mut Errors) {
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let own = text(variable, "name");
        if own.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            for fault in name::environment_name(own) {
                errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
            }
        }
        if !variable["valueFrom"].is_null() {
            value_from(variable, &path, errors);
        }
    }
    for (index, source) in items(&container["envFrom"]).iter().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        let (config, secret) = (&source["configMapRef"], &source["secretRef"]);
        match (config.is_null(), secret.is_null()) {
            (true, true) => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(path.clone(), "", detail));
            }
            (false, false) => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(path.clone(), "", detail));
            }
            _ => {}
        }
        for (field, reference) in [("configMapRef", config), ("secretRef", secret)] {
            if !reference.is_null() && text(reference, "name").is_empty() {
                errors.push(FieldError::required(format!("{path}.{field}.name"), ""));
            }
        }
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            for fault in name::environment_name(prefix) {
                errors.push(FieldError::invalid(format!("{path}.prefix"), prefix, fault));
            }
        }
    }
}

fn value_from(variable: &Value, path: &str, errors: &mut Errors) {
    let source = &variable["valueFrom"];
    let path = format!("{path}.valueFrom");
    let given: Vec<&str> = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ]
    .into_iter()
    .filter(|field| !source[*field].is_null())
    .collect();
    if given.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path.clone(), "", detail));
    } else if !text(variable, "value").is_empty() {
        errors.push(FieldError::invalid(
            path.clone(),
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if given.len() > 1 {
        errors.push(FieldError::invalid(
            path.clone(),
            "",
            "may not have more than one field specified at a time",
        ));
    }
    if !source["fieldRef"].is_null() {
        field_reference(
            &source["fieldRef"],
            &format!("{path}.fieldRef"),
            &ENVIRONMENT_FIELDS,
            errors,
        );
    }
    if !source["resourceFieldRef"].is_null() {
        resource_reference(
            &source["resourceFieldRef"],
            &format!("{path}.resourceFieldRef"),
            false,
            errors,
        );
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        let reference = &source[field];
        if reference.is_null() {
            continue;
        }
        let path = format!("{path}.{field}");
        if text(reference, "name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        let key = text(reference, "key");
        if key.is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        } else {
            for fault in name::config_key(key) {
                errors.push(FieldError::invalid(format!("{path}.key"), key, fault));
            }
        }
    }
}

/// `metadata.labels['key']` and `metadata.annotations['key']` are allowed beside `supported`.
pub fn field_reference(reference: &Value, path: &str, supported: &[&str], errors: &mut Errors) {
    if text(reference, "apiVersion").is_empty() {
        errors.push(FieldError::required(format!("{path}.apiVersion"), ""));
    }
    let field = text(reference, "fieldPath");
    let path = format!("{path}.fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let subscript = field
        .strip_suffix("']")
        .and_then(|start| start.split_once("['"));
    match subscript {
        Some(("metadata.labels", key)) => {
            for fault in name::qualified(key) {
                errors.push(FieldError::invalid(path.clone(), key, fault));
            }
        }
        Some(("metadata.annotations", key)) => {
            for fault in name::qualified(&key.to_lowercase()) {
                errors.push(FieldError::invalid(path.clone(), key, fault));
            }
        }
        _ if supported.contains(&field) => {}
        _ => errors.push(FieldError::not_supported(path, field, supported)),
    }
}

/// In a volume the container has to be named.
pub fn resource_reference(reference: &Value, path: &str, in_volume: bool, errors: &mut Errors) {
    if in_volume && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    }
    let resource = text(reference, "resource");
    if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !resource.contains(".hugepages-") {
        errors.push(FieldError::not_supported(
            format!("{path}.resource"),
            resource,
            &RESOURCE_FIELDS,
        ));
    }
}
