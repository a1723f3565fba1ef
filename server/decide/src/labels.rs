//! Label selectors on typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

pub(crate) type Labels = BTreeMap<String, String>;

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Whether a label selector picks an object; an empty selector picks everything, an operator this
/// program does not know picks nothing.
pub(crate) fn selects(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let by_labels = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(name, value)| label(metadata, name) == Some(value));
    by_labels
        && selector.match_expressions.iter().flatten().all(|term| {
            let own = label(metadata, &term.key);
            let listed = |own: &str| term.values.iter().flatten().any(|value| value == own);
            match term.operator.as_str() {
                "In" => own.is_some_and(listed),
                "NotIn" => !own.is_some_and(listed),
                "Exists" => own.is_some(),
                "DoesNotExist" => own.is_none(),
                _ => false,
            }
        })
}

/// Whether a plain map of labels (a Service's selector) picks an object. An empty map picks nothing.
pub(crate) fn map_selects(selector: &Labels, metadata: &ObjectMeta) -> bool {
    !selector.is_empty()
        && selector
            .iter()
            .all(|(name, value)| label(metadata, name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_operator_is_applied() {
        let metadata: ObjectMeta =
            serde_json::from_value(json!({"labels": {"app": "web", "tier": "front"}})).unwrap();
        let check = |selector: serde_json::Value| {
            selects(&serde_json::from_value(selector).unwrap(), &metadata)
        };
        assert!(check(json!({})));
        assert!(check(json!({"matchLabels": {"app": "web"}})));
        assert!(!check(json!({"matchLabels": {"app": "db"}})));
        let expression = |operator: &str, key: &str, values: &[&str]| {
            check(
                json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
            )
        };
        assert!(expression("In", "app", &["web", "db"]));
        assert!(!expression("In", "none", &["web"]));
        assert!(!expression("NotIn", "app", &["web"]));
        assert!(expression("NotIn", "none", &["web"]));
        assert!(expression("Exists", "tier", &[]));
        assert!(!expression("DoesNotExist", "tier", &[]));
        assert!(!expression("Gt", "tier", &["1"]));
        assert!(!map_selects(&Labels::new(), &metadata));
    }
}
