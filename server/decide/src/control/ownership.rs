//! Claiming: a controller owns the objects its selector picks. It adopts those nobody controls and
//! lets go of those it no longer selects, as Kubernetes' controller reference manager does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use trireme_model::kinds::Kind;

use crate::intent::{Action, Intent, Subresource};
use crate::labels::selects;
use crate::view::controller_of;

/// The reference a controller puts on what it creates.
pub(crate) fn controller_reference(kind: &Kind, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What claiming means for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// `owner_leaves`: the owner is being deleted, so it adopts and releases nothing any more.
pub(crate) fn claim(
    owner: &ObjectMeta,
    owner_leaves: bool,
    selector: &LabelSelector,
    object: &ObjectMeta,
) -> Claim {
    let leaves = object.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) == owner.uid.as_ref() => {
            if selects(selector, object) || owner_leaves || leaves {
                Claim::Mine
            } else {
                Claim::Release
            }
        }
        Some(_) => Claim::NotMine,
        None if owner_leaves || leaves || !selects(selector, object) => Claim::NotMine,
        None => Claim::Adopt,
    }
}

/// A patch of an object's owner references. Lists are replaced whole by a merge patch, so the
/// resource version is part of the precondition.
pub(crate) fn set_owners(
    controller: &'static str,
    reason: String,
    kind: &'static Kind,
    object: &ObjectMeta,
    owners: &[OwnerReference],
) -> Intent {
    let owners: Vec<Value> = owners
        .iter()
        .filter_map(|owner| serde_json::to_value(owner).ok())
        .collect();
    let owners = if owners.is_empty() {
        Value::Null
    } else {
        Value::from(owners)
    };
    Intent::new(
        controller,
        reason,
        Action::Patch {
            kind,
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
            subresource: Subresource::Main,
            patch: json!({"metadata": {
                "uid": object.uid,
                "resourceVersion": object.resource_version,
                "ownerReferences": owners,
            }}),
        },
    )
}

/// The patch that adopts `object`.
pub(crate) fn adopt(
    controller: &'static str,
    owner_kind: &'static Kind,
    owner: &ObjectMeta,
    kind: &'static Kind,
    object: &ObjectMeta,
) -> Intent {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.retain(|reference| Some(&reference.uid) != owner.uid.as_ref());
    owners.push(controller_reference(owner_kind, owner));
    let name = owner.name.as_deref().unwrap_or_default();
    set_owners(
        controller,
        format!(
            "{} {name} selects it and nothing controls it",
            owner_kind.kind
        ),
        kind,
        object,
        &owners,
    )
}

/// The patch that lets `object` go.
pub(crate) fn release(
    controller: &'static str,
    owner_kind: &'static Kind,
    owner: &ObjectMeta,
    kind: &'static Kind,
    object: &ObjectMeta,
) -> Intent {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.retain(|reference| Some(&reference.uid) != owner.uid.as_ref());
    let name = owner.name.as_deref().unwrap_or_default();
    set_owners(
        controller,
        format!("{} {name} no longer selects it", owner_kind.kind),
        kind,
        object,
        &owners,
    )
}
