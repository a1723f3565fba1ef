//! The scheduler.

use crate::intent::Plan;
use crate::view::View;

/// Places every pending pod it can.
pub fn plan(view: &View, seed: u64) -> Plan {
    let _ = (view, seed);
    Plan::default()
}

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
