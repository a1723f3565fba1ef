//! Validation.
use serde_json::Value;
use crate::{kinds::Kind, status::FieldError};
pub fn create(_kind: &Kind, _object: &Value) -> Vec<FieldError> { Vec::new() }
pub fn update(_kind: &Kind, _new: &Value, _old: &Value) -> Vec<FieldError> { Vec::new() }
pub fn status_update(_kind: &Kind, _new: &Value, _old: &Value) -> Vec<FieldError> { Vec::new() }
