//! JSON objects to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::wire;
use crate::schema::tree::{Container, Field, Shape, tree};

pub fn list(index: usize, map: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    if let (Some(meta), Some(Value::Object(metadata))) = (
        tree().index("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
        map.get("metadata"),
    ) {
        wire::put_bytes(&mut out, 1, &message(meta, metadata)?);
    }
    for item in map
        .get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Value::Object(item) = item {
            wire::put_bytes(&mut out, 2, &message(index, item)?);
        }
    }
    Ok(out)
}

/// Encodes the fields of the type at `index` that the map holds; others are left out, as an unknown field in JSON is.
pub fn message(index: usize, map: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for field in &tree().types[index].fields {
        if field.inline {
            if let Shape::Struct(inner) = field.shape {
                wire::put_bytes(&mut out, field.number, &message(inner, map)?);
            }
            continue;
        }
        let Some(value) = map
            .get(field.name)
            .filter(|value| field.number > 0 && !value.is_null())
        else {
            continue;
        };
        put_field(&mut out, field, value).map_err(|error| format!("{}: {error}", field.name))?;
    }
    Ok(out)
}

fn put_field(out: &mut Vec<u8>, field: &Field, value: &Value) -> Result<(), String> {
    match (field.container, value) {
        (Container::One, value) => put_single(out, field.number, field.shape, value),
        (Container::List, Value::Array(items)) => items
            .iter()
            .try_for_each(|item| put_single(out, field.number, field.shape, item)),
        (Container::Map, Value::Object(entries)) => entries.iter().try_for_each(|(key, value)| {
            let mut entry = Vec::new();
            wire::put_bytes(&mut entry, 1, key.as_bytes());
            put_single(&mut entry, 2, field.shape, value)?;
            wire::put_bytes(out, field.number, &entry);
            Ok(())
        }),
        _ => Err("not a list or map".to_owned()),
    }
}

fn put_single(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) -> Result<(), String> {
    match (shape, value) {
        (Shape::String, Value::String(text)) => wire::put_bytes(out, number, text.as_bytes()),
        (Shape::Bool, Value::Bool(flag)) => wire::put_number(out, number, i64::from(*flag)),
        (Shape::Int32 | Shape::Int64, Value::Number(given)) => {
            wire::put_number(out, number, given.as_i64().ok_or("number out of range")?);
        }
        (Shape::Double, Value::Number(given)) => {
            wire::put_double(out, number, given.as_f64().unwrap_or(0.0))
        }
        (Shape::Bytes, Value::String(text)) => {
            let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
            wire::put_bytes(out, number, &bytes);
        }
        (Shape::Quantity, Value::String(text)) => nested(out, number, |inner| {
            wire::put_bytes(inner, 1, text.as_bytes())
        }),
        (Shape::IntOrString, Value::String(text)) => nested(out, number, |inner| {
            wire::put_number(inner, 1, 1);
            wire::put_number(inner, 2, 0);
            wire::put_bytes(inner, 3, text.as_bytes());
        }),
        (Shape::IntOrString, Value::Number(given)) => {
            let given = given.as_i64().ok_or("number out of range")?;
            nested(out, number, |inner| {
                wire::put_number(inner, 1, 0);
                wire::put_number(inner, 2, given);
                wire::put_bytes(inner, 3, b"");
            });
        }
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let at: jiff::Timestamp = text
                .parse()
                .map_err(|error: jiff::Error| error.to_string())?;
            nested(out, number, |inner| {
                wire::put_number(inner, 1, at.as_second());
                wire::put_number(inner, 2, i64::from(at.subsec_nanosecond()));
            });
        }
        (Shape::Raw | Shape::Fields, value) => {
            let bytes = value.to_string();
            nested(out, number, |inner| {
                wire::put_bytes(inner, 1, bytes.as_bytes())
            });
        }
        (Shape::Strings, Value::Array(items)) => nested(out, number, |inner| {
            for item in items {
                wire::put_bytes(inner, 1, item.as_str().unwrap_or("").as_bytes());
            }
        }),
        (Shape::Struct(index), Value::Object(map)) => {
            wire::put_bytes(out, number, &message(index, map)?)
        }
        (_, other) => return Err(format!("unexpected value {other}")),
    }
    Ok(())
}

fn nested(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    wire::put_bytes(out, number, &inner);
}
