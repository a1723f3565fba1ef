//! OpenAPI.
use serde_json::{Value, json};
pub fn v3_index() -> Value { json!({"paths": {}}) }
pub fn v3(_path: &str) -> Option<Value> { None }
pub fn v2() -> Value { json!({}) }
pub fn v3_index_bytes() -> &'static [u8] { b"" }
pub fn v3_bytes(_path: &str) -> Option<&'static [u8]> { None }
pub fn v2_bytes() -> &'static [u8] { b"" }
pub fn v2_protobuf() -> Vec<u8> { Vec::new() }
