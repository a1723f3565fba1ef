//! Subresources that are acts rather than parts of an object.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod token;

use serde_json::{Value, json};

/// The Status that says that an act succeeded.
fn success() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
}
