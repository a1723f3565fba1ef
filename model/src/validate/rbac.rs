//! Roles and their bindings.

use serde_json::Value;

use super::{Errors, items, metadata, name, text};
use crate::kinds::Kind;
use crate::status::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn role(kind: &Kind, object: &Value, errors: &mut Errors) {
    for (index, rule) in items(&object["rules"]).iter().enumerate() {
        self::rule(rule, kind.namespaced, &format!("rules[{index}]"), errors);
    }
    let aggregation = &object["aggregationRule"];
    if !aggregation.is_null() {
        let selectors = items(&aggregation["clusterRoleSelectors"]);
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(
                "aggregationRule.clusterRoleSelectors",
                detail,
            ));
        }
        for (index, selector) in selectors.iter().enumerate() {
            metadata::selector(
                selector,
                &format!("aggregationRule.clusterRoleSelectors[{index}]"),
                errors,
            );
        }
    }
}

fn rule(rule: &Value, namespaced: bool, path: &str, errors: &mut Errors) {
    if items(&rule["verbs"]).is_empty() {
        errors.push(FieldError::required(
            format!("{path}.verbs"),
            "verbs must contain at least one value",
        ));
    }
    let urls = &rule["nonResourceURLs"];
    if !items(urls).is_empty() {
        let path = format!("{path}.nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(path.clone(), urls.clone(), detail));
        }
        let others = ["apiGroups", "resources", "resourceNames"];
        if others
            .into_iter()
            .any(|field| !items(&rule[field]).is_empty())
        {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(path, urls.clone(), detail));
        }
        return;
    }
    if items(&rule["apiGroups"]).is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(format!("{path}.apiGroups"), detail));
    }
    if items(&rule["resources"]).is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(format!("{path}.resources"), detail));
    }
}

pub fn binding(kind: &Kind, object: &Value, errors: &mut Errors) {
    let role = &object["roleRef"];
    let group = text(role, "apiGroup");
    if group != GROUP {
        errors.push(FieldError::not_supported(
            "roleRef.apiGroup",
            group,
            &[GROUP],
        ));
    }
    let allowed: &[&str] = if kind.namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    let given = text(role, "kind");
    if !allowed.contains(&given) {
        errors.push(FieldError::not_supported("roleRef.kind", given, allowed));
    }
    let target = text(role, "name");
    if target.is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    } else {
        for fault in name::path_segment(target) {
            errors.push(FieldError::invalid("roleRef.name", target, fault));
        }
    }
    for (index, subject) in items(&object["subjects"]).iter().enumerate() {
        self::subject(
            subject,
            kind.namespaced,
            &format!("subjects[{index}]"),
            errors,
        );
    }
}

fn subject(subject: &Value, namespaced: bool, path: &str, errors: &mut Errors) {
    let (own, group) = (text(subject, "name"), text(subject, "apiGroup"));
    if own.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !own.is_empty() {
                for fault in name::subdomain(own) {
                    errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
                }
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(
                    format!("{path}.apiGroup"),
                    group,
                    &[""],
                ));
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(
                    format!("{path}.apiGroup"),
                    group,
                    &[GROUP],
                ));
            }
        }
        other => {
            let allowed = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(
                format!("{path}.kind"),
                other,
                &allowed,
            ));
        }
    }
}
