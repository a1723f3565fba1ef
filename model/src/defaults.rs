//! Defaults.
use serde_json::Value;
use crate::kinds::Kind;
pub fn apply(_kind: &Kind, _object: &mut Value) {}
