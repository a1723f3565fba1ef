//! Containers: names and images, ports, environment, mounts, probes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, items, name, not_negative, one_of, pod, resources, text};
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
            environment(container, &path, errors);
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
                    probe(&container[kind], &format!("{path}.{kind}"), kind, errors);
                }
            }
            lifecycle(
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

fn environment(container: &Value, path: &str, errors: &mut Errors) {
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

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

fn handler(handler: &Value, path: &str, allowed: &[&str], errors: &mut Errors) {
    let given: Vec<&str> = HANDLERS
        .into_iter()
        .filter(|kind| allowed.contains(kind) && !handler[*kind].is_null())
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 handler type",
        ));
    }
    let Some(kind) = given.first() else { return };
    let path = format!("{path}.{kind}");
    let details = &handler[*kind];
    match *kind {
        "exec" if items(&details["command"]).is_empty() => {
            errors.push(FieldError::required(format!("{path}.command"), ""));
        }
        "httpGet" => {
            if text(details, "path").is_empty() {
                errors.push(FieldError::required(format!("{path}.path"), ""));
            }
            port_reference(&details["port"], &format!("{path}.port"), errors);
            one_of(details, &path, "scheme", &["HTTP", "HTTPS"], errors);
            for (index, header) in items(&details["httpHeaders"]).iter().enumerate() {
                let header = text(header, "name");
                for fault in name::http_header(header) {
                    errors.push(FieldError::invalid(
                        format!("{path}.httpHeaders[{index}]"),
                        header,
                        fault,
                    ));
                }
            }
        }
        "tcpSocket" | "grpc" => port_reference(&details["port"], &format!("{path}.port"), errors),
        _ => {}
    }
}

/// A port by number or name.
pub fn port_reference(port: &Value, path: &str, errors: &mut Errors) {
    let faults = match port {
        Value::String(text) => name::port_name(text),
        other => name::port_number(other.as_i64().unwrap_or(0)),
    };
    let shown = if port.is_null() {
        Value::from(0)
    } else {
        port.clone()
    };
    for fault in faults {
        errors.push(FieldError::invalid(path, shown.clone(), fault));
    }
}

fn probe(probe: &Value, path: &str, kind: &str, errors: &mut Errors) {
    handler(
        probe,
        path,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        errors,
    );
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    not_negative(probe, path, &numbers, errors);
    if kind != "readinessProbe"
        && let Some(threshold) = probe["successThreshold"]
            .as_i64()
            .filter(|threshold| *threshold != 1)
    {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            threshold,
            "must be 1",
        ));
    }
    if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64() {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "must not be set for readinessProbes",
            ));
        } else if seconds <= 0 {
            errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
        }
    }
}

fn lifecycle(lifecycle: &Value, path: &str, errors: &mut Errors) {
    for moment in ["postStart", "preStop"] {
        if !lifecycle[moment].is_null() {
            let allowed = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(
                &lifecycle[moment],
                &format!("{path}.{moment}"),
                &allowed,
                errors,
            );
        }
    }
}
