//! Types and unknown fields of incoming objects.
//!
//! The check also brings values into the one form Kubernetes stores: nulls are dropped, quantities and times are
//! written canonically, and unknown fields are pruned (or refused, as `fieldValidation` says).

mod document;
pub mod tree;
mod walk;

pub use document::{parse_json, parse_yaml};

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::Status;

/// Start of the names of Istio's types, whose old spellings are brought to today's before the check.
const ISTIO_PACKAGE: &str = "io.istio.networking.";

/// What to do about unknown and repeated fields: the query parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; the server's default is to warn.
    pub fn parse(text: &str) -> Result<FieldValidation, Status> {
        match text {
            "Ignore" => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let error = crate::status::FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["Ignore", "Strict", "Warn"],
                );
                Err(Status::invalid_kind(
                    "meta.k8s.io",
                    "CreateOptions",
                    "",
                    vec![error],
                ))
            }
        }
    }
}

/// Checks an object of a kind of the table. Returns warnings for the client; the object is normalised in place.
pub fn check(
    kind: &Kind,
    object: &mut Value,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    check_parsed(kind, object, Vec::new(), mode)
}

/// As [`check`], with the duplicates that [`parse_json`] or [`parse_yaml`] found.
pub fn check_parsed(
    kind: &Kind,
    object: &mut Value,
    duplicates: Vec<String>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    check_type(&kind.definition(), kind.version, object, duplicates, mode)
}

/// As [`check_parsed`], for any type in the tree by its OpenAPI name (`io.k8s.api.autoscaling.v1.Scale`).
pub fn check_type(
    definition: &str,
    version: &str,
    object: &mut Value,
    duplicates: Vec<String>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    let Some(root) = tree::tree().index(definition) else {
        return Err(Status::internal(format!("no schema for {definition}")));
    };
    let name = tree::tree().types[root].short_name();
    let old_spellings = if definition.starts_with(ISTIO_PACKAGE) {
        crate::istio::normalize(name, object)
    } else {
        Vec::new()
    };
    let refuse = |why: &str| {
        Status::bad_request(format!(
            "{name} in version {version:?} cannot be handled as a {name}: {why}"
        ))
    };
    let unknown = walk::walk(root, object).map_err(|error| refuse(&error))?;
    let mut faults: Vec<String> = unknown
        .into_iter()
        .map(|field| format!("unknown field {field:?}"))
        .collect();
    faults.extend(duplicates);
    let warned = |mut faults: Vec<String>| {
        faults.extend(old_spellings);
        faults
    };
    match mode {
        FieldValidation::Ignore => Ok(warned(Vec::new())),
        FieldValidation::Warn => Ok(warned(faults)),
        FieldValidation::Strict if faults.is_empty() => Ok(warned(Vec::new())),
        FieldValidation::Strict => Err(refuse(&format!(
            "strict decoding error: {}",
            faults.join(", ")
        ))),
    }
}
