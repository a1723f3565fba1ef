//! Where a pod may run: tolerations, affinities, spreading.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, items, metadata, name, one_of, text};
use crate::status::FieldError;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The scheduling rules in the pod spec at `path`.
pub fn rules(spec: &Value, path: &str, errors: &mut Errors) {
    for (index, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        self::toleration(toleration, &format!("{path}.tolerations[{index}]"), errors);
    }
    let affinity = &spec["affinity"];
    node_affinity(
        &affinity["nodeAffinity"],
        &format!("{path}.affinity.nodeAffinity"),
        errors,
    );
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&affinity[kind], &format!("{path}.affinity.{kind}"), errors);
    }
    spread(spec, path, errors);
}

fn toleration(toleration: &Value, path: &str, errors: &mut Errors) {
    let (key, operator, value) = (
        text(toleration, "key"),
        text(toleration, "operator"),
        text(toleration, "value"),
    );
    if !key.is_empty() {
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, fault));
        }
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(
            format!("{path}.operator"),
            operator,
            detail,
        ));
    }
    match operator {
        "" | "Equal" => {
            for fault in name::label_value(value) {
                errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    value,
                    fault,
                ));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    value,
                    detail,
                ));
            }
        }
        other => errors.push(FieldError::not_supported(
            format!("{path}.operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(
            format!("{path}.effect"),
            effect,
            &EFFECTS,
        ));
    }
    if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(
            format!("{path}.effect"),
            effect,
            detail,
        ));
    }
}

fn node_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    if !required.is_null() {
        let path =
            format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        let terms = items(&required["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.push(FieldError::required(
                path.clone(),
                "must have at least one node selector term",
            ));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{index}]"), errors);
        }
    }
    let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution");
    for (index, preferred) in items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
        .iter()
        .enumerate()
    {
        let path = format!("{path}[{index}]");
        weight(preferred, &path, errors);
        node_term(
            &preferred["preference"],
            &format!("{path}.preference"),
            errors,
        );
    }
}

fn weight(preferred: &Value, path: &str, errors: &mut Errors) {
    let weight = preferred["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            format!("{path}.weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

fn node_term(term: &Value, path: &str, errors: &mut Errors) {
    for (index, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = items(&requirement["values"]);
        match text(requirement, "operator") {
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
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(FieldError::required(format!("{path}.values"), detail));
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
        let key = text(requirement, "key");
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, fault));
        }
    }
    for (index, requirement) in items(&term["matchFields"]).iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        let key = text(requirement, "key");
        if key != "metadata.name" {
            errors.push(FieldError::invalid(
                format!("{path}.key"),
                key,
                "not a valid field selector key",
            ));
        }
        if items(&requirement["values"]).len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(format!("{path}.values"), detail));
        }
        if !matches!(text(requirement, "operator"), "In" | "NotIn") {
            let operator = text(requirement, "operator");
            errors.push(FieldError::invalid(
                format!("{path}.operator"),
                operator,
                "not a valid selector operator",
            ));
        }
    }
}

fn pod_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    let required = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"])
        .iter()
        .enumerate()
    {
        pod_term(term, &format!("{required}[{index}]"), errors);
    }
    let preferred = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
        .iter()
        .enumerate()
    {
        let path = format!("{preferred}[{index}]");
        weight(term, &path, errors);
        pod_term(
            &term["podAffinityTerm"],
            &format!("{path}.podAffinityTerm"),
            errors,
        );
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut Errors) {
    metadata::selector(
        &term["labelSelector"],
        &format!("{path}.labelSelector"),
        errors,
    );
    metadata::selector(
        &term["namespaceSelector"],
        &format!("{path}.namespaceSelector"),
        errors,
    );
    for (index, namespace) in items(&term["namespaces"]).iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or("");
        for fault in name::label(namespace) {
            errors.push(FieldError::invalid(
                format!("{path}.namespaces[{index}]"),
                namespace,
                fault,
            ));
        }
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.topologyKey"),
            "can not be empty",
        ));
    } else {
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(
                format!("{path}.topologyKey"),
                key,
                fault,
            ));
        }
    }
}

fn spread(spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(
                format!("{path}.maxSkew"),
                skew,
                "must be greater than zero",
            ));
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        } else {
            for fault in name::qualified(key) {
                errors.push(FieldError::invalid(
                    format!("{path}.topologyKey"),
                    key,
                    fault,
                ));
            }
        }
        one_of(
            constraint,
            &path,
            "whenUnsatisfiable",
            &["DoNotSchedule", "ScheduleAnyway"],
            errors,
        );
        let action = text(constraint, "whenUnsatisfiable");
        if !seen.insert((key, action)) {
            let path = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            errors.push(FieldError::duplicate(path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            if domains <= 0 {
                errors.push(FieldError::invalid(
                    format!("{path}.minDomains"),
                    domains,
                    "must be greater than zero",
                ));
            }
            if action != "DoNotSchedule" {
                let detail = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
                errors.push(FieldError::invalid(
                    format!("{path}.minDomains"),
                    domains,
                    detail,
                ));
            }
        }
        metadata::selector(
            &constraint["labelSelector"],
            &format!("{path}.labelSelector"),
            errors,
        );
    }
}

/// Taints of a node.
pub fn taints(list: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in items(list).iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (key, value, effect) = (
            text(taint, "key"),
            text(taint, "value"),
            text(taint, "effect"),
        );
        for fault in name::qualified(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, fault));
        }
        for fault in name::label_value(value) {
            errors.push(FieldError::invalid(format!("{path}.value"), value, fault));
        }
        one_of(taint, &path, "effect", &EFFECTS, errors);
        if !seen.insert((key, effect)) {
            let detail = FieldError::duplicate(path, taint.clone());
            errors.push(FieldError {
                detail: "taints must be unique by key and effect pair".to_owned(),
                ..detail
            });
        }
    }
}
