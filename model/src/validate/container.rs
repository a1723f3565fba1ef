//! Containers: names and images, ports, environment, mounts, probes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, environment, items, name, one_of, pod, probe, resources, text};
use crate::status::FieldError;

/// All containers of the pod at `path`; `volumes` are the names that may be mounted.
pub fn containers(spec: &Value, path: &str, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut host_ports: BTreeSet<String> = BTreeSet::new();
    let on_host = spec["hostNetwork"].as_bool().unwrap_or(false);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let all = items(&spec[list]);
        if list == "containers" && all.is_empty() {
            errors.push(FieldError::required(format!("{path}.containers"), ""));
        }
        for (index, container) in all.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let own = text(container, "name");
            identity(container, &path, errors);
            if !own.is_empty() && !names.insert(own.to_owned()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), own));
            }
            restart(container, &path, list, errors);
            if list == "ephemeralContainers" {
                ephemeral(container, &path, errors);
            }
            ports(container, &path, on_host, errors);
            if list == "containers" {
                host_port_conflicts(container, &path, &mut host_ports, errors);
            }
            environment::environment(container, &path, errors);
            mounts(container, &path, volumes, errors);
            if !container["resources"].is_null() {
                resources::requirements(
                    &container["resources"],
                    &format!("{path}.resources"),
                    errors,
                );
            }
            security(
                &container["securityContext"],
                &format!("{path}.securityContext"),
                errors,
            );
            for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if !container[kind].is_null() {
                    probe::probe(&container[kind], &format!("{path}.{kind}"), kind, errors);
                }
            }
            probe::lifecycle(
                &container["lifecycle"],
                &format!("{path}.lifecycle"),
                errors,
            );
        }
    }
}

fn identity(container: &Value, path: &str, errors: &mut Errors) {
    let own = text(container, "name");
    if own.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        for fault in name::label(own) {
            errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
        }
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), image, detail));
    }
    one_of(
        container,
        path,
        "terminationMessagePolicy",
        &["FallbackToLogsOnError", "File"],
        errors,
    );
    one_of(
        container,
        path,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
}

fn restart(container: &Value, path: &str, list: &str, errors: &mut Errors) {
    let policy = text(container, "restartPolicy");
    if list == "initContainers" {
        if !policy.is_empty() && policy != "Always" {
            errors.push(FieldError::not_supported(
                format!("{path}.restartPolicy"),
                policy,
                &["Always"],
            ));
        }
        if policy != "Always" {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if !container[field].is_null() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
                }
            }
        }
    } else if !policy.is_empty() {
        errors.push(FieldError::forbidden(
            format!("{path}.restartPolicy"),
            "may not be set for non-init containers",
        ));
    }
}

fn ephemeral(container: &Value, path: &str, errors: &mut Errors) {
    for field in [
        "ports",
        "resources",
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        let empty = match &container[field] {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            let detail = "cannot be set for an Ephemeral Container";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

fn ports(container: &Value, path: &str, on_host: bool, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let own = text(port, "name");
        if !own.is_empty() {
            let faults = name::port_name(own);
            if faults.is_empty() && !names.insert(own) {
                errors.push(FieldError::duplicate(format!("{path}.name"), own));
            }
            for fault in faults {
                errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        let on_node = port["hostPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        } else {
            for fault in name::port_number(number) {
                errors.push(FieldError::invalid(
                    format!("{path}.containerPort"),
                    number,
                    fault,
                ));
            }
        }
        if on_node != 0 {
            for fault in name::port_number(on_node) {
                errors.push(FieldError::invalid(
                    format!("{path}.hostPort"),
                    on_node,
                    fault,
                ));
            }
            if on_host && on_node != number {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(
                    format!("{path}.containerPort"),
                    number,
                    detail,
                ));
            }
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

fn host_port_conflicts(
    container: &Value,
    path: &str,
    taken: &mut BTreeSet<String>,
    errors: &mut Errors,
) {
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let number = port["hostPort"].as_i64().unwrap_or(0);
        if number == 0 {
            continue;
        }
        let key = format!(
            "{}/{}/{number}",
            text(port, "protocol"),
            text(port, "hostIP")
        );
        if !taken.insert(key.clone()) {
            errors.push(FieldError::duplicate(
                format!("{path}.ports[{index}].hostPort"),
                key,
            ));
        }
    }
}

fn mounts(container: &Value, path: &str, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let volume = text(mount, "name");
        if volume.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.contains(volume) {
            errors.push(FieldError::not_found(format!("{path}.name"), volume));
        }
        let place = text(mount, "mountPath");
        if place.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !places.insert(place) {
            errors.push(FieldError::invalid(
                format!("{path}.mountPath"),
                place,
                "must be unique",
            ));
        }
        for field in ["subPath", "subPathExpr"] {
            relative_path(text(mount, field), &format!("{path}.{field}"), errors);
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let expression = text(mount, "subPathExpr");
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(
                format!("{path}.subPathExpr"),
                expression,
                detail,
            ));
        }
        let propagation = text(mount, "mountPropagation");
        if !propagation.is_empty() {
            let allowed = ["Bidirectional", "HostToContainer", "None"];
            one_of(mount, &path, "mountPropagation", &allowed, errors);
            let privileged = container["securityContext"]["privileged"]
                .as_bool()
                .unwrap_or(false);
            if propagation == "Bidirectional" && !privileged {
                let detail =
                    "Bidirectional mount propagation is available only to privileged containers";
                errors.push(FieldError::forbidden(
                    format!("{path}.mountPropagation"),
                    detail,
                ));
            }
        }
    }
}

/// A path inside something: relative, and never upward.
pub fn relative_path(given: &str, path: &str, errors: &mut Errors) {
    if given.starts_with('/') {
        errors.push(FieldError::invalid(path, given, "must be a relative path"));
    }
    no_upward(given, path, errors);
}

pub fn no_upward(given: &str, path: &str, errors: &mut Errors) {
    if given.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, given, "must not contain '..'"));
    }
}

fn security(context: &Value, path: &str, errors: &mut Errors) {
    pod::ids(context, path, errors);
    let escalation = context["allowPrivilegeEscalation"].as_bool();
    if escalation == Some(false) && context["privileged"].as_bool() == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path, context.clone(), detail));
    }
}
