//! Server-side apply and the tracking of who owns which field.
//!
//! After the rules of Kubernetes' structured merge (KEP-555): an applied configuration is merged
//! into the live object; what its manager applied before, no longer applies and nobody else owns is
//! removed; changing what another manager owns is a conflict unless forced. Other writes are
//! tracked, so that appliers conflict with them.
//!
//! A `resourceVersion` or `uid` in what is applied is a precondition. The caller checks the schema
//! before, and defaults and validates after.

mod managers;
mod set;
#[cfg(test)]
mod tests;
mod walk;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::meta;
use crate::patch::shape::{self, Shape};
use crate::status::Status;
pub use managers::{ANCIENT_CHANGES, UPDATE_MANAGERS_MAX};
use managers::{Manager, Managers, Ownership};
use set::FieldSet;
use walk::{Comparison, compare, field_set, merge, prune, without_nulls};

/// Longest name of a field manager, as in Kubernetes.
pub const MANAGER_NAME_MAX_BYTES: usize = 128;

/// The manager that owns what an object held before anyone applied or was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Metadata that belongs to the server: nobody owns it and applying cannot change it.
const SERVER_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Merges an applied configuration into the live object, or makes a new one where there is none.
///
/// Returns the live object unchanged, to the byte, when nothing changes. Conflicts are a 409 that
/// names each field and its owner.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    now: jiff::Timestamp,
) -> Result<Value, Status> {
    apply_subresource(kind, live, applied, manager, "", force, now)
}

/// [`apply`] to a subresource (`status`): only what belongs to it is merged.
pub fn apply_subresource(
    kind: &Kind,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    subresource: &str,
    force: bool,
    now: jiff::Timestamp,
) -> Result<Value, Status> {
    if applied["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|entries| !entries.is_empty())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if manager.is_empty() {
        return Err(Status::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let root = Some(Shape::Map(shape::root(kind)));
    let applied = part(kind, subresource, applied);
    let mut set = field_set(&applied, root, "").map_err(|fault| {
        Status::bad_request(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {fault}",
            meta::namespace(&applied),
            meta::name(&applied),
            kind.api_version(),
            kind.kind,
        ))
    })?;
    ignore_server_fields(&mut set);

    let applier = Manager::applier(manager, subresource);
    let ownership = |time: String| Ownership {
        set: set.clone(),
        api_version: kind.api_version(),
        time,
    };
    let Some(live) = live else {
        let mut object = without_nulls(&applied).unwrap_or_else(|| json!({}));
        let mut managers = Managers::default();
        if !set.is_empty() {
            managers.0.insert(applier, ownership(meta::timestamp(now)));
        }
        managers.write(&mut object);
        return Ok(object);
    };

    check_preconditions(kind, live, &applied)?;
    let mut base = live.clone();
    meta::metadata_mut(&mut base).remove("managedFields");
    let before = managers_of(kind, live, now);
    let mut managers = before.clone();
    let last = managers.0.remove(&applier);

    let mut merged = merge(&base, &applied, root).unwrap_or_else(|| base.clone());
    if set.is_empty() {
        managers.0.remove(&applier);
    } else {
        let time = last.as_ref().map(|last| last.time.clone());
        managers
            .0
            .insert(applier.clone(), ownership(time.unwrap_or_default()));
    }
    if let Some(last) = &last {
        prune(&mut merged, &last.set, Some(&managers.union()), root);
    }
    keep_server_metadata(&mut merged, &base);

    let mut comparison = compare(&base, &merged, root);
    ignore_server_fields(&mut comparison.added);
    ignore_server_fields(&mut comparison.modified);
    ignore_server_fields(&mut comparison.removed);
    let Comparison {
        added: mut changed,
        modified,
        removed,
    } = comparison;
    changed.union(&modified);
    if !force {
        let conflicts = conflicts(&managers, &applier, &changed);
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
    }
    managers.take_from_others(&applier, &changed);
    managers.take_from_others(&applier, &removed);
    if merged == base && managers.same_fields(&before) {
        return Ok(live.clone());
    }
    if let Some(ownership) = managers.0.get_mut(&applier) {
        ownership.time = meta::timestamp(now);
    }
    managers.write(&mut merged);
    Ok(merged)
}

/// Records in `new` which fields a create, update or patch by `manager` changed. `old` is the
/// stored object, `subresource` what was written (`""`, `"status"`, `"scale"`).
pub fn track(
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: jiff::Timestamp,
) {
    let sent = Managers::read(new);
    // `[{}]` is how clients ask for the list to be forgotten.
    let forget = new["metadata"]["managedFields"] == json!([{}]);
    let before = match old {
        _ if forget => Managers::default(),
        Some(old) if sent.0.is_empty() => Managers::read(old),
        _ => sent,
    };
    let unborn = unborn(kind);
    let old_part = part(kind, subresource, old.unwrap_or(&unborn));
    let new_part = part(kind, subresource, new);
    let root = Some(Shape::Map(shape::root(kind)));
    let mut comparison = compare(&old_part, &new_part, root);
    ignore_server_fields(&mut comparison.added);
    ignore_server_fields(&mut comparison.modified);
    ignore_server_fields(&mut comparison.removed);

    let updater = Manager::updater(
        truncate(manager, MANAGER_NAME_MAX_BYTES),
        subresource,
        &kind.api_version(),
    );
    let mut changed = comparison.added;
    changed.union(&comparison.modified);
    let mut managers = before;
    managers.take_from_others(&updater, &changed);
    managers.take_from_others(&updater, &comparison.removed);
    if let Some(mine) = managers.0.get_mut(&updater) {
        mine.set.difference(&comparison.removed);
    }
    if !changed.is_empty() {
        let mine = managers.0.entry(updater).or_insert_with(|| Ownership {
            set: FieldSet::default(),
            api_version: kind.api_version(),
            time: String::new(),
        });
        mine.set.union(&changed);
        mine.time = meta::timestamp(now);
    }
    managers.0.retain(|_, ownership| !ownership.set.is_empty());
    managers.write(new);
}

/// The object without what this write does not concern: a status where there is a subresource for
/// it, everything else where that subresource is written.
fn part(kind: &Kind, subresource: &str, object: &Value) -> Value {
    let Some(map) = object.as_object() else {
        return json!({});
    };
    let has_status = kind.subresource("status").is_some();
    let mut part: serde_json::Map<String, Value> = map
        .iter()
        .filter(|(name, _)| match subresource {
            "status" => matches!(name.as_str(), "status" | "metadata" | "apiVersion" | "kind"),
            _ => !(has_status && name.as_str() == "status"),
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(Value::Object(metadata)) = part.get_mut("metadata") {
        if subresource == "status" {
            metadata.retain(|name, _| SERVER_METADATA.contains(&name.as_str()));
        }
        metadata.remove("managedFields");
    }
    Value::Object(part)
}

/// What an object of this kind is before it is created: the parts that always exist, which nobody
/// owns as such.
fn unborn(kind: &Kind) -> Value {
    match kind.kind {
        "Deployment" | "ReplicaSet" => json!({
            "metadata": {},
            "spec": {"strategy": {}, "template": {"metadata": {}, "spec": {"containers": []}}},
            "status": {},
        }),
        "Pod" => json!({"metadata": {}, "spec": {"containers": []}, "status": {}}),
        _ => json!({"metadata": {}, "spec": {}, "status": {}}),
    }
}

fn managers_of(kind: &Kind, live: &Value, now: jiff::Timestamp) -> Managers {
    let mut managers = Managers::read(live);
    if managers.0.is_empty() {
        let root = Some(Shape::Map(shape::root(kind)));
        let comparison = compare(&unborn(kind), &part(kind, "", live), root);
        let mut set = comparison.added;
        set.union(&comparison.modified);
        ignore_server_fields(&mut set);
        if !set.is_empty() {
            let manager = Manager::updater(BEFORE_FIRST_APPLY, "", &kind.api_version());
            let ownership = Ownership {
                set,
                api_version: kind.api_version(),
                time: meta::timestamp(now),
            };
            managers.0.insert(manager, ownership);
        }
    }
    managers
}

fn ignore_server_fields(set: &mut FieldSet) {
    for name in ["apiVersion", "kind"] {
        set.children.remove(&set::field_element(name));
    }
    let metadata = set::field_element("metadata");
    if let Some(fields) = set.children.get_mut(&metadata) {
        fields.member = false;
        for name in SERVER_METADATA {
            fields.children.remove(&set::field_element(name));
        }
        if fields.is_empty() {
            set.children.remove(&metadata);
        }
    }
}

fn check_preconditions(kind: &Kind, live: &Value, applied: &Value) -> Result<(), Status> {
    let (wanted, found) = (meta::uid(applied), meta::uid(live));
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        return Err(Status::conflict(kind, meta::name(live), &why));
    }
    let version = meta::resource_version(applied);
    if !version.is_empty() && version != meta::resource_version(live) {
        return Err(Status::modified(kind, meta::name(live)));
    }
    Ok(())
}

/// Whatever the configuration says of the server's own metadata, the live object's stays.
fn keep_server_metadata(merged: &mut Value, live: &Value) {
    let metadata = meta::metadata_mut(merged);
    for name in SERVER_METADATA {
        match live["metadata"].get(name) {
            Some(value) => metadata.insert((*name).to_string(), value.clone()),
            None => metadata.remove(*name),
        };
    }
}

fn conflicts<'a>(
    managers: &'a Managers,
    applier: &Manager,
    changed: &FieldSet,
) -> Vec<(&'a Manager, Vec<String>)> {
    managers
        .0
        .iter()
        .filter(|(manager, _)| *manager != applier)
        .map(|(manager, ownership)| (manager, ownership.set.intersection(changed).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect()
}

fn conflict(conflicts: &[(&Manager, Vec<String>)]) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let mut lines = Vec::new();
    let mut causes = Vec::new();
    for (manager, paths) in conflicts {
        lines.push(format!("conflicts with {}:", manager.describe()));
        for path in paths {
            lines.push(format!("- {path}"));
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", manager.describe()),
                "field": path,
            }));
        }
    }
    let message = match conflicts {
        [(manager, paths)] if paths.len() == 1 => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            manager.describe(),
            paths[0]
        ),
        _ => format!("Apply failed with {count} conflicts: {}", lines.join("\n")),
    };
    Status::new(409, "Conflict", message, Some(json!({"causes": causes})))
}

fn truncate(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
