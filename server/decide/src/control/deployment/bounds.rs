//! `maxSurge` and `maxUnavailable` in pods, and how a change of size is shared among ReplicaSets.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The bounds of a rollout, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

pub(super) fn replicas_wanted(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    strategy(deployment).is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

fn strategy(deployment: &Deployment) -> Option<&DeploymentStrategy> {
    deployment.spec.as_ref()?.strategy.as_ref()
}

fn resolve(value: Option<&IntOrString>, replicas: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(count)) => return *count,
        Some(IntOrString::String(text)) => text
            .strip_suffix('%')
            .and_then(|number| number.parse::<i64>().ok())
            .unwrap_or(0),
        None => 25,
    };
    let scaled = percent.saturating_mul(i64::from(replicas));
    let pods = if round_up {
        scaled.saturating_add(99) / 100
    } else {
        scaled / 100
    };
    i32::try_from(pods).unwrap_or(i32::MAX)
}

impl Bounds {
    pub fn of(deployment: &Deployment) -> Bounds {
        let replicas = replicas_wanted(deployment);
        if is_recreate(deployment) {
            // Nothing beside the wanted pods, and all of them may be away.
            return Bounds {
                replicas,
                max_surge: 0,
                max_unavailable: 0,
            };
        }
        let rolling: Option<&RollingUpdateDeployment> =
            strategy(deployment).and_then(|strategy| strategy.rolling_update.as_ref());
        let max_surge = resolve(rolling.and_then(|it| it.max_surge.as_ref()), replicas, true);
        let mut max_unavailable = resolve(
            rolling.and_then(|it| it.max_unavailable.as_ref()),
            replicas,
            false,
        );
        // With both at zero (rounded down, say) nothing could ever move.
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Bounds {
            replicas,
            max_surge,
            max_unavailable: max_unavailable.min(replicas),
        }
    }

    pub fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }

    pub fn max_total(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }
}

/// What is the size of a ReplicaSet after its share of a resize by `to_add` pods, of which
/// `added` are given to others already: in proportion to its size when the Deployment was
/// `max_total_before` pods at most.
pub(super) fn proportional_size(
    size: i32,
    bounds: &Bounds,
    max_total_before: i32,
    to_add: i32,
    added: i32,
) -> i32 {
    if size == 0 || to_add == added {
        return size;
    }
    if bounds.replicas == 0 {
        return 0;
    }
    let scaled = i64::from(size) * i64::from(bounds.max_total());
    let before = i64::from(max_total_before.max(1));
    // Rounded half up; all numbers are positive.
    let share = (2 * scaled + before) / (2 * before) - i64::from(size);
    let share = i32::try_from(share).unwrap_or(i32::MAX);
    let allowed = to_add - added;
    let share = if to_add > 0 {
        share.min(allowed)
    } else {
        share.max(allowed)
    };
    (size + share).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bounds(replicas: i32, strategy: serde_json::Value) -> (i32, i32) {
        let deployment: Deployment = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {}, "template": {}, "strategy": strategy},
        }))
        .unwrap();
        let bounds = Bounds::of(&deployment);
        (bounds.max_surge, bounds.max_unavailable)
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let percent = |surge: &str, unavailable: &str| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        assert_eq!(bounds(3, percent("25%", "25%")), (1, 0));
        assert_eq!(bounds(10, percent("25%", "25%")), (3, 2));
        assert_eq!(bounds(1, percent("0%", "25%")), (0, 1));
        assert_eq!(bounds(2, percent("100%", "100%")), (2, 2));
        assert_eq!(bounds(10, json!(null)), (3, 2));
        let counts = json!({"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 7}});
        assert_eq!(bounds(5, counts), (2, 5));
        assert_eq!(bounds(5, json!({"type": "Recreate"})), (0, 0));
    }

    #[test]
    fn a_resize_is_shared_in_proportion() {
        // 10 + 3 at most, 8 old and 5 new, becomes 20 + 5.
        let bounds = Bounds {
            replicas: 20,
            max_surge: 5,
            max_unavailable: 5,
        };
        let first = proportional_size(8, &bounds, 13, 12, 0);
        assert_eq!(first, 15);
        assert_eq!(proportional_size(5, &bounds, 13, 12, 7), 10);
    }
}
