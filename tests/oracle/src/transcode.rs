//! Envoy's JSON to its messages, so that both proxies are given one and the same text.

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value,
};
use serde_json::Value as Json;
use trireme_xds::pb::google::protobuf::Any;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));

fn pool() -> Result<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok())
        .as_ref()
        .context("the descriptors that the build wrote cannot be read")
}

/// A message of a type, packed.
pub fn pack(full_name: &str, json: &Json) -> Result<Any> {
    let message = of_type(full_name, json).with_context(|| full_name.to_owned())?;
    Ok(Any {
        type_url: format!("type.googleapis.com/{full_name}"),
        value: message.encode_to_vec(),
    })
}

fn of_type(full_name: &str, json: &Json) -> Result<DynamicMessage> {
    let descriptor = pool()?
        .get_message_by_name(full_name)
        .with_context(|| format!("no message {full_name}"))?;
    message(descriptor, json)
}

fn message(descriptor: MessageDescriptor, json: &Json) -> Result<DynamicMessage> {
    match descriptor.full_name() {
        "google.protobuf.Any" => return any(descriptor, json),
        "google.protobuf.Duration" => return duration(descriptor, json),
        "google.protobuf.Struct" => return structure(descriptor, json),
        "google.protobuf.Value" => return value(descriptor, json),
        _ => {}
    }
    let mut made = DynamicMessage::new(descriptor.clone());
    let wrapper = descriptor.full_name().starts_with("google.protobuf.")
        && descriptor.full_name().ends_with("Value");
    if wrapper && !json.is_object() {
        let field = descriptor.get_field(1).context("a wrapper has one field")?;
        made.set_field(&field, single(&field.kind(), json)?);
        return Ok(made);
    }
    let object = json
        .as_object()
        .with_context(|| format!("{} is no object: {json}", descriptor.full_name()))?;
    for (name, json) in object {
        if name == "@type" {
            continue;
        }
        let field = descriptor
            .get_field_by_name(name)
            .or_else(|| descriptor.get_field_by_json_name(name))
            .with_context(|| format!("{} has no field {name}", descriptor.full_name()))?;
        let value = field_value(&field, json).with_context(|| name.clone())?;
        made.set_field(&field, value);
    }
    Ok(made)
}

fn field_value(field: &FieldDescriptor, json: &Json) -> Result<Value> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            bail!("a map of no entries")
        };
        let kind = entry.map_entry_value_field().kind();
        let mut map = std::collections::HashMap::new();
        for (key, json) in json.as_object().context("a map is an object")? {
            map.insert(MapKey::String(key.clone()), single(&kind, json)?);
        }
        return Ok(Value::Map(map));
    }
    if field.cardinality() == Cardinality::Repeated {
        let items = json.as_array().context("a repeated field is a list")?;
        let values: Result<Vec<Value>> = items
            .iter()
            .map(|item| single(&field.kind(), item))
            .collect();
        return Ok(Value::List(values?));
    }
    single(&field.kind(), json)
}

fn single(kind: &Kind, json: &Json) -> Result<Value> {
    let integer = || -> Result<i64> {
        match json {
            Json::String(text) => Ok(text.parse()?),
            other => other
                .as_i64()
                .with_context(|| format!("{json} is no integer")),
        }
    };
    Ok(match kind {
        Kind::Bool => Value::Bool(json.as_bool().context("no boolean")?),
        Kind::String => Value::String(json.as_str().context("no text")?.to_owned()),
        Kind::Bytes => Value::Bytes(json.as_str().context("no text")?.as_bytes().to_vec().into()),
        Kind::Double => Value::F64(json.as_f64().context("no number")?),
        #[expect(clippy::cast_possible_truncation, reason = "the field is as narrow")]
        Kind::Float => Value::F32(json.as_f64().context("no number")? as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer()?.try_into()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer()?.try_into()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer()?.try_into()?),
        Kind::Enum(names) => match json {
            Json::String(name) => Value::EnumNumber(
                names
                    .get_value_by_name(name)
                    .with_context(|| format!("{} has no {name}", names.full_name()))?
                    .number(),
            ),
            _ => Value::EnumNumber(integer()?.try_into()?),
        },
        Kind::Message(descriptor) => Value::Message(message(descriptor.clone(), json)?),
    })
}

fn any(descriptor: MessageDescriptor, json: &Json) -> Result<DynamicMessage> {
    let url = json["@type"].as_str().context("an Any without @type")?;
    let name = url.rsplit('/').next().unwrap_or(url);
    let inner = of_type(name, json).with_context(|| name.to_owned())?;
    let mut made = DynamicMessage::new(descriptor);
    made.set_field_by_name("type_url", Value::String(url.to_owned()));
    made.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
    Ok(made)
}

fn duration(descriptor: MessageDescriptor, json: &Json) -> Result<DynamicMessage> {
    let text = json.as_str().context("a duration is text")?;
    let seconds = text.strip_suffix('s').context("a duration ends with s")?;
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, ""));
    let mut made = DynamicMessage::new(descriptor);
    made.set_field_by_name("seconds", Value::I64(whole.parse()?));
    made.set_field_by_name("nanos", Value::I32(format!("{part:0<9}").parse()?));
    Ok(made)
}

fn structure(descriptor: MessageDescriptor, json: &Json) -> Result<DynamicMessage> {
    let mut made = DynamicMessage::new(descriptor.clone());
    let field = descriptor
        .get_field_by_name("fields")
        .context("a struct has fields")?;
    made.set_field(&field, field_value(&field, json)?);
    Ok(made)
}

fn value(descriptor: MessageDescriptor, json: &Json) -> Result<DynamicMessage> {
    let (name, value) = match json {
        Json::Null => ("null_value", Value::EnumNumber(0)),
        Json::Bool(it) => ("bool_value", Value::Bool(*it)),
        Json::Number(it) => ("number_value", Value::F64(it.as_f64().context("a number")?)),
        Json::String(it) => ("string_value", Value::String(it.clone())),
        Json::Object(_) => {
            let field = descriptor
                .get_field_by_name("struct_value")
                .context("a value may be a struct")?;
            ("struct_value", single(&field.kind(), json)?)
        }
        Json::Array(_) => bail!("lists are not needed in metadata here"),
    };
    let mut made = DynamicMessage::new(descriptor);
    made.set_field_by_name(name, value);
    Ok(made)
}
