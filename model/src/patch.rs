//! The three classic patches: JSON patch (RFC 6902), merge patch (RFC 7396) and Kubernetes'
//! strategic merge patch.
//!
//! Each takes the object as it is and the patch, and returns the object as it would be, or the
//! status that Kubernetes answers with. What the result may contain is the schema check's and
//! validation's question.

pub(crate) mod shape;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::status::Status;

/// Operations one JSON patch may hold, as in Kubernetes: each may copy the whole document.
pub const JSON_PATCH_MAX_OPERATIONS: usize = 10_000;

/// Largest document that a JSON patch may grow to: `copy` operations double it otherwise until
/// memory ends. Twice the largest object that the API stores.
pub const JSON_PATCH_MAX_BYTES: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Status> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let operations = patch.0;
    if operations.len() > JSON_PATCH_MAX_OPERATIONS {
        return Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "The allowed maximum operations in a JSON patch is {JSON_PATCH_MAX_OPERATIONS}, got {}",
                operations.len()
            ),
            None,
        ));
    }
    let mut patched = object.clone();
    for operation in &operations {
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| rejected(&error.to_string()))?;
        // Only a copy makes the document larger than document and patch together.
        if matches!(operation, json_patch::PatchOperation::Copy(_))
            && encoded_bytes(&patched) > JSON_PATCH_MAX_BYTES
        {
            return Err(Status::too_large(JSON_PATCH_MAX_BYTES));
        }
    }
    if !patched.is_object() {
        return Err(rejected("the patched document is not an object"));
    }
    Ok(patched)
}

/// Applies a merge patch.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request(
            "error decoding patch: a merge patch must be a JSON object",
        ));
    }
    let mut patched = object.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

/// Applies a strategic merge patch: lists that have a merge key are merged item by item.
pub fn strategic(kind: &Kind, object: &Value, patch: &Value) -> Result<Value, Status> {
    let (Some(object), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(Status::bad_request(
            "error decoding patch: a strategic merge patch must be a JSON object",
        ));
    };
    strategic::merge_map(object.clone(), patch, shape::root(kind)).map(Value::Object)
}

/// The patch is well formed and does not fit the object.
fn rejected(cause: &str) -> Status {
    Status::new(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
        Some(json!({"causes": [{"message": cause}]})),
    )
}

fn encoded_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and a Value always serializes.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}
