//! The API described for clients: OpenAPI v3 by group, and v2 as one document in JSON and in protobuf.
//!
//! kubectl validates, explains and computes patches from these. Documents are built when first asked for and kept as
//! bytes; a server that no kubectl has met keeps none.

mod definitions;
mod gnostic;
mod operations;

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::kinds;

/// The level of Kubernetes that the types are of.
pub const VERSION: &str = "v1.36.0";

struct Document {
    /// Path under `/openapi/v3/`, such as `apis/apps/v1`.
    path: String,
    bytes: Vec<u8>,
    hash: String,
}

fn documents() -> &'static [Document] {
    static DOCUMENTS: OnceLock<Vec<Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let definitions = definitions::definitions();
        kinds::groups()
            .into_iter()
            .map(|(group, version)| {
                let path = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                let bytes =
                    serde_json::to_vec(&build_v3(&definitions, group, version)).unwrap_or_default();
                Document {
                    path,
                    hash: hash(&bytes),
                    bytes,
                }
            })
            .collect()
    })
}

/// FNV-1a twice over, with different starts: names a document's content, no more.
fn hash(bytes: &[u8]) -> String {
    let one = |start: u64| {
        bytes.iter().fold(start, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    format!(
        "{:016X}{:016X}",
        one(0xcbf2_9ce4_8422_2325),
        one(0x9ae1_6a3b_2f90_404f)
    )
}

/// What `/openapi/v3` answers with: where each group's document is, named by its content.
pub fn v3_index() -> Value {
    let mut paths = Map::new();
    for document in documents() {
        let url = format!("/openapi/v3/{}?hash={}", document.path, document.hash);
        paths.insert(document.path.clone(), json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The JSON bytes of one group's document; `path` is as in the index (`apis/apps/v1`).
pub fn v3_bytes(path: &str) -> Option<&'static [u8]> {
    documents()
        .iter()
        .find(|document| document.path == path)
        .map(|document| document.bytes.as_slice())
}

/// The hash in the index for one group's document: its ETag.
pub fn v3_hash(path: &str) -> Option<&'static str> {
    documents()
        .iter()
        .find(|document| document.path == path)
        .map(|document| document.hash.as_str())
}

/// One group's document.
pub fn v3(path: &str) -> Option<Value> {
    v3_bytes(path).and_then(|bytes| serde_json::from_slice(bytes).ok())
}

/// What `/openapi/v2` answers with in JSON.
pub fn v2_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| serde_json::to_vec(&build_v2()).unwrap_or_default())
}

/// The hash of the v2 document: its ETag, whatever the form.
pub fn v2_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash(v2_bytes()))
}

/// The v2 document.
pub fn v2() -> Value {
    serde_json::from_slice(v2_bytes()).unwrap_or_default()
}

/// The v2 document as gnostic's `openapi.v2.Document`, for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn v2_protobuf() -> Vec<u8> {
    v2_protobuf_bytes().to_vec()
}

/// As [`v2_protobuf`], without a copy.
pub fn v2_protobuf_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| gnostic::document(&build_v2()))
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": VERSION})
}

fn build_v2() -> Value {
    let mut definitions = definitions::definitions();
    definitions::loosen(&mut definitions);
    let mut paths = Map::new();
    for (group, version) in kinds::groups() {
        operations::add_paths(group, version, operations::Form::V2, &mut paths);
    }
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions})
}

fn build_v3(definitions: &Map<String, Value>, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let used = operations::add_paths(group, version, operations::Form::V3, &mut paths);
    let mut schemas = Map::new();
    let mut open: Vec<String> = used.into_iter().collect();
    while let Some(name) = open.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        if let Some(definition) = definitions.get(&name) {
            let schema = definitions::to_v3(&name, definition, &mut open);
            schemas.insert(name, schema);
        }
    }
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in the value, without its prefix.
    fn references(value: &Value, prefix: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(target)) => {
                            found.push(target.strip_prefix(prefix).expect(target).to_owned());
                        }
                        _ => references(value, prefix, found),
                    }
                }
            }
            Value::Array(list) => list
                .iter()
                .for_each(|value| references(value, prefix, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let mut found = Vec::new();
        let document = v2();
        references(&document, "#/definitions/", &mut found);
        for name in found {
            assert!(document["definitions"].get(&name).is_some(), "v2: {name}");
        }
        for path in v3_index()["paths"].as_object().unwrap().keys() {
            let document = v3(path).unwrap();
            let mut found = Vec::new();
            references(&document, "#/components/schemas/", &mut found);
            assert!(!found.is_empty());
            for name in found {
                assert!(
                    document["components"]["schemas"].get(&name).is_some(),
                    "{path}: {name}"
                );
            }
        }
        assert!(v3("apis/none/v1").is_none());
    }

    #[test]
    fn kinds_have_the_operations_that_kubectl_looks_for() {
        let apps = v3("apis/apps/v1").unwrap();
        let patch =
            &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(
            patch["requestBody"]["content"]
                .get("application/strategic-merge-patch+json")
                .is_some()
        );
        let schema = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            schema["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
    }

    #[test]
    fn merge_rules_are_told() {
        let document = v2();
        let containers =
            &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let selector =
            &document["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"];
        assert_eq!(selector["x-kubernetes-map-type"], "atomic");
        let int_or_string =
            &document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!(int_or_string["format"], "int-or-string");
    }

    #[test]
    fn the_index_names_documents_by_content() {
        let index = v3_index();
        let url = index["paths"]["api/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap();
        assert_eq!(
            url,
            format!("/openapi/v3/api/v1?hash={}", v3_hash("api/v1").unwrap())
        );
    }
}
