//! Field selectors: which fields of which kind can be selected by, and their values.

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::kinds::Kind;

/// One term of a field selector: a field equals, or does not equal, a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub equal: bool,
    pub value: String,
}

/// A conjunction of terms; without terms it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

const METADATA: &[&str] = &["metadata.name", "metadata.namespace"];
const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const NODE: &[&str] = &["metadata.name", "spec.unschedulable"];
const NAMESPACE: &[&str] = &["metadata.name", "status.phase"];
const SECRET: &[&str] = &["metadata.name", "metadata.namespace", "type"];
const SERVICE: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.clusterIP",
    "spec.type",
];
const REPLICA_SET: &[&str] = &["metadata.name", "metadata.namespace", "status.replicas"];
const EVENT_CORE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "metadata.name",
    "metadata.namespace",
];
const EVENT: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
    "metadata.name",
    "metadata.namespace",
];

/// The selectable fields of a kind.
pub fn selectable(kind: &Kind) -> &'static [&'static str] {
    match (kind.group, kind.kind) {
        ("", "Pod") => POD,
        ("", "Node") => NODE,
        ("", "Namespace") => NAMESPACE,
        ("", "Secret") => SECRET,
        ("", "Service") => SERVICE,
        ("", "Event") => EVENT_CORE,
        ("events.k8s.io", "Event") => EVENT,
        ("apps", "ReplicaSet") => REPLICA_SET,
        _ => METADATA,
    }
}

/// Kinds whose unsupported fields are refused in the words of the core group's own conversions.
fn has_own_conversion(kind: &Kind) -> bool {
    !std::ptr::eq(selectable(kind), METADATA)
}

impl FieldSelector {
    /// Matches everything.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// Reads `spec.nodeName=a,status.phase!=Failed`; unsupported fields are errors.
    pub fn parse(kind: &Kind, text: &str) -> Result<FieldSelector, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(term) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let value = unescape(value)?;
            // A name that core/v1 still accepts for the field.
            let field = match (kind.kind, field) {
                ("Pod", "spec.host") => "spec.nodeName",
                _ => field,
            };
            if !selectable(kind).contains(&field) {
                return Err(SelectorError(if has_own_conversion(kind) {
                    format!("field label not supported: {field}")
                } else {
                    format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                }));
            }
            requirements.push(FieldRequirement {
                field: field.to_string(),
                equal,
                value,
            });
        }
        Ok(FieldSelector { requirements })
    }

    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|r| (field_value(kind, object, &r.field) == r.value) == r.equal)
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a field must equal, if the selector pins it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equal && r.field == field)
            .map(|r| r.value.as_str())
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(&requirement.field)?;
            f.write_str(if requirement.equal { "=" } else { "!=" })?;
            for c in requirement.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        Some((field, false, value))
    } else if let Some(value) = rest.strip_prefix("==") {
        Some((field, true, value))
    } else if let Some(value) = rest.strip_prefix('=') {
        Some((field, true, value))
    } else {
        // A lone exclamation mark belongs to the field's name; look behind it.
        let offset = at + 1;
        let (_, equal, value) = split_term(&term[offset..])?;
        let operator = if !equal || term[..term.len() - value.len()].ends_with("==") {
            2
        } else {
            1
        };
        Some((&term[..term.len() - value.len() - operator], equal, value))
    }
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

/// The selectable field's value as text; an absent field is the empty text, or `false`.
fn field_value(kind: &Kind, object: &Value, field: &str) -> String {
    let text = |path: &[&str]| {
        let mut value = object;
        for part in path {
            value = value.get(part).unwrap_or(&Value::Null);
        }
        match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    };
    let or = |first: String, second: &dyn Fn() -> String| {
        if first.is_empty() { second() } else { first }
    };
    match (kind.kind, field) {
        ("Pod", "status.podIPs") => text(&["status", "podIP"]),
        ("Pod", "spec.hostNetwork") | ("Node", "spec.unschedulable") => {
            let (_, name) = field.split_once('.').unwrap_or_default();
            or(text(&["spec", name]), &|| "false".to_string())
        }
        ("ReplicaSet", "status.replicas") => or(text(&["status", "replicas"]), &|| "0".to_string()),
        // Events are stored once and seen through two groups, with two sets of names.
        ("Event", "source") => or(text(&["source", "component"]), &|| {
            or(text(&["reportingComponent"]), &|| {
                or(text(&["deprecatedSource", "component"]), &|| {
                    text(&["reportingController"])
                })
            })
        }),
        ("Event", "reportingComponent" | "reportingController") => {
            or(text(&["reportingComponent"]), &|| {
                text(&["reportingController"])
            })
        }
        ("Event", field)
            if field.starts_with("involvedObject.") || field.starts_with("regarding.") =>
        {
            let (_, name) = field.split_once('.').unwrap_or_default();
            or(text(&["involvedObject", name]), &|| {
                text(&["regarding", name])
            })
        }
        (_, field) => {
            let path: Vec<&str> = field.split('.').collect();
            text(&path)
        }
    }
}
