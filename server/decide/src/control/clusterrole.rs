//! ClusterRole: one with an aggregation rule holds the rules of all roles that its selectors choose, so
//! that a new kind's rules reach `view`, `edit` and `admin` by a label.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use trireme_model::kinds::{self, Kind};

use super::{Controller, object_value};
use crate::intent::{Action, Intent, Plan};
use crate::key::ObjectKey;
use crate::labels::selects;
use crate::view::{Object, View};

const NAME: &str = "clusterrole-aggregation-controller";

pub(crate) struct Aggregations;

impl Controller for Aggregations {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        _before: Option<&Object>,
        _after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind != kinds::CLUSTER_ROLE {
            return Vec::new();
        }
        // Roles are few and change seldom: any of them may be chosen, by labels old or new.
        view.cluster_roles
            .iter()
            .filter(|(_, role)| role.aggregation_rule.is_some())
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(role) = view.cluster_roles.get(key) else {
            return plan;
        };
        if role.aggregation_rule.is_none() || role.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let rules = aggregated(view, role);
        if rules == role.rules.clone().unwrap_or_default() {
            return plan;
        }
        let mut updated = ClusterRole::clone(role);
        updated.rules = Some(rules);
        plan.push(Intent::new(
            NAME,
            "the rules of the roles that its selectors choose have changed",
            Action::Update {
                kind: kinds::CLUSTER_ROLE,
                object: object_value(&updated),
            },
        ));
        plan
    }
}

/// Selector by selector, role by role in the order of names, each rule once: Kubernetes' order.
fn aggregated(view: &View, role: &Arc<ClusterRole>) -> Vec<PolicyRule> {
    let selectors = role
        .aggregation_rule
        .iter()
        .flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let chosen = view
            .cluster_roles
            .values()
            .filter(|other| other.metadata.name != role.metadata.name)
            .filter(|other| selects(selector, &other.metadata));
        for rule in chosen.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}
