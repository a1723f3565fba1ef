//! Garbage collection by owner references: what all owners have left is deleted; an owner deleted
//! in the foreground waits for its dependents; one deleted as an orphaner lets them go.
//!
//! Keys are uids (as the name of a cluster-scoped key): an object is looked at whatever its kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use trireme_model::kinds::{self, Kind};

use super::{Controller, ownership};
use crate::intent::{Absent, Action, Intent, Plan, Propagation, Subresource};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "generic-garbage-collector";
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Most writes of one reconciliation; the next goes on when the view has seen these.
const MAX_WRITES: usize = 500;

pub(crate) struct GarbageCollector;

fn uid_key(uid: &str) -> ObjectKey {
    ObjectKey::cluster(uid)
}

fn has_finalizer(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata
        .finalizers
        .iter()
        .flatten()
        .any(|it| it == finalizer)
}

fn waits_for_dependents(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some() && has_finalizer(metadata, FOREGROUND)
}

impl Controller for GarbageCollector {
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
        if kind == kinds::EVENT {
            return Vec::new();
        }
        let mut uids: Vec<String> = Vec::new();
        let own = |object: &Object| object.metadata().uid.clone();
        if let Some(after) = after {
            let metadata = after.metadata();
            let owned = metadata
                .owner_references
                .as_ref()
                .is_some_and(|it| !it.is_empty());
            let leaving = metadata.deletion_timestamp.is_some();
            if owned || leaving && metadata.finalizers.is_some() {
                uids.extend(own(after));
            }
            if waits_for_dependents(metadata) {
                uids.extend(dependents(view, metadata).filter_map(|it| own(&it)));
            }
        }
        if let Some(before) = before {
            let same = after.is_some_and(|after| own(after) == own(before));
            if !same {
                uids.extend(dependents(view, before.metadata()).filter_map(|it| own(&it)));
            }
            // An owner in foreground deletion waits for this one to go, or to be let go.
            for owner in before.metadata().owner_references.iter().flatten() {
                let waits = view
                    .by_uid(&owner.uid)
                    .is_some_and(|owner| owner.metadata().deletion_timestamp.is_some());
                if waits {
                    uids.push(owner.uid.clone());
                }
            }
        }
        uids.sort();
        uids.dedup();
        uids.iter().map(|uid| uid_key(uid)).collect()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = view.by_uid(&key.name) else {
            return plan;
        };
        if object.metadata().deletion_timestamp.is_some() {
            if has_finalizer(object.metadata(), ORPHAN) {
                orphan_dependents(view, &object, &mut plan);
            } else if has_finalizer(object.metadata(), FOREGROUND) {
                finish_foreground(view, &object, &mut plan);
            }
            return plan;
        }
        collect(view, &object, &mut plan);
        plan
    }
}

fn dependents<'a>(view: &'a View, owner: &ObjectMeta) -> impl Iterator<Item = Object> + 'a {
    view.dependents_of(owner.uid.as_deref().unwrap_or_default())
}

/// What an owner reference leads to.
enum Owner {
    Solid,
    /// Deleted in the foreground; it goes when its dependents have.
    Waiting,
    Absent(Absent),
}

fn resolve(view: &View, dependent: &ObjectMeta, reference: &OwnerReference) -> Option<Owner> {
    if let Some(owner) = view.by_uid(&reference.uid) {
        return Some(if waits_for_dependents(owner.metadata()) {
            Owner::Waiting
        } else {
            Owner::Solid
        });
    }
    // A kind this cluster does not serve can not be looked up: its dependents are left alone.
    let kind = kinds::find_kind(&reference.api_version, &reference.kind)?.stored();
    let namespace = if kind.namespaced {
        dependent.namespace.clone().unwrap_or_default()
    } else {
        String::new()
    };
    Some(Owner::Absent(Absent {
        kind,
        namespace,
        name: reference.name.clone(),
        uid: reference.uid.clone(),
    }))
}

/// Deletes an object without a solid owner, or strikes the absent ones from its references.
fn collect(view: &View, object: &Object, plan: &mut Plan) {
    let metadata = object.metadata();
    let references = metadata.owner_references.as_deref().unwrap_or_default();
    if references.is_empty() {
        return;
    }
    let (mut solid, mut absent) = (Vec::new(), Vec::new());
    let mut waiting = false;
    for reference in references {
        match resolve(view, metadata, reference) {
            Some(Owner::Solid) | None => solid.push(reference.clone()),
            Some(Owner::Waiting) => waiting = true,
            Some(Owner::Absent(gone)) => absent.push(gone),
        }
    }
    if solid.len() == references.len() {
        return;
    }
    if !solid.is_empty() {
        let reason = "owners are gone, others remain".to_owned();
        let intent = ownership::set_owners(NAME, reason, object.kind(), metadata, &solid);
        plan.push(intent.provided_absent(absent));
        return;
    }
    let blocks = dependents(view, metadata).any(|dependent| {
        blocks_owner(
            dependent.metadata(),
            metadata.uid.as_deref().unwrap_or_default(),
        )
    });
    let (propagation, reason) = if waiting && blocks {
        let reason = "its owner is deleted in the foreground and waits for it";
        (Propagation::Foreground, reason)
    } else if waiting {
        (
            Propagation::Background,
            "its owner is deleted in the foreground and waits for it",
        )
    } else if has_finalizer(metadata, ORPHAN) {
        (Propagation::Orphan, "its owners are gone")
    } else if has_finalizer(metadata, FOREGROUND) {
        (Propagation::Foreground, "its owners are gone")
    } else {
        (Propagation::Background, "its owners are gone")
    };
    plan.push(
        Intent::new(
            NAME,
            reason,
            Action::Delete {
                kind: object.kind(),
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
                uid: metadata.uid.clone().unwrap_or_default(),
                // An owner may have been added since.
                resource_version: metadata.resource_version.clone().filter(|_| !waiting),
                grace_seconds: None,
                propagation,
            },
        )
        .provided_absent(absent),
    );
}

fn blocks_owner(dependent: &ObjectMeta, owner_uid: &str) -> bool {
    dependent
        .owner_references
        .iter()
        .flatten()
        .any(|it| it.uid == owner_uid && it.block_owner_deletion == Some(true))
}

fn without_finalizer(object: &Object, finalizer: &str, reason: &str) -> Intent {
    let metadata = object.metadata();
    let left: Vec<&String> = metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|it| *it != finalizer)
        .collect();
    let left = if left.is_empty() {
        Value::Null
    } else {
        json!(left)
    };
    Intent::new(
        NAME,
        reason,
        Action::Patch {
            kind: object.kind(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            subresource: Subresource::Main,
            patch: json!({"metadata": {
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
                "finalizers": left,
            }}),
        },
    )
}

fn finish_foreground(view: &View, owner: &Object, plan: &mut Plan) {
    let uid = owner.metadata().uid.as_deref().unwrap_or_default();
    let blocked =
        dependents(view, owner.metadata()).any(|dependent| blocks_owner(dependent.metadata(), uid));
    if !blocked {
        plan.push(without_finalizer(
            owner,
            FOREGROUND,
            "no dependent blocks it any more",
        ));
    }
}

fn orphan_dependents(view: &View, owner: &Object, plan: &mut Plan) {
    let uid = owner.metadata().uid.as_deref().unwrap_or_default();
    for dependent in dependents(view, owner.metadata()).take(MAX_WRITES) {
        let metadata = dependent.metadata();
        let mut owners = metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|reference| reference.uid != uid);
        let reason = "its owner is deleted without its dependents".to_owned();
        let kind = dependent.kind();
        plan.push(ownership::set_owners(NAME, reason, kind, metadata, &owners));
    }
    if plan.is_empty() {
        plan.push(without_finalizer(
            owner,
            ORPHAN,
            "every dependent is let go",
        ));
    }
}
