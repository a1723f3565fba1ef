//! What can go wrong with a container, in words its owner understands.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Every failure of this crate. The `Display` text is fit for a pod's status
/// message and events.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ContainerError {
    /// The program could not be executed: not found, not executable, wrong
    /// format. Kubernetes shows it as `StartError` with exit code 128.
    #[error("{message}")]
    Start { message: String },
    /// The container could not be set up: a mount, a namespace, a user, a
    /// limit. Kubernetes shows it as `ContainerCannotRun` or
    /// `CreateContainerError`.
    #[error("{message}")]
    Create { message: String },
    /// The specification is wrong; `field` names the part.
    #[error("{field}: {message}")]
    InvalidSpec { field: String, message: String },
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("container {id} exists already")]
    Exists { id: String },
    #[error("container {id} is not running")]
    NotRunning { id: String },
    /// The shim ended or fell silent without an answer.
    #[error("container {id}: the shim failed while {operation}: {cause}")]
    Shim {
        id: String,
        operation: String,
        cause: String,
    },
    #[error("{operation} {path}: {cause}", path = path.display())]
    Io {
        operation: String,
        path: PathBuf,
        cause: String,
    },
    #[error("cgroup {path}: {operation}: {cause}")]
    Cgroup {
        path: String,
        operation: String,
        cause: String,
    },
    /// The time the caller allowed has passed.
    #[error("{operation} timed out after {timeout_ms} ms")]
    Timeout { operation: String, timeout_ms: u64 },
}

impl ContainerError {
    pub(crate) fn io(
        operation: impl Into<String>,
        path: impl AsRef<Path>,
        cause: impl std::fmt::Display,
    ) -> Self {
        ContainerError::Io {
            operation: operation.into(),
            path: path.as_ref().to_path_buf(),
            cause: cause.to_string(),
        }
    }

    pub(crate) fn create(message: impl Into<String>) -> Self {
        ContainerError::Create {
            message: message.into(),
        }
    }

    pub(crate) fn shim(
        id: impl Into<String>,
        operation: impl Into<String>,
        cause: impl std::fmt::Display,
    ) -> Self {
        ContainerError::Shim {
            id: id.into(),
            operation: operation.into(),
            cause: cause.to_string(),
        }
    }

    /// Kubernetes' reason for a container status in this condition.
    pub fn reason(&self) -> &'static str {
        match self {
            ContainerError::Start { .. } => "StartError",
            ContainerError::Create { .. } => "ContainerCannotRun",
            ContainerError::InvalidSpec { .. } => "CreateContainerConfigError",
            _ => "CreateContainerError",
        }
    }
}

/// A system error without its number: `no such file or directory`.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}
