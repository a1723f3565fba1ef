//! Walks over values along their shapes: which paths a value sets, how two values differ, how an
//! applied value merges into a live one, and what is pruned afterwards.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{FieldSet, field_element, key_element, readable, value_element};
use crate::patch::shape::{self, Fields, Shape};
use crate::schema::tree::Field;

/// How a value of a given shape is walked.
enum View<'a> {
    /// Field by field.
    Fields(&'a Map<String, Value>, Fields),
    /// Item by item; the index says where an element is.
    Items(&'a [Value], BTreeMap<String, usize>, Option<&'static Field>),
    /// As a whole.
    Whole,
}

/// An item of a list that has keys lacks one of them, or two items have the same.
pub(super) type Fault = String;

fn view(value: &Value, shape: Option<Shape>) -> Result<View<'_>, Fault> {
    Ok(match (value, shape) {
        (_, Some(Shape::Atomic)) => View::Whole,
        (Value::Object(map), Some(Shape::Map(fields))) => View::Fields(map, fields),
        (Value::Object(map), _) => View::Fields(map, Fields::Unknown),
        (Value::Array(items), Some(Shape::Items(list))) => {
            let mut index = BTreeMap::new();
            for (position, item) in items.iter().enumerate() {
                let element = item_element(item, list)?;
                if index.contains_key(&element) {
                    return Err(format!("duplicate entries for key {}", readable(&element)));
                }
                index.insert(element, position);
            }
            View::Items(items, index, Some(list))
        }
        (Value::Array(items), Some(Shape::Set)) => {
            let index = items
                .iter()
                .enumerate()
                .map(|(position, item)| (value_element(item), position))
                .collect();
            View::Items(items, index, None)
        }
        _ => View::Whole,
    })
}

fn item_element(item: &Value, list: &Field) -> Result<String, Fault> {
    let mut keys = Map::new();
    // Sorted, as `k:{…}` writes them.
    for key in &list.keys {
        let value = match (item.get(key), shape::default_key(key)) {
            (Some(value), _) if !value.is_null() => value.clone(),
            (_, Some(default)) => Value::from(default),
            _ => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                ));
            }
        };
        keys.insert((*key).to_string(), value);
    }
    Ok(key_element(&keys))
}

fn item_shape(list: Option<&Field>) -> Option<Shape> {
    list.and_then(shape::item)
}

/// The paths that an applied value sets. `path` is only for faults.
pub(super) fn field_set(
    value: &Value,
    shape: Option<Shape>,
    path: &str,
) -> Result<FieldSet, Fault> {
    let mut set = FieldSet::default();
    match view(value, shape).map_err(|fault| format!("{path}: {fault}"))? {
        View::Whole => set.member = true,
        View::Fields(map, fields) => {
            for (name, value) in map {
                let shape = shape::field(fields, name);
                let mut child = field_set(value, shape, &format!("{path}.{name}"))?;
                let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if hollow || matches!(fields, Fields::Entries(_)) {
                    child.member = true;
                }
                set.insert(field_element(name), child);
            }
        }
        View::Items(items, index, list) => {
            for (element, position) in index {
                let path = format!("{path}{}", readable(&element));
                let mut child = match list {
                    Some(_) => field_set(&items[position], item_shape(list), &path)?,
                    None => FieldSet::default(),
                };
                child.member = true;
                set.insert(element, child);
            }
        }
    }
    Ok(set)
}

/// Every path in a value that was added or removed as a whole.
fn everything(value: &Value, shape: Option<Shape>) -> FieldSet {
    let mut set = FieldSet::leaf();
    match view(value, shape) {
        Ok(View::Fields(map, fields)) => {
            for (name, value) in map {
                let child = everything(value, shape::field(fields, name));
                set.insert(field_element(name), child);
            }
        }
        Ok(View::Items(items, index, list)) => {
            for (element, position) in index {
                let child = match list {
                    Some(_) => everything(&items[position], item_shape(list)),
                    None => FieldSet::leaf(),
                };
                set.insert(element, child);
            }
        }
        Ok(View::Whole) | Err(_) => {}
    }
    set
}

/// How one value differs from another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    fn insert(&mut self, element: &str, child: Comparison) {
        self.added.insert(element.to_string(), child.added);
        self.modified.insert(element.to_string(), child.modified);
        self.removed.insert(element.to_string(), child.removed);
    }
}

pub(super) fn compare(old: &Value, new: &Value, shape: Option<Shape>) -> Comparison {
    let mut comparison = Comparison::default();
    if old == new {
        return comparison;
    }
    // A list whose items cannot be told apart is compared as a whole.
    let views = (
        view(old, shape).unwrap_or(View::Whole),
        view(new, shape).unwrap_or(View::Whole),
    );
    match views {
        (View::Fields(old, fields), View::Fields(new, _)) => {
            for (name, before) in old {
                let shape = shape::field(fields, name);
                match new.get(name) {
                    Some(after) => {
                        let child = compare(before, after, shape);
                        comparison.insert(&field_element(name), child);
                    }
                    None => comparison
                        .removed
                        .insert(field_element(name), everything(before, shape)),
                }
            }
            for (name, after) in new {
                if !old.contains_key(name) {
                    let shape = shape::field(fields, name);
                    comparison
                        .added
                        .insert(field_element(name), everything(after, shape));
                }
            }
        }
        (View::Items(old, old_index, list), View::Items(new, new_index, _)) => {
            let shape = item_shape(list);
            for (element, before) in &old_index {
                match (new_index.get(element), list) {
                    (Some(after), Some(_)) => {
                        let child = compare(&old[*before], &new[*after], shape);
                        comparison.insert(element, child);
                    }
                    (Some(_), None) => {}
                    (None, _) => comparison
                        .removed
                        .insert(element.clone(), everything(&old[*before], shape)),
                }
            }
            for (element, after) in &new_index {
                if !old_index.contains_key(element) {
                    comparison
                        .added
                        .insert(element.clone(), everything(&new[*after], shape));
                }
            }
        }
        _ => comparison.modified.member = true,
    }
    comparison
}

/// The live value with the applied one merged into it; `None` when the applied value is null.
pub(super) fn merge(live: &Value, applied: &Value, shape: Option<Shape>) -> Option<Value> {
    if applied.is_null() {
        return None;
    }
    let views = (view(live, shape), view(applied, shape));
    Some(match views {
        (Ok(View::Fields(live, fields)), Ok(View::Fields(applied, _))) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let shape = shape::field(fields, name);
                let value = match live.get(name) {
                    Some(before) => merge(before, value, shape),
                    None => without_nulls(value),
                };
                match value {
                    Some(value) => merged.insert(name.clone(), value),
                    None => merged.remove(name),
                };
            }
            Value::Object(merged)
        }
        (Ok(View::Items(live, live_index, list)), Ok(View::Items(applied, applied_index, _))) => {
            let mut merged = Vec::with_capacity(live.len() + applied.len());
            let mut elements: Vec<&String> = vec![&EMPTY; live.len()];
            for (element, position) in &live_index {
                elements[*position] = element;
            }
            let mut applied_elements: Vec<(usize, &String)> = applied_index
                .iter()
                .map(|(element, position)| (*position, element))
                .collect();
            applied_elements.sort_unstable();
            // The applied order, with the live list's other items kept before the items that
            // they stood before.
            let mut emitted: BTreeSet<usize> = BTreeSet::new();
            let mut next = 0;
            for (position, element) in applied_elements {
                let item = &applied[position];
                let Some(&before) = live_index.get(element) else {
                    merged.extend(without_nulls(item));
                    continue;
                };
                while next < before {
                    if !applied_index.contains_key(elements[next]) && emitted.insert(next) {
                        merged.push(live[next].clone());
                    }
                    next += 1;
                }
                emitted.insert(before);
                match list {
                    Some(_) => merged.extend(merge(&live[before], item, item_shape(list))),
                    None => merged.push(live[before].clone()),
                }
            }
            for (position, item) in live.iter().enumerate() {
                if !applied_index.contains_key(elements[position]) && emitted.insert(position) {
                    merged.push(item.clone());
                }
            }
            Value::Array(merged)
        }
        _ => return without_nulls(applied),
    })
}

static EMPTY: String = String::new();

/// An applied value where nothing was: null entries say that the field is absent.
pub(super) fn without_nulls(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Null => return None,
        Value::Object(map) => Value::Object(
            map.iter()
                .filter_map(|(name, value)| Some((name.clone(), without_nulls(value)?)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().filter_map(without_nulls).collect()),
        other => other.clone(),
    })
}

/// Removes what was in `last` and is in no manager's set any more.
pub(super) fn prune(
    value: &mut Value,
    last: &FieldSet,
    managed: Option<&FieldSet>,
    shape: Option<Shape>,
) {
    let managed_child = |element: &str| managed.and_then(|set| set.children.get(element));
    match view(value, shape) {
        Ok(View::Fields(_, fields)) => {
            let Value::Object(map) = value else { return };
            for (element, last) in &last.children {
                let Some(name) = element.strip_prefix("f:") else {
                    continue;
                };
                match managed_child(element) {
                    // A field is named by whatever lies below it, so it goes with all of that.
                    None => {
                        map.remove(name);
                    }
                    Some(managed) => {
                        if let Some(child) = map.get_mut(name) {
                            prune(child, last, Some(managed), shape::field(fields, name));
                        }
                    }
                }
            }
        }
        Ok(View::Items(_, index, list)) => {
            let Value::Array(items) = value else { return };
            let mut gone = BTreeSet::new();
            for (element, last) in &last.children {
                let Some(&position) = index.get(element) else {
                    continue;
                };
                match managed_child(element) {
                    None if last.member => {
                        gone.insert(position);
                    }
                    managed => prune(&mut items[position], last, managed, item_shape(list)),
                }
            }
            let mut position = 0;
            items.retain(|_| {
                position += 1;
                !gone.contains(&(position - 1))
            });
        }
        Ok(View::Whole) | Err(_) => {}
    }
}
