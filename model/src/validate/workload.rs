//! Deployments and ReplicaSets.

use serde_json::Value;

use super::{Errors, metadata, name, not_negative, pod, text};
use crate::status::FieldError;

pub fn deployment(spec: &Value, errors: &mut Errors) {
    let numbers = [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ];
    not_negative(spec, "spec", &numbers, errors);
    selector(spec, "deployment", errors);
    template(spec, errors);
    strategy(&spec["strategy"], errors);
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= ready
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            detail,
        ));
    }
}

pub fn replica_set(spec: &Value, errors: &mut Errors) {
    not_negative(spec, "spec", &["replicas", "minReadySeconds"], errors);
    selector(spec, "replicaset", errors);
    template(spec, errors);
}

fn selector(spec: &Value, noun: &str, errors: &mut Errors) {
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    metadata::selector(selector, "spec.selector", errors);
    let empty = |field: &str| match &selector[field] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    if empty("matchLabels") && empty("matchExpressions") {
        let detail = format!("empty selector is invalid for {noun}");
        errors.push(FieldError::invalid(
            "spec.selector",
            selector.clone(),
            detail,
        ));
    }
}

fn template(spec: &Value, errors: &mut Errors) {
    let template = &spec["template"];
    if template.is_null() {
        errors.push(FieldError::required("spec.template", ""));
        return;
    }
    let labels = &template["metadata"]["labels"];
    if !spec["selector"].is_null() && !selects(&spec["selector"], labels) {
        let shown = if labels.is_null() {
            Value::Object(serde_json::Map::new())
        } else {
            labels.clone()
        };
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            shown,
            detail,
        ));
    }
    metadata::labels(labels, "spec.template.metadata.labels", errors);
    metadata::annotations(
        &template["metadata"]["annotations"],
        "spec.template.metadata.annotations",
        errors,
    );
    pod::spec(&template["spec"], "spec.template.spec", errors);
    let policy = text(&template["spec"], "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        errors.push(FieldError::not_supported(
            "spec.template.spec.restartPolicy",
            policy,
            &["Always"],
        ));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            detail,
        ));
    }
    if !super::items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(
            "spec.template.spec.ephemeralContainers",
            detail,
        ));
    }
}

/// Whether a LabelSelector matches the labels, both as JSON.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    let equal = wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| labels[key.as_str()] == *value);
    equal
        && super::items(&selector["matchExpressions"])
            .iter()
            .all(|expression| {
                let label = &labels[text(expression, "key")];
                let listed = super::items(&expression["values"]).contains(label);
                match text(expression, "operator") {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => !label.is_null(),
                    "DoesNotExist" => label.is_null(),
                    _ => false,
                }
            })
}

fn strategy(strategy: &Value, errors: &mut Errors) {
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
            }
        }
        "RollingUpdate" => rolling_update(rolling, errors),
        other => {
            errors.push(FieldError::not_supported(
                "spec.strategy.type",
                other,
                &["Recreate", "RollingUpdate"],
            ));
        }
    }
}

fn rolling_update(rolling: &Value, errors: &mut Errors) {
    const PATH: &str = "spec.strategy.rollingUpdate";
    let mut amounts = [0i64; 2];
    for (index, field) in ["maxUnavailable", "maxSurge"].into_iter().enumerate() {
        let path = format!("{PATH}.{field}");
        match &rolling[field] {
            Value::String(given) => {
                let faults = name::percent(given);
                amounts[index] = given.trim_end_matches('%').parse().unwrap_or(0);
                if faults.is_empty() && field == "maxUnavailable" && amounts[index] > 100 {
                    errors.push(FieldError::invalid(
                        path.clone(),
                        given.as_str(),
                        "must not be greater than 100%",
                    ));
                }
                for fault in faults {
                    errors.push(FieldError::invalid(path.clone(), given.as_str(), fault));
                }
            }
            given => {
                amounts[index] = given.as_i64().unwrap_or(0);
                not_negative(rolling, PATH, &[field], errors);
            }
        }
    }
    if amounts == [0, 0] {
        let shown = rolling["maxUnavailable"].clone();
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            format!("{PATH}.maxUnavailable"),
            shown,
            detail,
        ));
    }
}

/// Counts in a Deployment's or ReplicaSet's status.
pub fn status(status: &Value, errors: &mut Errors) {
    let numbers = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "updatedReplicas",
        "observedGeneration",
    ];
    not_negative(status, "status", &numbers, errors);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    for (field, most) in [
        ("updatedReplicas", "replicas"),
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if number(field) > number(most) {
            let detail = format!("cannot be greater than status.{most}");
            errors.push(FieldError::invalid(
                format!("status.{field}"),
                number(field),
                detail,
            ));
        }
    }
}
