//! Kubernetes' protobuf form of objects, which typed Go clients and parts of kubectl send.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message holding apiVersion, kind and the object's own
//! message. Both directions are driven by the table of types in [`crate::schema::tree`].

mod decode;
mod encode;
pub(crate) mod wire;

use serde_json::{Map, Value};

use crate::kinds;
use crate::schema::tree::tree;

/// Media type of this form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8; 4] = b"k8s\0";

/// Messages nested deeper than any type of the table can nest (JSONSchemaProps would, and is not in it).
const DEPTH_MAX: usize = 64;

/// Whether the bytes start as an envelope does.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Decodes an envelope into the JSON object, with its apiVersion and kind.
pub fn decode(bytes: &[u8]) -> Result<Value, String> {
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message")?;
    let envelope = Envelope::read(body)?;
    if envelope.content_type.starts_with("application/json") {
        return serde_json::from_slice(envelope.raw).map_err(|error| error.to_string());
    }
    let unknown = || {
        format!(
            "no kind {:?} is registered for version {:?}",
            envelope.kind, envelope.api_version
        )
    };
    let mut object = match find(&envelope.api_version, &envelope.kind).ok_or_else(unknown)? {
        Found::Object(index) => decode::message(index, envelope.raw, DEPTH_MAX)?,
        Found::List(index) => decode::list(index, envelope.raw)?,
    };
    object.insert("apiVersion".to_owned(), envelope.api_version.into());
    object.insert("kind".to_owned(), envelope.kind.into());
    Ok(Value::Object(object))
}

/// Encodes an object or list of a kind that [`decode`] knows.
pub fn encode(object: &Value) -> Result<Vec<u8>, String> {
    let (api_version, kind) = (crate::meta::api_version(object), crate::meta::kind(object));
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let raw = match find(api_version, kind) {
        Some(Found::Object(index)) => encode::message(index, map)?,
        Some(Found::List(index)) => encode::list(index, map)?,
        None => {
            return Err(format!(
                "no kind {kind:?} is registered for version {api_version:?}"
            ));
        }
    };
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, kind.as_bytes());
    let mut bytes = MAGIC.to_vec();
    wire::put_bytes(&mut bytes, 1, &meta);
    wire::put_bytes(&mut bytes, 2, &raw);
    wire::put_bytes(&mut bytes, 3, b"");
    wire::put_bytes(&mut bytes, 4, b"");
    Ok(bytes)
}

enum Found {
    Object(usize),
    /// A list of objects of this type.
    List(usize),
}

/// The type that apiVersion and kind name.
fn find(api_version: &str, kind: &str) -> Option<Found> {
    let find_kind = |kind: &str| kinds::find_kind(api_version, kind).filter(|row| !row.is_istio());
    let definition = if let Some(row) = find_kind(kind) {
        row.definition()
    } else if let Some(row) = kind.strip_suffix("List").and_then(find_kind) {
        return tree().index(&row.definition()).map(Found::List);
    } else {
        match (api_version, kind) {
            ("v1", "Binding") => "io.k8s.api.core.v1.Binding".to_owned(),
            ("policy/v1" | "policy/v1beta1", "Eviction") => {
                "io.k8s.api.policy.v1.Eviction".to_owned()
            }
            ("autoscaling/v1", "Scale") => "io.k8s.api.autoscaling.v1.Scale".to_owned(),
            ("authentication.k8s.io/v1", "TokenRequest") => {
                "io.k8s.api.authentication.v1.TokenRequest".to_owned()
            }
            // Every group registers these under its own version.
            (
                _,
                "DeleteOptions" | "CreateOptions" | "UpdateOptions" | "PatchOptions" | "Status",
            ) => {
                format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")
            }
            _ => return None,
        }
    };
    tree().index(&definition).map(Found::Object)
}

/// `runtime.Unknown`.
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    content_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, String> {
        let mut envelope = Envelope {
            api_version: String::new(),
            kind: String::new(),
            raw: &[],
            content_type: String::new(),
        };
        for field in wire::fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => {
                    for field in wire::fields(value.bytes()?) {
                        match field? {
                            (1, value) => envelope.api_version = value.text()?,
                            (2, value) => envelope.kind = value.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = value.bytes()?,
                4 => envelope.content_type = value.text()?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}
