//! ConfigMaps and Secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::{Errors, name, text};
use crate::status::FieldError;

/// All values of one ConfigMap or Secret together.
const CONTENT_MAX_BYTES: usize = 1024 * 1024;

fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

fn decoded_bytes(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .and_then(|text| BASE64.decode(text).ok())
        .unwrap_or_default()
}

pub fn config_map(object: &Value, errors: &mut Errors) {
    let mut total_bytes = 0;
    for (key, value) in entries(&object["data"]) {
        key_faults(key, "data", errors);
        if !object["binaryData"][key.as_str()].is_null() {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(
                format!("data[{key}]"),
                key.as_str(),
                detail,
            ));
        }
        total_bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(&object["binaryData"]) {
        key_faults(key, "binaryData", errors);
        total_bytes += decoded_bytes(value).len();
    }
    if total_bytes > CONTENT_MAX_BYTES {
        errors.push(FieldError::too_long("[]", CONTENT_MAX_BYTES));
    }
}

fn key_faults(key: &str, path: &str, errors: &mut Errors) {
    for fault in name::config_key(key) {
        errors.push(FieldError::invalid(format!("{path}[{key}]"), key, fault));
    }
}

pub fn secret(object: &Value, errors: &mut Errors) {
    let data = &object["data"];
    let mut total_bytes = 0;
    for (key, value) in entries(data) {
        key_faults(key, "data", errors);
        total_bytes += decoded_bytes(value).len();
    }
    if total_bytes > CONTENT_MAX_BYTES {
        errors.push(FieldError::too_long("data", CONTENT_MAX_BYTES));
    }
    let required = |key: &str, errors: &mut Errors| {
        if data[key].is_null() {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"], annotation).is_empty() {
                errors.push(FieldError::required(
                    format!("metadata.annotations[{annotation}]"),
                    "",
                ));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            errors.push(FieldError::required("data[username]", ""));
            errors.push(FieldError::required("data[password]", ""));
        }
        "kubernetes.io/ssh-auth" => required("ssh-privatekey", errors),
        "kubernetes.io/tls" => {
            required("tls.crt", errors);
            required("tls.key", errors);
        }
        _ => {}
    }
}

fn docker_config(data: &Value, key: &str, errors: &mut Errors) {
    let path = format!("data[{key}]");
    if data[key].is_null() {
        errors.push(FieldError::required(path, ""));
    } else if let Err(error) = serde_json::from_slice::<Value>(&decoded_bytes(&data[key])) {
        errors.push(FieldError::invalid(
            path,
            "<secret contents redacted>",
            error.to_string(),
        ));
    }
}

/// Once `immutable` is set, neither it nor the content changes.
pub fn update(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if old["immutable"].as_bool() != Some(true) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if new["immutable"].as_bool() != Some(true) {
        errors.push(FieldError::forbidden("immutable", detail));
    }
    for field in fields {
        let count = |object: &Value| object[*field].as_object().map_or(0, serde_json::Map::len);
        if new[*field] != old[*field] && !(count(new) == 0 && count(old) == 0) {
            errors.push(FieldError::forbidden(*field, detail));
        }
    }
}
