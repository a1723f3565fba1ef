//! One pass over an object beside its type: refuses wrong types in the words of Go's JSON decoder, prunes and
//! reports unknown fields, and writes values in their canonical form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::tree::{Container, Field, Shape, tree};
use crate::meta::{micro_timestamp, timestamp};
use crate::quantity::Quantity;

/// Returns the paths of unknown fields, which are removed; the error is the decoder's message.
pub fn walk(root: usize, object: &mut Value) -> Result<Vec<String>, String> {
    let mut walk = Walk {
        path: Vec::new(),
        unknown: Vec::new(),
    };
    match object {
        Value::Object(map) => {
            for field in ["apiVersion", "kind"] {
                match map.get(field) {
                    Some(Value::String(_)) | None => {}
                    Some(Value::Null) => {
                        map.remove(field);
                    }
                    Some(other) => {
                        let owner = tree().types[root].short_name();
                        return Err(mismatch(&found(other), owner, field, "string"));
                    }
                }
            }
            walk.structure(root, map, true)?;
        }
        other => {
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type {}",
                found(other),
                tree().types[root].go_name()
            ));
        }
    }
    Ok(walk.unknown)
}

enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

struct Walk {
    path: Vec<Step>,
    unknown: Vec<String>,
}

/// What the decoder says it met.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
    .to_owned()
}

fn mismatch(found: &str, owner: &str, path: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
}

fn go_type(shape: Shape) -> &'static str {
    match shape {
        Shape::String | Shape::Time | Shape::MicroTime => "string",
        Shape::Bool => "bool",
        Shape::Int32 | Shape::IntOrString => "int32",
        Shape::Int64 => "int64",
        Shape::Double => "float64",
        Shape::Bytes => "[]uint8",
        Shape::Quantity => "resource.Quantity",
        Shape::Raw => "runtime.RawExtension",
        Shape::Fields => "v1.FieldsV1",
        Shape::Strings => "[]string",
        Shape::Struct(index) => tree().types[index].go_name(),
    }
}

impl Walk {
    /// The path as field errors and strict decoding write it: `spec.containers[0].image`.
    fn full_path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(name) => push_name(&mut path, name),
                Step::Key(name) => push_name(&mut path, name),
            }
        }
        path
    }

    /// The path as Go's decoder writes it: fields only.
    fn go_path(&self) -> String {
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(*name),
                Step::Index(_) | Step::Key(_) => None,
            })
            .collect();
        names.join(".")
    }

    fn structure(
        &mut self,
        index: usize,
        map: &mut Map<String, Value>,
        root: bool,
    ) -> Result<(), String> {
        let mut dropped: Vec<String> = Vec::new();
        // Options name their own type also where they are part of an object (an Eviction's).
        let typed = root || tree().types[index].name.ends_with(".DeleteOptions");
        for (name, value) in map.iter_mut() {
            let Some(field) = tree().field(index, name) else {
                if !(typed && (name == "apiVersion" || name == "kind")) {
                    let mut path = self.full_path();
                    push_name(&mut path, name);
                    self.unknown.push(path);
                    dropped.push(name.clone());
                }
                continue;
            };
            if value.is_null() {
                dropped.push(name.clone());
                continue;
            }
            self.path.push(Step::Field(field.name));
            self.field(index, field, value)?;
            self.path.pop();
        }
        for name in dropped {
            map.remove(&name);
        }
        Ok(())
    }

    fn field(&mut self, owner: usize, field: &Field, value: &mut Value) -> Result<(), String> {
        match (field.container, value) {
            (Container::One, value) => self.single(owner, field.shape, value),
            (Container::List, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    self.element(owner, field.shape, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Container::Map, Value::Object(entries)) => {
                for (key, item) in entries.iter_mut() {
                    self.path.push(Step::Key(key.clone()));
                    self.element(owner, field.shape, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            (container, value) => {
                let prefix = if container == Container::List {
                    "[]"
                } else {
                    "map[string]"
                };
                let wanted = format!("{prefix}{}", go_type(field.shape));
                Err(self.mismatch(owner, &found(value), &wanted))
            }
        }
    }

    /// An element of a list or map, where null is the zero value.
    fn element(&mut self, owner: usize, shape: Shape, value: &mut Value) -> Result<(), String> {
        if value.is_null() {
            *value = match shape {
                Shape::String => "".into(),
                Shape::Bool => false.into(),
                Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
                Shape::Quantity => "0".into(),
                Shape::Bytes => "".into(),
                Shape::Strings => Value::Array(Vec::new()),
                Shape::Struct(_) => Value::Object(Map::new()),
                Shape::Time | Shape::MicroTime | Shape::Raw | Shape::Fields => return Ok(()),
            };
            return Ok(());
        }
        self.single(owner, shape, value)
    }

    fn mismatch(&self, owner: usize, found: &str, wanted: &str) -> String {
        mismatch(
            found,
            tree().types[owner].short_name(),
            &self.go_path(),
            wanted,
        )
    }

    fn single(&mut self, owner: usize, shape: Shape, value: &mut Value) -> Result<(), String> {
        let wrong =
            |walk: &Walk, value: &Value| Err(walk.mismatch(owner, &found(value), go_type(shape)));
        match (shape, &mut *value) {
            (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) | (Shape::Raw, _) => {
                Ok(())
            }
            (Shape::Double, Value::Number(_)) | (Shape::Fields, Value::Object(_)) => Ok(()),
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::Int32 | Shape::IntOrString, Value::Number(number)) => {
                match number
                    .as_i64()
                    .and_then(|number| i32::try_from(number).ok())
                {
                    Some(_) => Ok(()),
                    None => Err(self.mismatch(owner, &format!("number {number}"), "int32")),
                }
            }
            (Shape::Int64, Value::Number(number)) => match number.as_i64() {
                Some(_) => Ok(()),
                None => Err(self.mismatch(owner, &format!("number {number}"), "int64")),
            },
            (Shape::Bytes, Value::String(text)) => self.bytes(text),
            (Shape::Quantity, Value::String(text)) => {
                *text = self.quantity(text)?;
                Ok(())
            }
            (Shape::Quantity, Value::Number(number)) => {
                *value = self.quantity(&number.to_string())?.into();
                Ok(())
            }
            (Shape::Time, Value::String(text)) => {
                *text = timestamp(self.time(text)?);
                Ok(())
            }
            (Shape::MicroTime, Value::String(text)) => {
                *text = micro_timestamp(self.time(text)?);
                Ok(())
            }
            (Shape::Strings, Value::Array(items)) => {
                for item in items {
                    self.element(owner, Shape::String, item)?;
                }
                Ok(())
            }
            (Shape::Struct(index), Value::Object(map)) => self.structure(index, map, false),
            (_, value) => wrong(self, value),
        }
    }

    fn quantity(&self, text: &str) -> Result<String, String> {
        match Quantity::parse(text) {
            Ok(quantity) => Ok(quantity.to_string()),
            Err(error) => Err(format!("{}: {error}", self.full_path())),
        }
    }

    fn time(&self, text: &str) -> Result<jiff::Timestamp, String> {
        text.parse().map_err(|_| {
            format!(
                "{}: parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"",
                self.full_path()
            )
        })
    }

    fn bytes(&self, text: &mut String) -> Result<(), String> {
        // Go's decoder skips line breaks, which YAML block scalars bring along.
        if text.contains(['\r', '\n']) {
            text.retain(|character| !matches!(character, '\r' | '\n'));
        }
        let position = match BASE64.decode(text.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _),
            ) => at,
            Err(base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding) => {
                text.len()
            }
        };
        Err(format!(
            "{}: illegal base64 data at input byte {position}",
            self.full_path()
        ))
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

#[cfg(test)]
mod tests {
    use super::super::{FieldValidation, check, check_type};
    use crate::kinds;
    use serde_json::json;

    fn refused(kind: &kinds::Kind, mut object: serde_json::Value) -> String {
        let status = check(kind, &mut object, FieldValidation::Strict).unwrap_err();
        assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
        let prefix = format!(
            "{0} in version \"v1\" cannot be handled as a {0}: ",
            kind.kind
        );
        status
            .message
            .strip_prefix(&prefix)
            .expect("the usual prefix")
            .to_owned()
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let object = json!({"spec": {"foo": 1, "template": {"spec": {"containers": [{"name": "a", "imagee": "x"}]}}}});
        assert_eq!(
            refused(kinds::DEPLOYMENT, object.clone()),
            "strict decoding error: unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].imagee\""
        );
        let mut pruned = object;
        let warnings = check(kinds::DEPLOYMENT, &mut pruned, FieldValidation::Warn).unwrap();
        assert_eq!(warnings[0], "unknown field \"spec.foo\"");
        assert_eq!(
            pruned,
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}})
        );
    }

    #[test]
    fn wrong_types_are_refused_in_the_decoders_words() {
        for (object, message) in [
            (
                json!({"spec": {"replicas": "three"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {"name": "a"}}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"image": 3}]}}}}),
                "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type string",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"spec": []}),
                "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
            ),
            (
                json!([]),
                "json: cannot unmarshal array into Go value of type v1.Deployment",
            ),
        ] {
            assert_eq!(refused(kinds::DEPLOYMENT, object), message);
        }
        assert_eq!(
            refused(kinds::SECRET, json!({"data": {"a": "###"}})),
            "data.a: illegal base64 data at input byte 0"
        );
    }

    #[test]
    fn values_take_their_canonical_form() {
        let mut pod = json!({"metadata": {"creationTimestamp": null, "labels": {"a": null}}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": 1, "memory": "0.5Gi"}, "limits": {"cpu": "1500m"}}}, null]}});
        check(kinds::POD, &mut pod, FieldValidation::Strict).unwrap();
        assert_eq!(
            pod,
            json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "1500m"}}}, {}]}})
        );
        let mut eviction = json!({"deleteOptions": {"apiVersion": "v1", "kind": "DeleteOptions"}});
        let definition = "io.k8s.api.policy.v1.Eviction";
        check_type(
            definition,
            "v1",
            &mut eviction,
            Vec::new(),
            FieldValidation::Strict,
        )
        .unwrap();
        assert_eq!(eviction["deleteOptions"]["kind"], "DeleteOptions");
        let mut lease =
            json!({"spec": {"renewTime": "2026-01-02T03:04:05Z", "leaseDurationSeconds": 40}});
        check(kinds::LEASE, &mut lease, FieldValidation::Strict).unwrap();
        assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
        let mut service = json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]}});
        check(kinds::SERVICE, &mut service, FieldValidation::Strict).unwrap();
    }
}
