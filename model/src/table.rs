//! Tables as `kubectl get` shows them: `meta.k8s.io/v1` Table with Kubernetes' own columns.
//!
//! Columns of priority 1 are those that `-o wide` adds.

mod cells;
mod columns;
mod duration;
mod pod;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
pub use columns::{Column, columns};
pub use duration::human_duration;
pub use pod::{PodSummary, summarize as summarize_pod};

/// What each row carries beside its cells, as `includeObject` asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    /// The object's metadata as a PartialObjectMetadata.
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; empty means metadata.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// The table of these objects. `list_meta` is the list's metadata (`resourceVersion`, `continue`,
/// `remainingItemCount`), or for one object its `resourceVersion`.
pub fn table(
    kind: &Kind,
    items: &[Value],
    include: IncludeObject,
    now: jiff::Timestamp,
    list_meta: Value,
) -> Value {
    let definitions: Vec<Value> = columns(kind).iter().copied().map(Column::to_json).collect();
    let rows: Vec<Value> = items
        .iter()
        .map(|item| row(kind, item, include, now))
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": if list_meta.is_object() { list_meta } else { json!({}) },
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// One row of [`table`].
pub fn row(kind: &Kind, item: &Value, include: IncludeObject, now: jiff::Timestamp) -> Value {
    let mut row = Map::new();
    row.insert(
        "cells".to_string(),
        Value::Array(cells::cells(kind, item, now)),
    );
    if kind.kind == "Pod"
        && let Some(conditions) = pod::row_conditions(item)
    {
        row.insert("conditions".to_string(), conditions);
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            row.insert("object".to_string(), partial_metadata(item));
        }
        IncludeObject::Object => {
            row.insert("object".to_string(), item.clone());
        }
    }
    Value::Object(row)
}

/// An object's metadata alone, as clients ask for with `as=PartialObjectMetadata`.
pub fn partial_metadata(item: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": item.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
