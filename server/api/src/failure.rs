//! Errors that only the API makes, in Kubernetes' words; the rest are [`Status`]'s own constructors.

use serde_json::{Value, json};
use trireme_model::kinds::NAMESPACE;
use trireme_model::status::Status;

use crate::identity::Identity;

/// Seconds after which a client may try again while the cluster has no leader: elections take
/// well under a second.
pub const RETRY_AFTER_SECONDS: u32 = 1;

pub fn namespace_not_found(name: &str) -> Status {
    Status::not_found(NAMESPACE, name)
}

/// RBAC refuses the request.
pub fn forbidden_resource(
    identity: &Identity,
    verb: &str,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: Option<&str>,
    name: &str,
) -> Status {
    let full = if subresource.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{subresource}")
    };
    let place = match namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let group_resource = if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    };
    let subject = if name.is_empty() {
        group_resource
    } else {
        format!("{group_resource} {name:?}")
    };
    let mut details = json!({ "kind": resource });
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !group.is_empty() {
        details["group"] = group.into();
    }
    let user = &identity.user;
    let message = format!(
        "{subject} is forbidden: User {user:?} cannot {verb} resource {full:?} in API group {group:?} {place}"
    );
    Status::new(403, "Forbidden", message, Some(details))
}

pub fn forbidden_path(identity: &Identity, verb: &str, path: &str) -> Status {
    let message = format!(
        "forbidden: User {:?} cannot {verb} path {path:?}",
        identity.user
    );
    Status::new(403, "Forbidden", message, Some(json!({})))
}

pub fn too_large(limit_bytes: usize) -> Status {
    Status::new(
        413,
        "RequestEntityTooLarge",
        format!("Request entity too large: limit is {limit_bytes}"),
        None,
    )
}

/// The cluster cannot answer now; trying again later is right.
pub fn unavailable(message: impl Into<String>) -> Status {
    Status::new(503, "ServiceUnavailable", message, retry_after())
}

/// The caller has seen a newer state than this server has.
pub fn version_too_large(wanted: u64, have: u64) -> Status {
    Status::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {wanted}, current: {have}"),
        Some(json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": RETRY_AFTER_SECONDS,
        })),
    )
}

fn retry_after() -> Option<Value> {
    Some(json!({ "retryAfterSeconds": RETRY_AFTER_SECONDS }))
}
