//! Types and unknown fields of incoming objects.
use serde_json::Value;
use crate::{kinds::Kind, status::Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation { Ignore, Warn, Strict }

pub fn check(_kind: &Kind, _object: &mut Value, _mode: FieldValidation) -> Result<Vec<String>, Status> { Ok(Vec::new()) }
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> { serde_json::from_slice(bytes).map(|value| (value, Vec::new())).map_err(|error| Status::bad_request(error.to_string())) }
pub fn parse_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> { serde_yaml_ng::from_slice(bytes).map(|value| (value, Vec::new())).map_err(|error| Status::bad_request(error.to_string())) }
