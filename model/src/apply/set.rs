//! Sets of field paths, in the form that `metadata.managedFields` keeps them (FieldsV1).
//!
//! A path element is written as FieldsV1 writes it: `f:name` for a field, `k:{"name":"a"}` for a
//! list item told apart by keys, `v:"a"` for an item of a set.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A tree of paths; `member` says whether the path that ends here is in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    pub member: bool,
    pub children: BTreeMap<String, FieldSet>,
}

/// Deepest nesting read from `managedFields`: deeper than any kind's fields, shallow enough that
/// recursion is safe.
const DEPTH_MAX: usize = 64;

pub(super) fn field_element(name: &str) -> String {
    format!("f:{name}")
}

pub(super) fn value_element(value: &Value) -> String {
    format!("v:{value}")
}

pub(super) fn key_element(keys: &Map<String, Value>) -> String {
    let mut text = String::from("k:");
    let object = Value::Object(keys.clone());
    // Writing to a String cannot fail.
    let _ = write!(text, "{object}");
    text
}

impl FieldSet {
    /// The set that holds only the path ending here.
    pub fn leaf() -> FieldSet {
        FieldSet {
            member: true,
            children: BTreeMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds a child set, unless that is empty.
    pub fn insert(&mut self, element: String, child: FieldSet) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    pub fn union(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (element, child) in &other.children {
            match self.children.get_mut(element) {
                Some(mine) => mine.union(child),
                None => {
                    self.children.insert(element.clone(), child.clone());
                }
            }
        }
    }

    /// Removes exactly the paths of `other`; what lies below them stays.
    pub fn difference(&mut self, other: &FieldSet) {
        if other.member {
            self.member = false;
        }
        for (element, child) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.difference(child);
                if mine.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut common = FieldSet {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (element, child) in &self.children {
            if let Some(other) = other.children.get(element) {
                common.insert(element.clone(), child.intersection(other));
            }
        }
        common
    }

    /// Reads FieldsV1; what it cannot understand it leaves out.
    pub fn from_json(fields: &Value) -> FieldSet {
        FieldSet::read(fields, false, DEPTH_MAX)
    }

    fn read(fields: &Value, below_root: bool, depth: usize) -> FieldSet {
        let Some(map) = fields.as_object() else {
            return FieldSet::default();
        };
        let mut set = FieldSet {
            // An empty object stands for the path itself, except at the root.
            member: below_root && (map.is_empty() || map.contains_key(".")),
            children: BTreeMap::new(),
        };
        if depth > 0 {
            for (element, child) in map {
                if element != "." {
                    set.insert(element.clone(), FieldSet::read(child, true, depth - 1));
                }
            }
        }
        set
    }

    /// Writes FieldsV1.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_string(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// Every path as people read it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.to_string());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{prefix}{}", readable(element)), paths);
        }
    }
}

/// A path element as people read it.
pub(super) fn readable(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("i", index)) => format!("[{index}]"),
        _ => format!(".{element}"),
    }
}
