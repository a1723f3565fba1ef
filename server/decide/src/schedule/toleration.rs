//! Tolerations: which taints a pod puts up with.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration covers a taint. An empty effect covers all, and so does an empty key with
/// `Exists`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            let value = toleration.value.as_deref().unwrap_or_default();
            !key.is_empty() && value == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

pub(super) fn any_tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_match_as_documented() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "role", "value": "db", "effect": "NoSchedule"}))
                .unwrap();
        let check = |toleration: serde_json::Value| {
            tolerates(&serde_json::from_value(toleration).unwrap(), &taint)
        };
        assert!(check(json!({"operator": "Exists"})));
        assert!(check(json!({"key": "role", "operator": "Exists"})));
        assert!(check(json!({"key": "role", "value": "db"})));
        assert!(check(
            json!({"key": "role", "value": "db", "effect": "NoSchedule"})
        ));
        assert!(!check(json!({"key": "role", "value": "web"})));
        assert!(!check(
            json!({"key": "role", "value": "db", "effect": "NoExecute"})
        ));
        assert!(!check(json!({"key": "zone", "operator": "Exists"})));
        assert!(!check(json!({"value": "db"})));
    }
}
