//! Reading and writing an object's metadata in place.
//!
//! Readers answer the empty value where a field is missing or of another type, so that they are safe on anything;
//! whether the object is well formed is [`crate::schema`]'s question.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

fn text_map(object: &Value, field: &str) -> BTreeMap<String, String> {
    match object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
    {
        Some(Value::Object(map)) => map
            .iter()
            .filter_map(|(key, value)| value.as_str().map(|value| (key.clone(), value.to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// The metadata map, made where it is missing. A value that is not an object becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(
        map_mut(object)
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new())),
    )
}

/// The value as a map; anything that is not an object is replaced by an empty one.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    metadata_mut(object).insert(field.to_owned(), value);
}

pub fn api_version(object: &Value) -> &str {
    object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or("")
}

pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or("")
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

pub fn generation(object: &Value) -> i64 {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

pub fn labels(object: &Value) -> BTreeMap<String, String> {
    text_map(object, "labels")
}

/// One label, without copying the map.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

pub fn annotations(object: &Value) -> BTreeMap<String, String> {
    text_map(object, "annotations")
}

/// One annotation, without copying the map.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object
        .get("metadata")?
        .get("annotations")?
        .get(key)?
        .as_str()
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub fn owner_references(object: &Value) -> Vec<Value> {
    list(object, "ownerReferences").to_vec()
}

/// The owner reference marked `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    list(object, "ownerReferences").iter().find(|owner| {
        owner
            .get("controller")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    })
}

pub fn finalizers(object: &Value) -> Vec<String> {
    list(object, "finalizers")
        .iter()
        .filter_map(|finalizer| finalizer.as_str().map(str::to_owned))
        .collect()
}

pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|time| !time.is_empty())
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object
        .get("metadata")?
        .get("deletionGracePeriodSeconds")?
        .as_i64()
}

pub fn set_name(object: &mut Value, name: &str) {
    set(object, "name", name.into());
}

pub fn set_namespace(object: &mut Value, namespace: &str) {
    set(object, "namespace", namespace.into());
}

/// Removes the namespace, as cluster-scoped objects have none.
pub fn clear_namespace(object: &mut Value) {
    metadata_mut(object).remove("namespace");
}

pub fn set_uid(object: &mut Value, uid: &str) {
    set(object, "uid", uid.into());
}

pub fn set_resource_version(object: &mut Value, resource_version: &str) {
    set(object, "resourceVersion", resource_version.into());
}

pub fn clear_resource_version(object: &mut Value) {
    metadata_mut(object).remove("resourceVersion");
}

pub fn set_generation(object: &mut Value, generation: i64) {
    set(object, "generation", generation.into());
}

pub fn set_creation_timestamp(object: &mut Value, now: jiff::Timestamp) {
    set(object, "creationTimestamp", timestamp(now).into());
}

pub fn set_deletion(object: &mut Value, at: jiff::Timestamp, grace_seconds: i64) {
    set(object, "deletionTimestamp", timestamp(at).into());
    set(object, "deletionGracePeriodSeconds", grace_seconds.into());
}

/// An empty map removes the field, as Kubernetes never shows an empty one.
pub fn set_labels(object: &mut Value, labels: &BTreeMap<String, String>) {
    set_text_map(object, "labels", labels);
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    let labels = metadata_mut(object)
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    map_mut(labels).insert(key.to_owned(), value.into());
}

pub fn set_annotations(object: &mut Value, annotations: &BTreeMap<String, String>) {
    set_text_map(object, "annotations", annotations);
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let annotations = metadata_mut(object)
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    map_mut(annotations).insert(key.to_owned(), value.into());
}

fn set_text_map(object: &mut Value, field: &str, map: &BTreeMap<String, String>) {
    if map.is_empty() {
        metadata_mut(object).remove(field);
    } else {
        let map = map
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect();
        set(object, field, Value::Object(map));
    }
}

/// An empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        metadata_mut(object).remove("finalizers");
    } else {
        set(object, "finalizers", finalizers.into());
    }
}

/// An empty list removes the field.
pub fn set_owner_references(object: &mut Value, owners: Vec<Value>) {
    if owners.is_empty() {
        metadata_mut(object).remove("ownerReferences");
    } else {
        set(object, "ownerReferences", Value::Array(owners));
    }
}

pub fn set_managed_fields(object: &mut Value, entries: Vec<Value>) {
    if entries.is_empty() {
        metadata_mut(object).remove("managedFields");
    } else {
        set(object, "managedFields", Value::Array(entries));
    }
}

/// Time as Kubernetes' `metav1.Time` writes it: RFC 3339 in UTC, whole seconds.
pub fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Time as Kubernetes' `metav1.MicroTime` writes it: always six digits of a second.
pub fn micro_timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn readers_are_safe_on_anything() {
        for odd in [
            json!(null),
            json!([1]),
            json!({"metadata": 3}),
            json!({"metadata": {"labels": [], "name": {}}}),
        ] {
            assert_eq!(name(&odd), "");
            assert!(labels(&odd).is_empty());
            assert_eq!(generation(&odd), 0);
            assert!(controller_of(&odd).is_none());
            assert!(deletion_timestamp(&odd).is_none());
        }
    }

    #[test]
    fn writers_make_the_metadata_they_need() {
        let mut object = json!({});
        set_name(&mut object, "a");
        set_label(&mut object, "k", "v");
        set_finalizers(&mut object, &["x".to_owned()]);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "labels": {"k": "v"}, "finalizers": ["x"]}})
        );
        set_finalizers(&mut object, &[]);
        set_labels(&mut object, &BTreeMap::new());
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        let at: jiff::Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        assert_eq!(timestamp(at), "2026-01-02T03:04:05Z");
        assert_eq!(micro_timestamp(at), "2026-01-02T03:04:05.678901Z");
    }
}
