//! Messages to JSON objects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value};

use super::DEPTH_MAX;
use super::wire::{self, Raw};
use crate::meta::{micro_timestamp, timestamp};
use crate::schema::tree::{Container, Field, Shape, tree};

/// Numbers and flags that are plain values in Kubernetes' Go types: the encoder always writes them, and zero or false
/// there means "not said". Others are pointers, where a zero (`replicas: 0`) was meant.
const OMITTED_ZEROS: [&str; 38] = [
    "hostPort",
    "containerPort",
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "port",
    "nodePort",
    "healthCheckNodePort",
    "minReadySeconds",
    "generation",
    "observedGeneration",
    "count",
    "weight",
    "maxSkew",
    "signal",
    "code",
    "retryAfterSeconds",
    "sizeBytes",
    "fullyLabeledReplicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
    "publishNotReadyAddresses",
    "paused",
    "unschedulable",
    "denied",
    "incomplete",
    "Port",
];

pub fn list(index: usize, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut metadata = Map::new();
    let mut objects = Vec::new();
    for field in wire::fields(bytes) {
        match field? {
            (1, value) => {
                if let Some(meta) = tree().index("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
                    metadata = message(meta, value.bytes()?, DEPTH_MAX)?;
                }
            }
            (2, value) => objects.push(Value::Object(message(index, value.bytes()?, DEPTH_MAX)?)),
            _ => {}
        }
    }
    let mut list = Map::new();
    list.insert("metadata".to_owned(), Value::Object(metadata));
    list.insert("items".to_owned(), Value::Array(objects));
    Ok(list)
}

/// Decodes a message of the type at `index`; fields the table does not know are skipped, as protobuf wants it.
pub fn message(index: usize, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    message_into(index, bytes, depth, &mut map)?;
    Ok(map)
}

fn message_into(
    index: usize,
    bytes: &[u8],
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("protobuf: messages are nested too deeply".to_owned());
    };
    for entry in wire::fields(bytes) {
        let (number, raw) = entry?;
        let Some(field) = tree().types[index]
            .fields
            .iter()
            .find(|field| field.number == number)
        else {
            continue;
        };
        if field.inline {
            if let Shape::Struct(inner) = field.shape {
                message_into(inner, raw.bytes()?, depth, map)?;
            }
            continue;
        }
        place(field, raw, depth, map)?;
    }
    Ok(())
}

fn place(
    field: &Field,
    raw: Raw<'_>,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), String> {
    let named = |error: String| format!("{}: {error}", field.name);
    match field.container {
        Container::One => {
            let value = single(field.shape, raw, depth).map_err(named)?;
            let omitted = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Number(number) => {
                    number.as_i64() == Some(0) && OMITTED_ZEROS.contains(&field.name)
                }
                Value::Bool(flag) => !flag && OMITTED_ZEROS.contains(&field.name),
                _ => false,
            };
            if !omitted {
                map.insert(field.name.to_owned(), value);
            }
        }
        Container::List => {
            let list = map
                .entry(field.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else {
                return Err(named("protobuf: field given twice".to_owned()));
            };
            // Numbers may come packed.
            if let (Raw::Bytes(mut bytes), Shape::Int32 | Shape::Int64 | Shape::Bool) =
                (raw, field.shape)
            {
                while !bytes.is_empty() {
                    let (value, used) = wire::varint(bytes).map_err(named)?;
                    list.push(single(field.shape, Raw::Varint(value), depth).map_err(named)?);
                    bytes = &bytes[used..];
                }
            } else {
                list.push(single(field.shape, raw, depth).map_err(named)?);
            }
        }
        Container::Map => {
            let (mut key, mut value) = (String::new(), None);
            for entry in wire::fields(raw.bytes().map_err(named)?) {
                match entry.map_err(named)? {
                    (1, raw) => key = raw.text().map_err(named)?,
                    (2, raw) => value = Some(single(field.shape, raw, depth).map_err(named)?),
                    _ => {}
                }
            }
            let value = match value {
                Some(value) => value,
                None => zero(field.shape),
            };
            let entries = map
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entries.insert(key, value);
            }
        }
    }
    Ok(())
}

fn zero(shape: Shape) -> Value {
    match shape {
        Shape::Quantity => "0".into(),
        Shape::Struct(_) => Value::Object(Map::new()),
        Shape::Strings => Value::Array(Vec::new()),
        _ => "".into(),
    }
}

fn single(shape: Shape, raw: Raw<'_>, depth: usize) -> Result<Value, String> {
    Ok(match shape {
        Shape::String => raw.text()?.into(),
        Shape::Bool => (raw.varint()? != 0).into(),
        // int32 is sign-extended to 64 bits on the wire.
        Shape::Int32 => (raw.varint()? as i32).into(),
        Shape::Int64 => (raw.varint()? as i64).into(),
        Shape::Double => match raw {
            Raw::Fixed64(bits) => {
                Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
            }
            other => return Err(format!("protobuf: wrong wire type for a number: {other:?}")),
        },
        Shape::Bytes => BASE64.encode(raw.bytes()?).into(),
        Shape::Quantity => {
            let text = first_text(raw.bytes()?)?;
            if text.is_empty() {
                "0".into()
            } else {
                text.into()
            }
        }
        Shape::IntOrString => int_or_string(raw.bytes()?)?,
        Shape::Time | Shape::MicroTime => time(raw.bytes()?, shape)?,
        Shape::Raw | Shape::Fields => embedded_json(raw.bytes()?)?,
        Shape::Strings => {
            let mut items = Vec::new();
            for field in wire::fields(raw.bytes()?) {
                if let (1, value) = field? {
                    items.push(Value::from(value.text()?));
                }
            }
            Value::Array(items)
        }
        Shape::Struct(index) => Value::Object(message(index, raw.bytes()?, depth)?),
    })
}

/// The text in field 1.
fn first_text(bytes: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    for field in wire::fields(bytes) {
        if let (1, value) = field? {
            text = value.text()?;
        }
    }
    Ok(text)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut kind, mut number, mut text) = (0, 0, String::new());
    for field in wire::fields(bytes) {
        match field? {
            (1, value) => kind = value.varint()?,
            (2, value) => number = value.varint()? as i32,
            (3, value) => text = value.text()?,
            _ => {}
        }
    }
    Ok(if kind == 1 {
        text.into()
    } else {
        number.into()
    })
}

/// An empty message is the zero time, which JSON shows as null.
fn time(bytes: &[u8], shape: Shape) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in wire::fields(bytes) {
        match field? {
            (1, value) => seconds = value.varint()? as i64,
            (2, value) => nanoseconds = value.varint()? as i32,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanoseconds).map_err(|error| error.to_string())?;
    Ok(if shape == Shape::Time {
        timestamp(at)
    } else {
        micro_timestamp(at)
    }
    .into())
}

fn embedded_json(bytes: &[u8]) -> Result<Value, String> {
    for field in wire::fields(bytes) {
        if let (1, value) = field? {
            let bytes = value.bytes()?;
            if !bytes.is_empty() {
                return serde_json::from_slice(bytes)
                    .map_err(|error| format!("embedded JSON: {error}"));
            }
        }
    }
    Ok(Value::Null)
}
