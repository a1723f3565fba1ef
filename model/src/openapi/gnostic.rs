//! The v2 document in protobuf, as gnostic's `openapi.v2.Document` (field numbers from its `OpenAPIv2.proto`).
//!
//! Only what our own document uses is written. Extensions and defaults travel as YAML text, of which JSON is a part.

use serde_json::{Map, Value};

use crate::protobuf::wire::{put_bytes, put_number};

fn put_text(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        put_bytes(out, number, text.as_bytes());
    }
}

fn put_flag(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if value.and_then(Value::as_bool) == Some(true) {
        put_number(out, number, 1);
    }
}

fn put_texts(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    for text in value.and_then(Value::as_array).into_iter().flatten() {
        put_text(out, number, Some(text));
    }
}

/// `name` and `value` of one of gnostic's Named… messages.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, value);
    out
}

fn put_extensions(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Vec::new();
        put_bytes(&mut any, 2, format!("{value}\n").as_bytes());
        put_bytes(out, number, &named(name, &any));
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| value.as_object().map(|value| (name, value)))
}

pub fn document(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, document.get("swagger"));
    let mut info = Vec::new();
    put_text(&mut info, 1, document["info"].get("title"));
    put_text(&mut info, 2, document["info"].get("version"));
    put_bytes(&mut out, 2, &info);
    let mut paths = Vec::new();
    for (path, item) in entries(document.get("paths")) {
        put_bytes(&mut paths, 2, &named(path, &path_item(item)));
    }
    put_bytes(&mut out, 8, &paths);
    let mut definitions = Vec::new();
    for (name, definition) in entries(document.get("definitions")) {
        put_bytes(&mut definitions, 1, &named(name, &schema(definition)));
    }
    put_bytes(&mut out, 9, &definitions);
    out
}

fn path_item(item: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, number) in [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("patch", 8),
    ] {
        if let Some(Value::Object(map)) = item.get(method) {
            put_bytes(&mut out, number, &operation(map));
        }
    }
    put_parameters(&mut out, 9, item.get("parameters"));
    out
}

fn operation(operation: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 5, operation.get("operationId"));
    put_texts(&mut out, 6, operation.get("produces"));
    put_texts(&mut out, 7, operation.get("consumes"));
    put_parameters(&mut out, 8, operation.get("parameters"));
    let mut responses = Vec::new();
    for (code, response) in entries(operation.get("responses")) {
        let mut body = Vec::new();
        put_text(&mut body, 1, response.get("description"));
        if let Some(Value::Object(map)) = response.get("schema") {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, &schema(map));
            put_bytes(&mut body, 2, &item);
        }
        let mut value = Vec::new();
        put_bytes(&mut value, 1, &body);
        put_bytes(&mut responses, 1, &named(code, &value));
    }
    put_bytes(&mut out, 9, &responses);
    put_extensions(&mut out, 13, operation);
    out
}

fn put_parameters(out: &mut Vec<u8>, number: u32, list: Option<&Value>) {
    for parameter in list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
    {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &self::parameter(parameter));
        put_bytes(out, number, &item);
    }
}

/// Body, query and path parameters.
fn parameter(parameter: &Map<String, Value>) -> Vec<u8> {
    let place = parameter.get("in").and_then(Value::as_str).unwrap_or("");
    let mut out = Vec::new();
    if place == "body" {
        let mut body = Vec::new();
        put_text(&mut body, 1, parameter.get("description"));
        put_text(&mut body, 2, parameter.get("name"));
        put_text(&mut body, 3, parameter.get("in"));
        put_flag(&mut body, 4, parameter.get("required"));
        if let Some(Value::Object(map)) = parameter.get("schema") {
            put_bytes(&mut body, 5, &schema(map));
        }
        put_bytes(&mut out, 1, &body);
        return out;
    }
    // The two differ in that query parameters have one field more before their type.
    let (variant, kind, unique) = if place == "query" {
        (3, 6, 20)
    } else {
        (4, 5, 19)
    };
    let mut other = Vec::new();
    put_flag(&mut other, 1, parameter.get("required"));
    put_text(&mut other, 2, parameter.get("in"));
    put_text(&mut other, 3, parameter.get("description"));
    put_text(&mut other, 4, parameter.get("name"));
    put_text(&mut other, kind, parameter.get("type"));
    put_flag(&mut other, unique, parameter.get("uniqueItems"));
    let mut non_body = Vec::new();
    put_bytes(&mut non_body, variant, &other);
    put_bytes(&mut out, 2, &non_body);
    out
}

fn schema(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, map.get("$ref"));
    put_text(&mut out, 2, map.get("format"));
    put_text(&mut out, 4, map.get("description"));
    put_texts(&mut out, 19, map.get("required"));
    if let Some(Value::Object(inner)) = map.get("additionalProperties") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &schema(inner));
        put_bytes(&mut out, 21, &item);
    }
    if let Some(Value::String(kind)) = map.get("type") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, kind.as_bytes());
        put_bytes(&mut out, 22, &item);
    }
    if let Some(Value::Object(inner)) = map.get("items") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &schema(inner));
        put_bytes(&mut out, 23, &item);
    }
    if map.contains_key("properties") {
        let mut properties = Vec::new();
        for (name, property) in entries(map.get("properties")) {
            put_bytes(&mut properties, 1, &named(name, &schema(property)));
        }
        put_bytes(&mut out, 25, &properties);
    }
    put_extensions(&mut out, 31, map);
    out
}
