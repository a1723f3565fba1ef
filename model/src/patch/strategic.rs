//! Strategic merge patch, as Kubernetes documents it (`sig-api-machinery/strategic-merge-patch.md`).
//!
//! Directives: `$patch` (`replace`, `delete`, `merge`) in maps and list items,
//! `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>` and `$retainKeys`.

use serde_json::{Map, Value};

use super::rejected;
use super::shape::{self, Fields, Patch};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges a patch into a map whose fields have these shapes.
pub(super) fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    fields: Fields,
) -> Result<Map<String, Value>, Status> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(Value::String(directive)) if directive == "replace" => return Ok(plain_map(patch)),
        Some(other) => return Err(unknown_directive(other)),
    }
    retain_keys(&mut original, patch)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_primitives(&mut original, list, value)?;
        } else if let Some(list) = name.strip_prefix(ELEMENT_ORDER) {
            // The lists themselves were, or will be, merged under their own names; order last.
            check_order(patch, list, value, fields)?;
        } else if name != DIRECTIVE && name != RETAIN_KEYS {
            merge_field(&mut original, name, value, fields)?;
        }
    }
    for (name, order) in patch {
        if let (Some(list), Some(order)) = (name.strip_prefix(ELEMENT_ORDER), order.as_array())
            && let Some(Value::Array(items)) = original.get_mut(list)
        {
            let key = merge_key(fields, list);
            let merged = std::mem::take(items);
            *items = reorder(merged, order, key);
        }
    }
    Ok(original)
}

fn merge_field(
    original: &mut Map<String, Value>,
    name: &str,
    value: &Value,
    fields: Fields,
) -> Result<(), Status> {
    if value.is_null() {
        original.remove(name);
        return Ok(());
    }
    let merged = match (original.remove(name), value) {
        (Some(Value::Object(before)), Value::Object(patch)) => Value::Object(merge_map(
            before,
            patch,
            shape::patched_fields(fields, name),
        )?),
        (Some(Value::Array(before)), Value::Array(patch)) => Value::Array(merge_list(
            before,
            patch,
            shape::patched_list(fields, name),
        )?),
        (_, value) => plain(value),
    };
    original.insert(name.to_string(), merged);
    Ok(())
}

/// The field that tells the items of a list apart: `None` for primitives.
fn merge_key(fields: Fields, list: &str) -> Option<&'static str> {
    match shape::patched_list(fields, list) {
        Patch::ByKey(key, _) => Some(key),
        Patch::Add | Patch::Replace => None,
    }
}

fn merge_list(original: Vec<Value>, patch: &[Value], how: Patch) -> Result<Vec<Value>, Status> {
    match how {
        Patch::ByKey(key, fields) => merge_items(original, patch, key, fields),
        Patch::Add => {
            let mut merged = original;
            for value in patch {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            Ok(merged)
        }
        Patch::Replace => Ok(patch
            .iter()
            .filter(|item| item.get(DIRECTIVE).is_none_or(Value::is_object))
            .map(plain)
            .collect()),
    }
}

fn merge_items(
    original: Vec<Value>,
    patch: &[Value],
    key: &str,
    item_fields: Fields,
) -> Result<Vec<Value>, Status> {
    let mut merged = original;
    let mut additions: Vec<&Map<String, Value>> = Vec::new();
    for item in patch {
        let Value::Object(item) = item else {
            return Err(rejected(&format!(
                "a list merged by {key:?} holds something that is not a map: {item}"
            )));
        };
        match item.get(DIRECTIVE) {
            None => additions.push(item),
            Some(Value::String(directive)) if directive == "merge" => additions.push(item),
            Some(Value::String(directive)) if directive == "replace" => {
                // The other items of the patch become the whole list.
                merged.clear();
                if item.len() > 1 {
                    additions.push(item);
                }
            }
            Some(Value::String(directive)) if directive == "delete" => {
                let unwanted = key_of(item, key)?;
                merged.retain(|existing| existing.get(key) != Some(unwanted));
            }
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    for item in additions {
        let wanted = key_of(item, key)?;
        let position = merged
            .iter()
            .position(|existing| existing.get(key) == Some(wanted));
        match position.map(|index| (index, merged[index].take())) {
            Some((index, Value::Object(existing))) => {
                merged[index] = Value::Object(match item.get(DIRECTIVE) {
                    Some(Value::String(directive)) if directive == "replace" => plain_map(item),
                    _ => merge_map(existing, item, item_fields)?,
                });
            }
            Some((index, _)) => merged[index] = Value::Object(plain_map(item)),
            None => merged.push(Value::Object(plain_map(item))),
        }
    }
    Ok(merged)
}

fn key_of<'a>(item: &'a Map<String, Value>, key: &str) -> Result<&'a Value, Status> {
    item.get(key).filter(|v| !v.is_null()).ok_or_else(|| {
        rejected(&format!(
            "map: {} does not contain declared merge key: {key}",
            Value::Object(item.clone())
        ))
    })
}

/// Drops what a `$retainKeys` list does not name.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), Status> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let malformed = || Status::bad_request("invalid patch format of retainKeys");
    let keys: Vec<&str> = keys
        .as_array()
        .ok_or_else(malformed)?
        .iter()
        .map(|key| key.as_str().ok_or_else(malformed))
        .collect::<Result<_, _>>()?;
    let contradicts = patch.iter().any(|(name, value)| {
        !name.starts_with('$') && !value.is_null() && !keys.contains(&name.as_str())
    });
    if contradicts {
        return Err(malformed());
    }
    original.retain(|name, _| keys.contains(&name.as_str()));
    Ok(())
}

fn delete_primitives(
    original: &mut Map<String, Value>,
    list: &str,
    unwanted: &Value,
) -> Result<(), Status> {
    let unwanted = unwanted
        .as_array()
        .ok_or_else(|| Status::bad_request("invalid patch format of primitive list"))?;
    if let Some(Value::Array(items)) = original.get_mut(list) {
        items.retain(|item| !unwanted.contains(item));
    }
    Ok(())
}

/// What identifies a list item when lists are put in order.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> &'a Value {
    match key {
        Some(key) => item.get(key).unwrap_or(&Value::Null),
        None => item,
    }
}

/// An order must be a list that names every item that the patch sets.
fn check_order(
    patch: &Map<String, Value>,
    list: &str,
    order: &Value,
    fields: Fields,
) -> Result<(), Status> {
    let malformed = || Status::bad_request("invalid patch format of setElementOrder list");
    let order = order.as_array().ok_or_else(malformed)?;
    let key = merge_key(fields, list);
    let items = patch.get(list).and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        let leaves = item.get(DIRECTIVE).is_some();
        let named = order
            .iter()
            .any(|entry| identity(entry, key) == identity(item, key));
        if !leaves && !named {
            return Err(malformed());
        }
    }
    Ok(())
}

/// Puts the items that `order` names in that order; the others keep their place among them as far
/// as the list had one.
fn reorder(items: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let rank = |item: &Value| {
        order
            .iter()
            .position(|entry| identity(entry, key) == identity(item, key))
    };
    // New items stand at the end of `items`, behind all that the server had, so positions in it
    // stand for the server's order.
    let mut named: Vec<(usize, usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, index, item)),
            None => others.push((index, item)),
        }
    }
    named.sort_by_key(|(rank, index, _)| (*rank, *index));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, index, item) in named {
        while let Some((_, other)) = others.next_if(|(position, _)| *position < index) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others.map(|(_, item)| item));
    result
}

fn unknown_directive(directive: &Value) -> Status {
    Status::bad_request(format!("unknown patch type found: {directive}"))
}

/// A value of the patch as it is stored where nothing was: without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| {
                    // An item that only deletes, or only marks the list, is no item.
                    match item.get(DIRECTIVE).and_then(Value::as_str) {
                        Some("delete") => false,
                        Some("replace") => item.as_object().is_some_and(|map| map.len() > 1),
                        _ => true,
                    }
                })
                .map(plain)
                .collect(),
        ),
        other => other.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(name, value)| {
            let directive = *name == DIRECTIVE
                || *name == RETAIN_KEYS
                || name.starts_with(DELETE_FROM)
                || name.starts_with(ELEMENT_ORDER);
            !directive && !value.is_null()
        })
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}
