//! The images of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::archive;
use crate::config::{ConfigFile, ImageConfig};
use crate::credentials::PullSecrets;
use crate::digest;
use crate::error::ImageError;
use crate::layer::{Layers, lock};
use crate::pull;
use crate::reference::Reference;
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
    registries: Registries,
    layers: Arc<Layers>,
    index: Mutex<Index>,
}

/// What `images.json` holds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Record>,
    names: BTreeMap<String, Name>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    config: ImageConfig,
    /// Digests of the plain layers, the base first.
    layers: Vec<String>,
    /// Imported by hand: never collected.
    kept: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Name {
    id: String,
    digest_reference: String,
}

const INDEX_FILE: &str = "images.json";
const TEMPORARY_DIR: &str = "unfinished";

impl ImageStore {
    /// Opens (or makes) a store; what an interrupted pull left is removed.
    pub async fn open(root: &Path, registries: Registries) -> Result<Self, ImageError> {
        let temporary = root.join(TEMPORARY_DIR);
        match fs::remove_dir_all(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::io("remove", &temporary, e));
            }
            _ => {}
        }
        fs::create_dir_all(&temporary).map_err(|e| ImageError::io("create", &temporary, e))?;
        let layers = Layers::open(root.join("layers"), temporary)?;
        let path = root.join(INDEX_FILE);
        let mut index: Index = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| ImageError::io("decode", &path, e))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(e) => return Err(ImageError::io("read", &path, e)),
        };
        // An image counts only with all its layers.
        index
            .images
            .retain(|_, r| r.layers.iter().all(|l| layers.size_bytes(l).is_some()));
        let images = &index.images;
        index.names.retain(|_, n| images.contains_key(&n.id));
        Ok(ImageStore {
            inner: Arc::new(Inner {
                root: root.to_path_buf(),
                registries,
                layers: Arc::new(layers),
                index: Mutex::new(index),
            }),
        })
    }

    /// The image of this name (or id), if it is here. Tags are as last pulled.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let index = lock(&self.inner.index);
        if index.images.contains_key(reference) {
            return Ok(self.image(&index, reference, None));
        }
        let parsed = Reference::parse(reference)?;
        let name = index.names.get(&key(&parsed));
        Ok(name.and_then(|n| self.image(&index, &n.id, Some(&n.digest_reference))))
    }

    /// Fetches it from its registry (or mirrors): asks for the manifest anew,
    /// downloads only layers that are not here.
    pub async fn pull(&self, reference: &str, secrets: &PullSecrets) -> Result<Image, ImageError> {
        let parsed = Reference::parse(reference)?;
        let found = pull::find(&self.inner.registries, &parsed, secrets).await?;
        let id = found.id().to_string();
        let record = Record {
            config: found.config.image_config(),
            layers: found.config.rootfs.diff_ids.clone(),
            kept: false,
        };
        let by_digest = Reference {
            tag: None,
            digest: Some(found.digest.clone()),
            ..parsed.clone()
        };
        let digest_reference = by_digest.to_string();
        let _pin = self.inner.layers.pin(&record.layers);
        pull::fetch_layers(&self.inner.layers, found, &parsed).await?;
        self.record(
            &id,
            record,
            &[key(&parsed), key(&by_digest)],
            &digest_reference,
        )
    }

    /// Makes an image of one layer given as a plain tar archive. An image that had this name before
    /// and has no other goes with the next `collect` that finds it unused.
    pub async fn import_builtin(
        &self,
        reference: &str,
        config: &ImageConfig,
        layer_tar: &[u8],
    ) -> Result<Image, ImageError> {
        let parsed = Reference::parse(reference)?;
        let diff_id = digest::of(layer_tar);
        let file = ConfigFile::from_image_config(config, vec![diff_id.clone()]);
        let bytes = serde_json::to_vec(&file).map_err(|e| ImageError::InvalidImage {
            reference: reference.to_string(),
            cause: e.to_string(),
        })?;
        let id = digest::of(&bytes);
        let record = Record {
            config: config.clone(),
            layers: vec![diff_id.clone()],
            kept: true,
        };
        let _pin = self.inner.layers.pin(&record.layers);
        let held = self.inner.layers.lock_for(&diff_id).lock_owned().await;
        if self.inner.layers.size_bytes(&diff_id).is_none() {
            let layers = self.inner.layers.clone();
            let archive = layer_tar.to_vec();
            blocking(reference, move || {
                let _held = held;
                layers.unpack(archive.as_slice(), &diff_id).map(drop)
            })
            .await?;
        }
        let name = key(&parsed);
        let before = lock(&self.inner.index)
            .names
            .get(&name)
            .map(|n| n.id.clone());
        let image = self.record(&id, record, &[name], &id)?;
        if let Some(before) = before.filter(|before| *before != id) {
            self.change(|index| {
                if !index.names.values().any(|n| n.id == before)
                    && let Some(old) = index.images.get_mut(&before)
                {
                    old.kept = false;
                }
                Ok(())
            })?;
        }
        Ok(image)
    }

    /// Imports a `docker save` or OCI layout archive (tar, maybe compressed);
    /// returns the images in it. `name` is given to the one image of an archive
    /// that names none.
    pub async fn import_archive(
        &self,
        archive: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImageError> {
        let layers = self.inner.layers.clone();
        let path = archive.to_path_buf();
        let shown = archive.display().to_string();
        let wanted = name.map(Reference::parse).transpose()?;
        let imported = blocking(&shown, move || {
            archive::import(&layers, &path, wanted.as_ref())
        })
        .await?;
        let mut images = Vec::new();
        for image in imported {
            let names: Vec<String> = image.names.iter().map(key).collect();
            let record = Record {
                config: image.config.image_config(),
                layers: image.config.rootfs.diff_ids,
                kept: true,
            };
            images.push(self.record(&image.id, record, &names, &image.id)?);
        }
        Ok(images)
    }

    /// Every image here, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let index = lock(&self.inner.index);
        let mut list: Vec<Image> = index
            .images
            .keys()
            .filter_map(|id| self.image(&index, id, None))
            .collect();
        list.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
        Ok(list)
    }

    /// Forgets a name (or, given an id, all of an image's names). Its layers
    /// go with the next `collect`.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let absent = || ImageError::Absent {
            reference: reference.to_string(),
        };
        self.change(|index| {
            let id = if index.images.contains_key(reference) {
                index.names.retain(|_, n| n.id != reference);
                reference.to_string()
            } else {
                let name = key(&Reference::parse(reference)?);
                let removed = index.names.remove(&name).ok_or_else(absent)?;
                let others_tagged = index
                    .names
                    .iter()
                    .any(|(n, v)| v.id == removed.id && !n.contains('@'));
                if !others_tagged {
                    // A digest alone is a shadow of the tag it came with.
                    index.names.retain(|_, n| n.id != removed.id);
                }
                removed.id
            };
            if !index.names.values().any(|n| n.id == id) {
                index.images.remove(&id);
            }
            Ok(())
        })
    }

    /// Removes images that are neither in `used` (names or ids) nor imported
    /// by hand, and layers of no image; returns the bytes freed. Layers of
    /// `used_layers` (directories, as containers hold them) stay even where
    /// their name has moved on.
    pub async fn collect(
        &self,
        used: &BTreeSet<String>,
        used_layers: &BTreeSet<PathBuf>,
    ) -> Result<u64, ImageError> {
        let mut used_ids: BTreeSet<String> = used.clone();
        for name in used {
            if let Ok(Some(image)) = self.get(name) {
                used_ids.insert(image.id);
            }
        }
        self.change(|index| {
            index
                .images
                .retain(|id, record| record.kept || used_ids.contains(id));
            let images = &index.images;
            index.names.retain(|_, n| images.contains_key(&n.id));
            Ok(())
        })?;
        let needed: BTreeSet<String> = {
            let index = lock(&self.inner.index);
            index
                .images
                .values()
                .flat_map(|r| r.layers.iter().cloned())
                .collect()
        };
        let layers = self.inner.layers.clone();
        let used_layers = used_layers.clone();
        blocking("garbage", move || {
            let mut freed = 0;
            for digest in layers.list()? {
                if !needed.contains(&digest) && !used_layers.contains(&layers.content(&digest)) {
                    freed += layers.remove(&digest)?;
                }
            }
            Ok(freed)
        })
        .await
    }

    fn image(&self, index: &Index, id: &str, digest_reference: Option<&str>) -> Option<Image> {
        let record = index.images.get(id)?;
        let mut references: Vec<String> = index
            .names
            .iter()
            .filter(|(_, n)| n.id == id)
            .map(|(name, _)| name.clone())
            .collect();
        references.sort_by_key(|r| (r.contains('@'), r.clone()));
        let digest_reference = digest_reference
            .map(str::to_string)
            .or_else(|| {
                index
                    .names
                    .values()
                    .find(|n| n.id == id)
                    .map(|n| n.digest_reference.clone())
            })
            .unwrap_or_else(|| id.to_string());
        let layers = &self.inner.layers;
        Some(Image {
            id: id.to_string(),
            references,
            digest_reference,
            layers: record.layers.iter().map(|l| layers.content(l)).collect(),
            config: record.config.clone(),
            size_bytes: record
                .layers
                .iter()
                .filter_map(|l| layers.size_bytes(l))
                .sum(),
        })
    }

    fn record(
        &self,
        id: &str,
        record: Record,
        names: &[String],
        digest_reference: &str,
    ) -> Result<Image, ImageError> {
        self.change(|index| {
            let kept = record.kept || index.images.get(id).is_some_and(|r| r.kept);
            index
                .images
                .insert(id.to_string(), Record { kept, ..record });
            for name in names {
                index.names.insert(
                    name.clone(),
                    Name {
                        id: id.to_string(),
                        digest_reference: digest_reference.to_string(),
                    },
                );
            }
            Ok(())
        })?;
        let index = lock(&self.inner.index);
        self.image(&index, id, Some(digest_reference))
            .ok_or_else(|| ImageError::Absent {
                reference: id.to_string(),
            })
    }

    /// Changes the index on disk first, then in memory.
    fn change(
        &self,
        change: impl FnOnce(&mut Index) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let mut index = lock(&self.inner.index);
        let mut next = index.clone();
        change(&mut next)?;
        let path = self.inner.root.join(INDEX_FILE);
        let temporary = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&next)?)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.inner.root)?.sync_all()
        };
        write().map_err(|e| ImageError::io("write", &path, e))?;
        *index = next;
        Ok(())
    }
}

/// The digest, where there is one, decides what a name stands for.
fn key(reference: &Reference) -> String {
    if reference.digest.is_some() {
        Reference {
            tag: None,
            ..reference.clone()
        }
        .to_string()
    } else {
        reference.to_string()
    }
}

async fn blocking<T: Send + 'static>(
    reference: &str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(ImageError::InvalidImage {
            reference: reference.to_string(),
            cause: e.to_string(),
        })
    })
}
