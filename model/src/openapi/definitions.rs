//! Schemas of all types, in v2 form, with the extensions that patching and explaining need.

use k8s_openapi::api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta_v1;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::kinds;
use crate::schema::tree::{Container, Field, Merge, Rule, Shape, Type, tree};

const V2_PREFIX: &str = "#/definitions/";
const V3_PREFIX: &str = "#/components/schemas/";
pub const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Every definition, by name.
pub fn definitions() -> Map<String, Value> {
    let mut definitions = described();
    for (name, schema) in [
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"type": "string"}),
        ),
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"type": "string", "format": "int-or-string"}),
        ),
    ] {
        let description = definitions
            .get(name)
            .map(|old| old["description"].clone())
            .unwrap_or_default();
        let mut schema = schema;
        schema["description"] = description;
        definitions.insert(name.to_owned(), schema);
    }
    for each in &tree().types {
        if !each.description.is_empty() {
            definitions.insert(each.name.to_owned(), written(each));
        }
    }
    for kind in kinds::all() {
        definitions.insert(
            format!("{}.{}", kind.package, kind.list_kind()),
            list_of(kind),
        );
    }
    for (name, schema) in &mut definitions {
        extend(name, schema);
    }
    definitions
}

/// A type that is described in the table of types itself.
fn written(each: &Type) -> Value {
    let mut properties = Map::new();
    let is_object = kinds::all()
        .iter()
        .any(|kind| kind.definition() == each.name);
    if is_object {
        for (name, description) in [
            (
                "apiVersion",
                "Group and version of the form that this object is in.",
            ),
            ("kind", "The kind of the object."),
        ] {
            properties.insert(
                name.to_owned(),
                json!({"type": "string", "description": description}),
            );
        }
    }
    for field in &each.fields {
        let one = schema_of(field);
        let mut schema = match field.container {
            Container::One => one,
            Container::List => json!({"type": "array", "items": one}),
            Container::Map => json!({"type": "object", "additionalProperties": one}),
        };
        if !field.description.is_empty() {
            schema["description"] = field.description.into();
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let mut schema =
        json!({"description": each.description, "type": "object", "properties": properties});
    let required: Vec<&str> = each
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// One value of a field.
fn schema_of(field: &Field) -> Value {
    match field.shape {
        Shape::Struct(index) => {
            json!({"$ref": format!("{V2_PREFIX}{}", tree().types[index].name)})
        }
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => match field.rule {
            Rule::Unsigned32 => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX})
            }
            _ => json!({"type": "integer", "format": "int64"}),
        },
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::IntOrString => json!({"x-kubernetes-int-or-string": true}),
        Shape::Raw => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
        Shape::Strings => json!({"type": "array", "items": {"type": "string"}}),
        Shape::Fields => json!({"type": "object"}),
        Shape::String | Shape::Quantity => match &field.rule {
            Rule::OneOf(allowed) => json!({"type": "string", "enum": allowed}),
            _ => json!({"type": "string"}),
        },
    }
}

/// Takes from a v2 document the types that an old client would hold old spellings against.
pub fn loosen(definitions: &mut Map<String, Value>) {
    for each in &tree().types {
        for field in each.fields.iter().filter(|field| field.loose) {
            if let Some(schema) = definitions
                .get_mut(each.name)
                .and_then(|schema| schema["properties"].get_mut(field.name))
            {
                *schema = json!({"description": field.description, "x-kubernetes-preserve-unknown-fields": true});
            }
        }
    }
}

/// Descriptions, types and required fields, as crate k8s-openapi has them.
fn described() -> Map<String, Value> {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.meta_schema = None;
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    macro_rules! all {
        ($($kind:ty),* $(,)?) => { $( add::<$kind>(&mut generator); )* };
    }
    all!(
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::Pod,
        api::core::v1::Binding,
        api::core::v1::Service,
        api::core::v1::Endpoints,
        api::core::v1::ConfigMap,
        api::core::v1::Secret,
        api::core::v1::ServiceAccount,
        api::core::v1::Event,
        api::events::v1::Event,
        api::coordination::v1::Lease,
        api::discovery::v1::EndpointSlice,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::autoscaling::v1::Scale,
        api::policy::v1::Eviction,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::Role,
        api::rbac::v1::RoleBinding,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenRequest,
        meta_v1::DeleteOptions,
        meta_v1::ListMeta,
        meta_v1::Patch,
        meta_v1::Status,
    );
    generator.take_definitions(false)
}

fn add<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn list_of(kind: &kinds::Kind) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "description": format!("{} is a list of {} objects.", kind.list_kind(), kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "metadata": {"$ref": format!("{V2_PREFIX}{META}ListMeta"), "description": "Standard list metadata."},
            "items": {
                "description": format!("List of {} objects.", kind.kind),
                "type": "array",
                "items": {"$ref": format!("{V2_PREFIX}{}", kind.definition())},
            },
        },
    })
}

/// Group, version and kind that each definition stands for, where it is one of an object of its own.
fn identities(name: &str) -> Vec<(String, String, String)> {
    let owned = |group: &str, version: &str, kind: &str| {
        vec![(group.to_owned(), version.to_owned(), kind.to_owned())]
    };
    if let Some(kind) = kinds::all().iter().find(|kind| kind.definition() == name) {
        return owned(kind.group, kind.version, kind.kind);
    }
    if let Some(kind) = kinds::all()
        .iter()
        .find(|kind| format!("{}List", kind.definition()) == name)
    {
        return owned(kind.group, kind.version, &kind.list_kind());
    }
    match name {
        "io.k8s.api.core.v1.Binding" => owned("", "v1", "Binding"),
        "io.k8s.api.autoscaling.v1.Scale" => owned("autoscaling", "v1", "Scale"),
        "io.k8s.api.policy.v1.Eviction" => owned("policy", "v1", "Eviction"),
        "io.k8s.api.authentication.v1.TokenRequest" => {
            owned("authentication.k8s.io", "v1", "TokenRequest")
        }
        "io.k8s.apimachinery.pkg.apis.meta.v1.Status" => owned("", "v1", "Status"),
        "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions" => kinds::groups()
            .into_iter()
            .map(|(group, version)| {
                (
                    group.to_owned(),
                    version.to_owned(),
                    "DeleteOptions".to_owned(),
                )
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn extend(name: &str, schema: &mut Value) {
    let identities = identities(name);
    if !identities.is_empty() {
        schema["x-kubernetes-group-version-kind"] = identities
            .iter()
            .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
            .collect();
        // The crate's types always carry metadata; the API does not ask for it.
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|field| field != "metadata");
            if required.is_empty() {
                schema.as_object_mut().map(|map| map.remove("required"));
            }
        }
    }
    let Some(index) = tree().index(name) else {
        return;
    };
    if tree().types[index].atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    for (property, schema) in schema
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        if let Some(field) = tree().field(index, property) {
            extend_field(field, schema);
        }
    }
}

fn extend_field(field: &Field, schema: &mut Value) {
    match (field.container, field.merge) {
        (Container::List, Merge::ByKeys) => {
            schema["x-kubernetes-list-type"] = "map".into();
            schema["x-kubernetes-list-map-keys"] = field.keys.as_slice().into();
        }
        (Container::List, Merge::Set) => schema["x-kubernetes-list-type"] = "set".into(),
        (Container::List, _) => schema["x-kubernetes-list-type"] = "atomic".into(),
        (Container::Map, Merge::Atomic) => schema["x-kubernetes-map-type"] = "atomic".into(),
        _ => {}
    }
    if !field.patch_strategy.is_empty() {
        schema["x-kubernetes-patch-strategy"] = field.patch_strategy.into();
    }
    if !field.patch_merge_key.is_empty() {
        schema["x-kubernetes-patch-merge-key"] = field.patch_merge_key.into();
    }
}

/// One definition in v3 form; the names it refers to are added to `open`.
pub fn to_v3(name: &str, definition: &Value, open: &mut Vec<String>) -> Value {
    let described = |schema: Value| {
        let mut schema = schema;
        schema["description"] = definition["description"].clone();
        schema
    };
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
            described(json!({"oneOf": [{"type": "string"}, {"type": "number"}]}))
        }
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => described(
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        _ => convert(definition, open),
    }
}

fn convert(value: &Value, open: &mut Vec<String>) -> Value {
    match value {
        Value::Object(map) => {
            let mut converted = Map::new();
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        let target = target.strip_prefix(V2_PREFIX).unwrap_or(target);
                        open.push(target.to_owned());
                        let reference = json!({"$ref": format!("{V3_PREFIX}{target}")});
                        // OpenAPI v3 ignores what stands beside a reference, so one with company is wrapped.
                        if map.len() == 1 {
                            return reference;
                        }
                        converted.insert("allOf".to_owned(), json!([reference]));
                    }
                    _ => {
                        converted.insert(key.clone(), convert(value, open));
                    }
                }
            }
            Value::Object(converted)
        }
        Value::Array(list) => list.iter().map(|value| convert(value, open)).collect(),
        other => other.clone(),
    }
}
