//! Refusals in Kubernetes' own words, codes and reasons (`metav1.Status`).

mod field;

pub use field::{FieldError, FieldErrorKind};

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// Why a request was refused. `Display` is the message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: String,
    pub message: String,
    /// `metav1.StatusDetails`, where there are any.
    pub details: Option<Value>,
}

/// Names a resource in details and messages; group-resource for most errors, group-kind for `Invalid`.
fn details(group: &str, kind: &str, name: &str) -> Map<String, Value> {
    let mut details = Map::new();
    if !name.is_empty() {
        details.insert("name".to_owned(), name.into());
    }
    if !group.is_empty() {
        details.insert("group".to_owned(), group.into());
    }
    if !kind.is_empty() {
        details.insert("kind".to_owned(), kind.into());
    }
    details
}

impl Status {
    pub fn new(
        code: u16,
        reason: &str,
        message: impl Into<String>,
        details: Option<Value>,
    ) -> Status {
        Status {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details,
        }
    }

    fn about(kind: &Kind, name: &str, code: u16, reason: &str, message: String) -> Status {
        Status::new(
            code,
            reason,
            message,
            Some(Value::Object(details(kind.group, kind.plural, name))),
        )
    }

    pub fn not_found(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {name:?} not found", kind.group_resource());
        Status::about(kind, name, 404, "NotFound", message)
    }

    /// For a path that names no resource at all.
    pub fn path_not_found() -> Status {
        Status::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
            Some(json!({})),
        )
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", kind.group_resource());
        Status::about(kind, name, 409, "AlreadyExists", message)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.group_resource()
        );
        Status::about(kind, name, 409, "Conflict", message)
    }

    /// The write was based on an older version of the object than the stored one.
    pub fn modified(kind: &Kind, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(kind, name, why)
    }

    /// The object is not what its kind allows; answers with every fault found. `errors` must not be empty.
    pub fn invalid(kind: &Kind, name: &str, errors: Vec<FieldError>) -> Status {
        Status::invalid_kind(kind.group, kind.kind, name, errors)
    }

    /// As [`Status::invalid`], for kinds outside the table (`DeleteOptions`, `Scale`).
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Status {
        let mut messages: Vec<String> = Vec::new();
        for error in &errors {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let joined = match messages.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut details = details(group, kind, name);
        details.insert(
            "causes".to_owned(),
            errors.iter().map(FieldError::cause).collect(),
        );
        let message = format!("{qualified} {name:?} is invalid: {joined}");
        Status::new(422, "Invalid", message, Some(Value::Object(details)))
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message, None)
    }

    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let subject = if name.is_empty() {
            kind.group_resource()
        } else {
            format!("{} {name:?}", kind.group_resource())
        };
        Status::about(
            kind,
            name,
            403,
            "Forbidden",
            format!("{subject} is forbidden: {why}"),
        )
    }

    /// For a path outside resources, such as `/metrics`.
    pub fn forbidden_path(why: &str) -> Status {
        Status::new(
            403,
            "Forbidden",
            format!("forbidden: {why}"),
            Some(json!({})),
        )
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized", None)
    }

    /// The revision asked for has been compacted, or a continue token is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message, None)
    }

    pub fn gone(message: impl Into<String>) -> Status {
        Status::new(410, "Gone", message, None)
    }

    pub fn method_not_allowed(kind: &Kind, action: &str) -> Status {
        let message = format!(
            "{action} is not supported on resources of kind {:?}",
            kind.group_resource()
        );
        Status::about(kind, "", 405, "MethodNotAllowed", message)
    }

    /// For a path that names no resource.
    pub fn method_not_allowed_here() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::new(405, "MethodNotAllowed", message, Some(json!({})))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message, None)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!(
            "only the following media types are accepted: {}",
            accepted.join(", ")
        );
        Status::new(406, "NotAcceptable", message, None)
    }

    pub fn too_large(limit_bytes: usize) -> Status {
        let message = format!("Request entity is too large: limit is {limit_bytes}");
        Status::new(413, "RequestEntityTooLarge", message, None)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let details = json!({"retryAfterSeconds": retry_after_seconds});
        Status::new(429, "TooManyRequests", message, Some(details))
    }

    pub fn internal(cause: impl Into<String>) -> Status {
        let cause = cause.into();
        let message = format!("Internal error occurred: {cause}");
        Status::new(
            500,
            "InternalError",
            message,
            Some(json!({"causes": [{"message": cause}]})),
        )
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut details = Map::new();
        if retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".to_owned(), retry_after_seconds.into());
        }
        Status::new(
            504,
            "Timeout",
            format!("Timeout: {}", message.into()),
            Some(Value::Object(details)),
        )
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message, None)
    }

    /// The `metav1.Status` object to answer with.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }

    /// Reads a `metav1.Status`, as a client of the API gets it.
    pub fn from_value(value: &Value) -> Option<Status> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
        if text("kind") != "Status" || text("status") == "Success" {
            return None;
        }
        let code = value
            .get("code")
            .and_then(Value::as_u64)
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(500);
        Some(Status::new(
            code,
            text("reason"),
            text("message"),
            value.get("details").cloned(),
        ))
    }

    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }
}

/// The `metav1.Status` that says a deletion went well.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = details(kind.group, kind.plural, name);
    if !uid.is_empty() {
        details.insert("uid".to_owned(), uid.into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn messages_are_those_of_kubernetes() {
        let pod = kinds::POD;
        let deployment = kinds::DEPLOYMENT;
        assert_eq!(Status::not_found(pod, "x").message, r#"pods "x" not found"#);
        assert_eq!(
            Status::already_exists(deployment, "x").message,
            r#"deployments.apps "x" already exists"#
        );
        assert_eq!(
            Status::modified(pod, "x").message,
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; \
             please apply your changes to the latest version and try again"
        );
        let errors = vec![FieldError::required("spec.containers[0].image", "")];
        let invalid = Status::invalid(pod, "x", errors);
        assert_eq!(
            invalid.message,
            r#"Pod "x" is invalid: spec.containers[0].image: Required value"#
        );
        assert_eq!(
            invalid.details,
            Some(json!({"name": "x", "kind": "Pod", "causes": [{
                "reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].image"}]}))
        );
        let errors = vec![
            FieldError::not_supported("spec.type", "X", &["A", "B"]),
            FieldError::duplicate("spec.ports[1].name", "http"),
        ];
        assert_eq!(
            Status::invalid(deployment, "x", errors).message,
            "Deployment.apps \"x\" is invalid: [spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\", \
             spec.ports[1].name: Duplicate value: \"http\"]"
        );
        assert_eq!(
            Status::forbidden(pod, "", "no").message,
            "pods is forbidden: no"
        );
    }

    #[test]
    fn a_status_survives_the_wire() {
        let status = Status::too_many_requests("slow down", 3);
        assert_eq!(Status::from_value(&status.to_value()), Some(status.clone()));
        assert_eq!(status.retry_after_seconds(), Some(3));
        assert_eq!(Status::from_value(&success(kinds::POD, "x", "")), None);
    }
}
