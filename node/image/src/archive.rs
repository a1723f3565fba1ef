//! Images in files: `docker save` archives and OCI layouts, in a tar.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::ConfigFile;
use crate::digest;
use crate::error::ImageError;
use crate::layer::{Layers, decompress};
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::pull::parse_config;
use crate::reference::Reference;
use crate::unpack;

/// Manifests, indexes and configurations.
const DOCUMENT_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Where containerd's tools keep the full name.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, its layers already in place.
pub(crate) struct Imported {
    pub id: String,
    pub names: Vec<Reference>,
    pub config: ConfigFile,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Imports every image of the archive.
pub(crate) fn import(
    layers: &Layers,
    archive: &Path,
    name: Option<&Reference>,
) -> Result<Vec<Imported>, ImageError> {
    let opened = Opened::new(layers, archive)?;
    if let Some(bytes) = opened.document("manifest.json")? {
        return opened.docker(layers, &bytes, name);
    }
    if let Some(bytes) = opened.document("index.json")? {
        return opened.layout(layers, &bytes, name);
    }
    Err(opened.refuse("it has neither manifest.json nor index.json"))
}

/// The archive's files, in a directory that goes away with this.
struct Opened {
    root: PathBuf,
    shown: String,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // What stays is taken away by the next start.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Opened {
    fn new(layers: &Layers, archive: &Path) -> Result<Self, ImageError> {
        let file = File::open(archive).map_err(|e| ImageError::io("open", archive, e))?;
        let root = layers.temporary("archive");
        fs::create_dir_all(&root).map_err(|e| ImageError::io("create", &root, e))?;
        let opened = Opened {
            root,
            shown: archive.display().to_string(),
        };
        let plain = decompress(file).map_err(|e| ImageError::io("read", archive, e))?;
        unpack::unpack(plain, &opened.root, "archive")?;
        Ok(opened)
    }

    fn refuse(&self, cause: impl std::fmt::Display) -> ImageError {
        ImageError::InvalidImage {
            reference: self.shown.clone(),
            cause: cause.to_string(),
        }
    }

    /// A file of the archive; symlinks (old `docker save` has them) stay
    /// inside.
    fn file(&self, name: &str) -> Result<File, ImageError> {
        match unpack::open_in_root(&self.root, name) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(self.refuse(format!("{name} is not a file"))),
            Err(e) => Err(self.refuse(format!("{name}: {e}"))),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.file(name)?
            .take(DOCUMENT_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.refuse(format!("{name}: {e}")))?;
        if bytes.len() as u64 > DOCUMENT_MAX_BYTES {
            return Err(ImageError::TooLarge {
                what: format!("{name} of {}", self.shown),
                limit: DOCUMENT_MAX_BYTES,
            });
        }
        Ok(bytes)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match unpack::open_in_root(&self.root, name) {
            Ok(Some(_)) => self.read(name).map(Some),
            Ok(None) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.refuse(format!("{name}: {e}"))),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> String {
        format!("blobs/{}", descriptor.digest.replace(':', "/"))
    }

    fn unpack_layer(&self, layers: &Layers, name: &str, diff_id: &str) -> Result<(), ImageError> {
        let lock = layers.lock_for(diff_id);
        let _held = lock.blocking_lock();
        if layers.size_bytes(diff_id).is_none() {
            layers.unpack(self.file(name)?, diff_id)?;
        }
        Ok(())
    }

    fn docker(
        &self,
        layers: &Layers,
        bytes: &[u8],
        name: Option<&Reference>,
    ) -> Result<Vec<Imported>, ImageError> {
        let entries: Vec<DockerEntry> = serde_json::from_slice(bytes)
            .map_err(|e| self.refuse(format!("manifest.json: {e}")))?;
        let mut images = Vec::new();
        for entry in &entries {
            let bytes = self.read(&entry.config)?;
            let config: ConfigFile = serde_json::from_slice(&bytes)
                .map_err(|e| self.refuse(format!("{}: {e}", entry.config)))?;
            if config.rootfs.diff_ids.len() != entry.layers.len() {
                return Err(self.refuse("its configuration and manifest name different layers"));
            }
            for (layer, diff_id) in entry.layers.iter().zip(&config.rootfs.diff_ids) {
                if !crate::reference::is_digest(diff_id) {
                    return Err(self.refuse(format!("unsupported layer digest {diff_id:?}")));
                }
                self.unpack_layer(layers, layer, diff_id)?;
            }
            let mut names = Vec::new();
            for tag in entry.repo_tags.iter().flatten() {
                names.push(Reference::parse(tag)?);
            }
            images.push(Imported {
                id: digest::of(&bytes),
                names: self.names(names, name, entries.len())?,
                config,
            });
        }
        Ok(images)
    }

    fn layout(
        &self,
        layers: &Layers,
        bytes: &[u8],
        name: Option<&Reference>,
    ) -> Result<Vec<Imported>, ImageError> {
        let Document::Index(list) = manifest::parse(bytes, &self.shown)? else {
            return Err(self.refuse("index.json is no index"));
        };
        let mut images = Vec::new();
        for entry in &list {
            let manifest = self.manifest(entry, true)?;
            let config_bytes = self.read(&self.blob(&manifest.config))?;
            digest::verify("configuration", &config_bytes, &manifest.config.digest)?;
            let config = parse_config(&config_bytes, &manifest, &self.shown)?;
            for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
                self.unpack_layer(layers, &self.blob(layer), diff_id)?;
            }
            let own = entry
                .annotations
                .get(NAME_ANNOTATION)
                .or_else(|| {
                    // A bare tag is no name.
                    entry
                        .annotations
                        .get(TAG_ANNOTATION)
                        .filter(|t| t.contains(['/', ':']))
                })
                .map(|text| Reference::parse(text))
                .transpose()?;
            images.push(Imported {
                id: manifest.config.digest.clone(),
                names: self.names(own.into_iter().collect(), name, list.len())?,
                config,
            });
        }
        Ok(images)
    }

    fn manifest(&self, entry: &Descriptor, may_be_index: bool) -> Result<Manifest, ImageError> {
        let bytes = self.read(&self.blob(entry))?;
        digest::verify("manifest", &bytes, &entry.digest)?;
        match manifest::parse(&bytes, &self.shown)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(list) if may_be_index => {
                self.manifest(&manifest::choose(&list, &self.shown)?, false)
            }
            Document::Index(_) => Err(self.refuse("an index within an index")),
        }
    }

    /// The name asked for, or the archive's own.
    fn names(
        &self,
        own: Vec<Reference>,
        wanted: Option<&Reference>,
        images: usize,
    ) -> Result<Vec<Reference>, ImageError> {
        match wanted {
            Some(_) if images > 1 => Err(self.refuse(format!(
                "it holds {images} images; one name cannot be all theirs"
            ))),
            Some(wanted) => Ok(vec![wanted.clone()]),
            None if own.is_empty() => Err(self.refuse("it names no image; give it a name")),
            None => Ok(own),
        }
    }
}
