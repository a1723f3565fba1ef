//! Paths and operations of every kind and subresource.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::definitions::META;
use crate::kinds::{self, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    V2,
    V3,
}

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Query parameters: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "With 'All', nothing is stored, and the answer is what would be.",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "A name for who or what makes the change.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown and repeated fields: Ignore, Warn or Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Take over fields that other managers own (apply patches only).",
);
const WRITE: [Parameter; 3] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: [Parameter; 4] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: [Parameter; 4] = [
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "How long the object may take to end.",
    ),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "What happens to dependents: Orphan, Background or Foreground.",
    ),
];
const LIST: [Parameter; 10] = [
    (
        "allowWatchBookmarks",
        "boolean",
        "Ask for bookmark events while watching.",
    ),
    (
        "continue",
        "string",
        "Where the previous page ended, as its answer said.",
    ),
    (
        "fieldSelector",
        "string",
        "Restrict the list by the objects' fields.",
    ),
    (
        "labelSelector",
        "string",
        "Restrict the list by the objects' labels.",
    ),
    ("limit", "integer", "Most objects in one answer."),
    (
        "resourceVersion",
        "string",
        "How new the answer has to be, or where a watch starts.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is to be understood.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "Start a watch with the present objects.",
    ),
    ("timeoutSeconds", "integer", "How long the call may take."),
    ("watch", "boolean", "Follow changes instead of listing."),
];

/// One operation of a path.
struct Operation {
    method: &'static str,
    /// Value of `x-kubernetes-action`.
    action: &'static str,
    parameters: &'static [Parameter],
    /// Definition of the request body.
    body: Option<String>,
    /// Definition of the answer.
    answer: String,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
}

impl Operation {
    fn of(
        kind: &Kind,
        method: &'static str,
        action: &'static str,
        parameters: &'static [Parameter],
    ) -> Operation {
        Operation {
            method,
            action,
            parameters,
            body: None,
            answer: kind.definition(),
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
        }
    }
}

/// Adds the paths of a group; returns the definitions they name.
pub fn add_paths(
    group: &str,
    version: &str,
    form: Form,
    paths: &mut Map<String, Value>,
) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for kind in kinds::all()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        for (path, operations) in of_kind(kind) {
            let mut item = Map::new();
            let names: Vec<Value> = ["namespace", "name"]
                .into_iter()
                .filter(|name| path.contains(&format!("{{{name}}}")))
                .map(|name| path_parameter(name, form))
                .collect();
            if !names.is_empty() {
                item.insert("parameters".to_owned(), Value::Array(names));
            }
            for operation in operations {
                used.insert(operation.answer.clone());
                used.extend(operation.body.clone());
                let id = operation_id(kind, &path, operation.action);
                item.insert(operation.method.to_owned(), render(&operation, &id, form));
            }
            paths.insert(path, Value::Object(item));
        }
    }
    used
}

fn of_kind(kind: &'static Kind) -> Vec<(String, Vec<Operation>)> {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let everywhere = format!("{root}/{}", kind.plural);
    let collection = if kind.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        everywhere.clone()
    };
    let list = || Operation {
        answer: format!("{}.{}", kind.package, kind.list_kind()),
        ..Operation::of(kind, "get", "list", &LIST)
    };
    let mut in_collection = Vec::new();
    if kind.has_verb("list") {
        in_collection.push(list());
    }
    if kind.has_verb("create") {
        in_collection.push(Operation {
            body: Some(kind.definition()),
            ..Operation::of(kind, "post", "post", &WRITE)
        });
    }
    if kind.has_verb("deletecollection") {
        in_collection.push(Operation {
            body: Some(format!("{META}DeleteOptions")),
            answer: format!("{META}Status"),
            ..Operation::of(kind, "delete", "deletecollection", &DELETE)
        });
    }
    let mut paths = vec![(collection.clone(), in_collection)];
    if kind.namespaced && kind.has_verb("list") {
        paths.push((everywhere, vec![list()]));
    }
    if kind.has_verb("get") {
        let item = format!("{collection}/{{name}}");
        paths.push((
            item.clone(),
            of_item(
                kind.verbs,
                kind.group,
                kind.version,
                kind.kind,
                kind.definition(),
            ),
        ));
        for part in kind.subresources {
            let definition = match part.kind {
                "Scale" => "io.k8s.api.autoscaling.v1.Scale".to_owned(),
                "Eviction" => "io.k8s.api.policy.v1.Eviction".to_owned(),
                "TokenRequest" => "io.k8s.api.authentication.v1.TokenRequest".to_owned(),
                "Binding" => "io.k8s.api.core.v1.Binding".to_owned(),
                _ => kind.definition(),
            };
            let mut operations = of_item(
                part.verbs,
                part.group,
                part.version,
                part.kind,
                definition.clone(),
            );
            if part.verbs.contains(&"create") {
                let post = Operation::of(kind, "post", "post", &WRITE);
                operations.push(Operation {
                    body: Some(definition.clone()),
                    answer: definition,
                    group: part.group,
                    version: part.version,
                    kind: part.kind,
                    ..post
                });
            }
            if part.kind.ends_with("Options") || part.name == "log" {
                for operation in &mut operations {
                    operation.action = "connect";
                    operation.body = None;
                }
            }
            paths.push((format!("{item}/{}", part.name), operations));
        }
    }
    paths
}

fn of_item(
    verbs: &[&str],
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    definition: String,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    for verb in verbs {
        let (method, action, parameters, body): (_, _, &'static [Parameter], _) = match *verb {
            "get" => ("get", "get", &[], None),
            "update" => ("put", "put", &WRITE, Some(definition.clone())),
            "patch" => ("patch", "patch", &PATCH, Some(format!("{META}Patch"))),
            "delete" => (
                "delete",
                "delete",
                &DELETE,
                Some(format!("{META}DeleteOptions")),
            ),
            _ => continue,
        };
        let answer = if *verb == "delete" {
            format!("{META}Status")
        } else {
            definition.clone()
        };
        operations.push(Operation {
            method,
            action,
            parameters,
            body,
            answer,
            group,
            version,
            kind,
        });
    }
    operations
}

/// Unique over all operations, as OpenAPI asks.
fn operation_id(kind: &Kind, path: &str, action: &str) -> String {
    let mut id = action.to_owned();
    let group = if kind.group.is_empty() {
        "core"
    } else {
        kind.group
    };
    let tail = path.rsplit('/').next().unwrap_or("");
    for part in [group, kind.version, kind.kind] {
        id.push_str(&camel(part));
    }
    if path.contains("{name}") && tail != "{name}" {
        id.push_str(&camel(tail));
    }
    if kind.namespaced && !path.contains("{namespace}") {
        id.push_str("ForAllNamespaces");
    }
    id
}

fn camel(text: &str) -> String {
    text.split(['.', '-'])
        .filter(|word| !word.is_empty())
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect()
}

fn path_parameter(name: &str, form: Form) -> Value {
    let description = if name == "name" {
        "name of the object"
    } else {
        "namespace of the object"
    };
    parameter(name, "path", "string", description, form)
}

fn parameter(name: &str, place: &str, kind: &str, description: &str, form: Form) -> Value {
    let mut parameter = json!({"name": name, "in": place, "description": description});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match form {
        Form::V2 => {
            parameter["type"] = kind.into();
            parameter["uniqueItems"] = true.into();
        }
        Form::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    parameter
}

fn render(operation: &Operation, id: &str, form: Form) -> Value {
    let mut parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|(name, kind, description)| parameter(name, "query", kind, description, form))
        .collect();
    let identity =
        json!({"group": operation.group, "version": operation.version, "kind": operation.kind});
    let is_patch = operation.method == "patch";
    // Custom resources do not offer strategic merge patches, and kubectl goes by that.
    let patch_types = if operation.group == crate::istio::GROUP {
        &PATCH_TYPES[..3]
    } else {
        &PATCH_TYPES[..]
    };
    let mut rendered = json!({
        "operationId": id,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": identity,
    });
    match form {
        Form::V2 => {
            let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
            if let Some(body) = &operation.body {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": reference(body)}));
            }
            rendered["consumes"] = if is_patch {
                patch_types.into()
            } else {
                json!(["*/*"])
            };
            rendered["produces"] = json!(["application/json", "application/yaml"]);
            rendered["responses"] =
                json!({"200": {"description": "OK", "schema": reference(&operation.answer)}});
        }
        Form::V3 => {
            let content =
                |name: &str| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
            if let Some(body) = &operation.body {
                let types: &[&str] = if is_patch { patch_types } else { &["*/*"] };
                let bodies: Map<String, Value> = types
                    .iter()
                    .map(|kind| ((*kind).to_owned(), content(body)))
                    .collect();
                rendered["requestBody"] =
                    json!({"content": bodies, "required": operation.method != "delete"});
            }
            rendered["responses"] = json!({"200": {"description": "OK", "content": {"application/json": content(&operation.answer)}}});
        }
    }
    rendered["parameters"] = Value::Array(parameters);
    rendered
}
