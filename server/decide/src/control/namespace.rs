//! Namespace: deletes what is in a namespace that is being deleted, then lets it go.

use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use trireme_model::kinds::{self, Kind};

use super::{Controller, object_value};
use crate::intent::{Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
const TERMINATING: &str = "Terminating";

/// Most deletions of one reconciliation; the next goes on when the view has seen these.
const MAX_DELETIONS: usize = 500;

pub(crate) struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind == kinds::NAMESPACE {
            return after.map(Object::key).into_iter().collect();
        }
        // What is in a namespace matters only while it is being emptied.
        let namespace = before
            .or(after)
            .and_then(|object| object.metadata().namespace.clone())
            .and_then(|name| view.namespace(&name))
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
        namespace
            .map(|it| ObjectKey::of(&it.metadata))
            .into_iter()
            .collect()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(namespace) = view.namespace(&key.name) else {
            return plan;
        };
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.clone())
            .unwrap_or_default();
        let leaves = namespace.metadata.deletion_timestamp.is_some();
        if !leaves || !finalizers.iter().any(|it| it == FINALIZER) {
            return plan;
        }
        let status = namespace.status.clone().unwrap_or_default();
        if status.phase.as_deref() != Some(TERMINATING) {
            let mut updated = Namespace::clone(namespace);
            updated.status = Some(NamespaceStatus {
                phase: Some(TERMINATING.to_owned()),
                ..status
            });
            plan.push(Intent::new(
                NAME,
                "it is being deleted",
                Action::UpdateStatus {
                    kind: kinds::NAMESPACE,
                    object: object_value(&updated),
                },
            ));
            return plan;
        }
        if delete_content(view, &key.name, &mut plan) {
            return plan;
        }
        let mut updated = Namespace::clone(namespace);
        if let Some(spec) = updated.spec.as_mut() {
            spec.finalizers = Some(
                finalizers
                    .into_iter()
                    .filter(|it| it != FINALIZER)
                    .collect(),
            );
        }
        plan.push(Intent::new(
            NAME,
            "nothing is left in it",
            Action::FinalizeNamespace {
                name: key.name.clone(),
                object: object_value(&updated),
            },
        ));
        plan
    }
}

/// Deletes what is not being deleted yet. Answers whether anything is still there.
fn delete_content(view: &View, namespace: &str, plan: &mut Plan) -> bool {
    let mut remains = false;
    for kind in View::watched().into_iter().filter(|kind| kind.namespaced) {
        for key in view.keys(kind, Some(namespace)) {
            remains = true;
            let Some(object) = view.get(kind, &key) else {
                continue;
            };
            let metadata = object.metadata();
            if metadata.deletion_timestamp.is_some() || plan.intents.len() >= MAX_DELETIONS {
                continue;
            }
            plan.push(Intent::new(
                NAME,
                format!("namespace {namespace} is being deleted"),
                Action::Delete {
                    kind,
                    namespace: key.namespace,
                    name: key.name,
                    uid: metadata.uid.clone().unwrap_or_default(),
                    resource_version: None,
                    grace_seconds: None,
                    propagation: Propagation::Background,
                },
            ));
        }
    }
    remains
}
