//! Why a call failed, and what the caller may conclude from it.

use tonic::Code;
use trireme_model::status::Status;

/// Metadata entry in which servers carry the Kubernetes Status, as JSON.
pub const STATUS_METADATA: &str = "trireme-status-bin";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused, in Kubernetes' words.
    #[error(transparent)]
    Status(Status),

    /// No server took the request before the deadline; it was certainly not carried out.
    #[error("{operation}: none of the servers {servers} took the request: {cause}")]
    Unreachable {
        operation: String,
        servers: String,
        cause: String,
    },

    /// The request was sent and its answer never came: it may or may not have been carried out.
    #[error("{operation}: the answer of {server} was lost: {cause}")]
    Lost {
        operation: String,
        server: String,
        cause: String,
    },

    /// The server answered something that is no object, or a gRPC error without a Status.
    #[error("{operation}: {server} answered {code:?}: {message}")]
    Protocol {
        operation: String,
        server: String,
        code: Code,
        message: String,
    },

    /// What was asked cannot be asked.
    #[error("{0}")]
    Request(String),
}

impl Error {
    /// The Kubernetes Status, when the API refused with one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Status(status) => Some(status),
            _ => None,
        }
    }

    fn has_code(&self, code: u16) -> bool {
        self.status().is_some_and(|status| status.code == code)
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.reason == reason)
    }

    pub fn is_not_found(&self) -> bool {
        self.has_code(404)
    }

    /// A precondition failed: read again, decide again.
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    pub fn is_invalid(&self) -> bool {
        self.has_code(422)
    }

    pub fn is_forbidden(&self) -> bool {
        self.has_code(403)
    }

    /// The revision or continue token asked for is gone: list again.
    pub fn is_gone(&self) -> bool {
        self.has_code(410)
    }

    /// Nobody knows whether the request was carried out: read again, or repeat what does no harm twice.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::Lost { .. }) || self.has_code(504)
    }

    /// Nothing was decided about the request, so the same request may be made again later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Status(status) => matches!(status.code, 429 | 503),
            _ => false,
        }
    }
}

/// The Kubernetes Status inside a gRPC error.
pub(crate) fn status_of(error: &tonic::Status) -> Option<Status> {
    let bytes = error.metadata().get_bin(STATUS_METADATA)?.to_bytes().ok()?;
    let value = serde_json::from_slice(&bytes).ok()?;
    Status::from_value(&value)
}
