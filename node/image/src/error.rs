//! What can go wrong with an image, in the registry's words where it spoke.

use std::path::{Path, PathBuf};

/// Every failure of this crate; the `Display` text is fit for a container's
/// `ErrImagePull` message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error("couldn't parse image name {reference:?}: {cause}")]
    InvalidReference { reference: String, cause: String },
    /// The registry knows no such repository, tag or digest.
    #[error("failed to pull image {reference:?}: not found: {cause}")]
    NotFound { reference: String, cause: String },
    /// The registry wants other credentials, or any.
    #[error("failed to pull image {reference:?}: pull access denied: {cause}")]
    Denied { reference: String, cause: String },
    /// The registry could not be reached, or answered otherwise than it should.
    #[error("failed to pull image {reference:?}: {cause}")]
    Pull { reference: String, cause: String },
    #[error("image {reference:?} has no manifest for platform {platform}; it has {available}")]
    NoPlatform {
        reference: String,
        platform: String,
        available: String,
    },
    /// Content that is not what its digest says.
    #[error("{what}: expected digest {expected}, got {actual}")]
    Digest {
        what: String,
        expected: String,
        actual: String,
    },
    /// An archive that is damaged, or that tries what none may.
    #[error("layer {layer}: {path:?}: {cause}")]
    Layer {
        layer: String,
        path: String,
        cause: String,
    },
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge { what: String, limit: u64 },
    #[error("image {reference:?} is invalid: {cause}")]
    InvalidImage { reference: String, cause: String },
    #[error("image {reference:?} is not on this node")]
    Absent { reference: String },
    #[error("registries configuration {path}: {cause}", path = path.display())]
    Registries { path: PathBuf, cause: String },
    #[error("pull secret: {cause}")]
    PullSecret { cause: String },
    /// The user or group a container is to run as is not in the image.
    #[error("unable to find {kind} {name}: no matching entries in {file} of the image")]
    UnknownUser {
        kind: &'static str,
        name: String,
        file: &'static str,
    },
    #[error("{operation} {path}: {cause}", path = path.display())]
    Io {
        operation: String,
        path: PathBuf,
        cause: String,
    },
}

impl ImageError {
    pub(crate) fn io(
        operation: impl Into<String>,
        path: impl AsRef<Path>,
        cause: impl std::fmt::Display,
    ) -> Self {
        ImageError::Io {
            operation: operation.into(),
            path: path.as_ref().to_path_buf(),
            cause: cause.to_string(),
        }
    }

    /// Kubernetes' reason for a container that waits for this image.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::InvalidReference { .. } => "InvalidImageName",
            _ => "ErrImagePull",
        }
    }
}
