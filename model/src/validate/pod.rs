//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Errors, container, items, metadata, name, not_negative, one_of, resources, scheduling, text,
    volume,
};
use crate::status::FieldError;

/// `spec` of a pod or of a template, at `path`.
pub fn spec(spec: &Value, path: &str, errors: &mut Errors) {
    let field = |name: &str| format!("{path}.{name}");
    let volumes = volume::volumes(&spec["volumes"], &field("volumes"), errors);
    container::containers(spec, path, &volumes, errors);
    one_of(
        spec,
        path,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        errors,
    );
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, path, "dnsPolicy", &dns, errors);
    not_negative(spec, path, &["terminationGracePeriodSeconds"], errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(
            field("activeDeadlineSeconds"),
            seconds,
            detail,
        ));
    }
    metadata::labels(&spec["nodeSelector"], &field("nodeSelector"), errors);
    named(spec, path, "serviceAccountName", name::subdomain, errors);
    named(spec, path, "nodeName", name::subdomain, errors);
    named(spec, path, "hostname", name::label, errors);
    named(spec, path, "subdomain", name::label, errors);
    named(spec, path, "priorityClassName", name::subdomain, errors);
    named(spec, path, "runtimeClassName", name::subdomain, errors);
    for (index, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(FieldError::required(
                format!("{path}.imagePullSecrets[{index}].name"),
                "",
            ));
        }
    }
    for (index, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        for fault in name::address(text(alias, "ip")) {
            errors.push(FieldError::invalid(
                format!("{path}.ip"),
                text(alias, "ip"),
                fault,
            ));
        }
        for (index, host) in items(&alias["hostnames"]).iter().enumerate() {
            let host = host.as_str().unwrap_or("");
            for fault in name::subdomain(host) {
                errors.push(FieldError::invalid(
                    format!("{path}.hostnames[{index}]"),
                    host,
                    fault,
                ));
            }
        }
    }
    security(&spec["securityContext"], &field("securityContext"), errors);
    dns_config(spec, path, errors);
    readiness_gates(spec, path, errors);
    scheduling::rules(spec, path, errors);
    if !spec["resources"].is_null() {
        resources::requirements(&spec["resources"], &field("resources"), errors);
    }
}

fn named(
    spec: &Value,
    path: &str,
    field: &str,
    rule: fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    let given = text(spec, field);
    if !given.is_empty() {
        for fault in rule(given) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), given, fault));
        }
    }
}

/// User and group ids, of a pod or of a container.
pub fn ids(context: &Value, path: &str, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context[field].as_i64()
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{path}.{field}"), id, detail));
        }
    }
}

fn security(context: &Value, path: &str, errors: &mut Errors) {
    ids(context, path, errors);
    for (index, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        let id = group.as_i64().unwrap_or(0);
        if !(0..=i64::from(i32::MAX)).contains(&id) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(
                format!("{path}.supplementalGroups[{index}]"),
                id,
                detail,
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let name = text(sysctl, "name");
        let path = format!("{path}.sysctls[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
}

fn dns_config(spec: &Value, path: &str, errors: &mut Errors) {
    /// As glibc's resolver reads them.
    const NAMESERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    let path = format!("{path}.dnsConfig");
    let config = &spec["dnsConfig"];
    let servers = items(&config["nameservers"]);
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, detail));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{path}.nameservers"), detail));
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        errors.push(FieldError::too_many(
            format!("{path}.nameservers"),
            servers.len(),
            NAMESERVERS_MAX,
        ));
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        for fault in name::address(server) {
            errors.push(FieldError::invalid(
                format!("{path}.nameservers[{index}]"),
                server,
                fault,
            ));
        }
    }
    let searches = items(&config["searches"]);
    if searches.len() > SEARCHES_MAX {
        errors.push(FieldError::too_many(
            format!("{path}.searches"),
            searches.len(),
            SEARCHES_MAX,
        ));
    }
    for (index, option) in items(&config["options"]).iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(
                format!("{path}.options[{index}]"),
                "must not be empty",
            ));
        }
    }
}

fn readiness_gates(spec: &Value, path: &str, errors: &mut Errors) {
    for (index, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let condition = text(gate, "conditionType");
        for fault in name::qualified(condition) {
            let path = format!("{path}.readinessGates[{index}].conditionType");
            errors.push(FieldError::invalid(path, condition, fault));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let gate = text(gate, "name");
        let path = format!("{path}.schedulingGates[{index}].name");
        for fault in name::qualified(gate) {
            errors.push(FieldError::invalid(path.clone(), gate, fault));
        }
        if !seen.insert(gate) {
            errors.push(FieldError::duplicate(path, gate));
        }
    }
}

/// Changes of a pod beside its status: the image of a container, added tolerations, removed scheduling gates, a
/// shorter deadline.
pub fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new == old {
        return;
    }
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), detail));
            return;
        }
    }
    match (
        old["activeDeadlineSeconds"].as_i64(),
        new["activeDeadlineSeconds"].as_i64(),
    ) {
        (Some(before), Some(after)) if after > before => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(
                "spec.activeDeadlineSeconds",
                after,
                detail,
            ));
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(
                "spec.activeDeadlineSeconds",
                Value::Null,
                detail,
            ));
        }
        _ => {}
    }
    tolerations(new, old, errors);
    // What may change is made equal; anything that still differs may not.
    let mut masked = new.clone();
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&old[list]).iter().enumerate() {
            if masked[list][index].is_object() && !items(&new[list])[index]["image"].is_null() {
                masked[list][index]["image"] = container["image"].clone();
            }
        }
    }
    let still_gated = items(&new["schedulingGates"])
        .iter()
        .all(|gate| items(&old["schedulingGates"]).contains(gate));
    let mut free = vec!["activeDeadlineSeconds", "tolerations"];
    if still_gated {
        free.push("schedulingGates");
    } else {
        let detail = "only deletion is allowed, but found new scheduling gate";
        errors.push(FieldError::forbidden("spec.schedulingGates", detail));
    }
    for field in free {
        match old.get(field) {
            Some(value) => masked[field] = value.clone(),
            None => drop(masked.as_object_mut().and_then(|map| map.remove(field))),
        }
    }
    let mut changed = Vec::new();
    differences(&masked, old, "spec", &mut changed);
    if !changed.is_empty() {
        let detail = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
             `spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n\
             changed: {}",
            changed.join(", ")
        );
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let but_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration
            .as_object_mut()
            .map(|map| map.remove("tolerationSeconds"));
        toleration
    };
    let kept: Vec<Value> = items(&new["tolerations"]).iter().map(but_seconds).collect();
    if !items(&old["tolerations"])
        .iter()
        .all(|toleration| kept.contains(&but_seconds(toleration)))
    {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

/// Paths at which two values differ, as deep as both are maps or lists of one length.
fn differences(new: &Value, old: &Value, path: &str, changed: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(after), Value::Object(before)) => {
            for key in after
                .keys()
                .chain(before.keys().filter(|key| !after.contains_key(*key)))
            {
                differences(&new[key], &old[key], &format!("{path}.{key}"), changed);
            }
        }
        (Value::Array(after), Value::Array(before)) if after.len() == before.len() => {
            for (index, (after, before)) in after.iter().zip(before).enumerate() {
                differences(after, before, &format!("{path}[{index}]"), changed);
            }
        }
        _ if new == old => {}
        _ => changed.push(path.to_owned()),
    }
}

/// Changes through `pods/ephemeralcontainers`.
pub fn ephemeral_update(new: &Value, old: &Value, errors: &mut Errors) {
    let added = items(&new["spec"]["ephemeralContainers"]);
    for (index, before) in items(&old["spec"]["ephemeralContainers"])
        .iter()
        .enumerate()
    {
        let name = text(before, "name");
        match added
            .iter()
            .find(|container| text(container, "name") == name)
        {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden("spec.ephemeralContainers", detail));
            }
            Some(after) if after != before => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(FieldError::forbidden(
                    format!("spec.ephemeralContainers[{index}]"),
                    detail,
                ));
            }
            Some(_) => {}
        }
    }
}

/// Changes of a pod's status: a container that has ended for good stays ended.
pub fn status_update(new: &Value, old: &Value, errors: &mut Errors) {
    let before = &old["status"]["qosClass"];
    if !before.is_null() && new["status"]["qosClass"] != *before {
        let after = new["status"]["qosClass"].clone();
        errors.push(FieldError::invalid(
            "status.qosClass",
            after,
            "field is immutable",
        ));
    }
    let policy = text(&old["spec"], "restartPolicy");
    if policy != "Never" && policy != "OnFailure" {
        return;
    }
    for (index, after) in items(&new["status"]["containerStatuses"])
        .iter()
        .enumerate()
    {
        let ended = items(&old["status"]["containerStatuses"])
            .iter()
            .find(|before| before["name"] == after["name"])
            .map(|before| &before["state"]["terminated"])
            .filter(|terminated| !terminated.is_null());
        let Some(terminated) = ended else { continue };
        let failed = terminated["exitCode"].as_i64().unwrap_or(0) != 0;
        if (policy == "OnFailure" && failed) || !after["state"]["terminated"].is_null() {
            continue;
        }
        let path = format!("status.containerStatuses[{index}].state");
        errors.push(FieldError::forbidden(
            path,
            "may not be transitioned to non-terminated state",
        ));
    }
}
