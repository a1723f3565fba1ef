//! From a name to layers on disk.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::ConfigFile;
use crate::credentials::{Credential, PullSecrets};
use crate::digest;
use crate::error::ImageError;
use crate::layer::Layers;
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::reference::Reference;
use crate::registries::{Endpoint, Registries};
use crate::registry::{RegistryError, RegistryErrorKind, Session};

/// Layers of one pull in transfer at a time, as other engines have it: more
/// only divide the line.
const LAYERS_AT_ONCE: usize = 3;
/// Far above any real configuration (tens of kilobytes).
const CONFIG_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// What a registry has under a name.
pub(crate) struct Found {
    session: Session,
    /// Of the manifest or index the name stands for.
    pub digest: String,
    manifest: Manifest,
    pub config: ConfigFile,
}

/// Asks every endpoint with every credential, in order, until one answers.
pub(crate) async fn find(
    registries: &Registries,
    reference: &Reference,
    secrets: &PullSecrets,
) -> Result<Found, ImageError> {
    let mut failures: Vec<RegistryError> = Vec::new();
    for endpoint in registries.endpoints(&reference.registry, &reference.repository) {
        let reached = |f: &RegistryError| f.kind != RegistryErrorKind::Unreachable;
        if endpoint.fallback && failures.last().is_some_and(reached) {
            continue;
        }
        let host = registries.host(&endpoint.host);
        for credential in candidates(&endpoint, host.credential.as_ref(), reference, secrets) {
            let attempt = async {
                let session = Session::new(endpoint.clone(), &host, credential)?;
                let found = session.manifest(reference.version()).await?;
                Ok::<_, RegistryError>((session, found))
            };
            match attempt.await {
                Ok((session, (bytes, _))) => {
                    return read(session, bytes, reference).await;
                }
                Err(error) => {
                    tracing::debug!(image = %reference, error = error.words, "pull attempt failed");
                    let denied = error.kind == RegistryErrorKind::Denied;
                    if !failures.iter().any(|f| f.words == error.words) {
                        failures.push(error);
                    }
                    if !denied {
                        // Another credential would not change this.
                        break;
                    }
                }
            }
        }
    }
    Err(refusal(reference, &failures))
}

/// Pull secrets go to the image's own registry alone, never to a mirror.
fn candidates(
    endpoint: &Endpoint,
    configured: Option<&Credential>,
    reference: &Reference,
    secrets: &PullSecrets,
) -> Vec<Option<Credential>> {
    let mut list: Vec<Option<Credential>> = Vec::new();
    if endpoint.namespace.is_none() {
        list.extend(secrets.matching(reference).into_iter().map(Some));
    }
    list.extend(configured.cloned().map(Some));
    if list.is_empty() || endpoint.namespace.is_none() {
        list.push(None);
    }
    list
}

/// The registry's own answer decides the kind; mirrors' words come before it.
fn refusal(reference: &Reference, failures: &[RegistryError]) -> ImageError {
    let cause = failures
        .iter()
        .map(|f| f.words.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    let reference = reference.to_string();
    let kind = |kind| failures.last().is_some_and(|f| f.kind == kind);
    if kind(RegistryErrorKind::NotFound) {
        ImageError::NotFound { reference, cause }
    } else if kind(RegistryErrorKind::Denied) {
        ImageError::Denied { reference, cause }
    } else {
        ImageError::Pull { reference, cause }
    }
}

async fn read(
    session: Session,
    bytes: Vec<u8>,
    reference: &Reference,
) -> Result<Found, ImageError> {
    let name = reference.to_string();
    let top = digest::of(&bytes);
    if let Some(wanted) = &reference.digest {
        digest::compare(&format!("manifest of {name}"), &top, wanted)?;
    }
    let failed = |e: RegistryError| refusal(reference, &[e]);
    let manifest = match manifest::parse(&bytes, &name)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(list) => {
            let entry = manifest::choose(&list, &name)?;
            let (bytes, _) = session.manifest(&entry.digest).await.map_err(failed)?;
            digest::verify(&format!("manifest of {name}"), &bytes, &entry.digest)?;
            match manifest::parse(&bytes, &name)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    return Err(ImageError::InvalidImage {
                        reference: name,
                        cause: "an index within an index".to_string(),
                    });
                }
            }
        }
    };
    let config = session
        .blob(&manifest.config.digest, CONFIG_MAX_BYTES)
        .await
        .map_err(failed)?;
    let config = parse_config(&config, &manifest, &name)?;
    Ok(Found {
        session,
        digest: top,
        manifest,
        config,
    })
}

/// The configuration, which must name as many layers as the manifest.
pub(crate) fn parse_config(
    bytes: &[u8],
    manifest: &Manifest,
    reference: &str,
) -> Result<ConfigFile, ImageError> {
    let refuse = |cause: String| ImageError::InvalidImage {
        reference: reference.to_string(),
        cause,
    };
    let config: ConfigFile =
        serde_json::from_slice(bytes).map_err(|e| refuse(format!("configuration: {e}")))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(refuse(format!(
            "its configuration names {} layers, its manifest {}",
            config.rootfs.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    if let Some(wrong) = config
        .rootfs
        .diff_ids
        .iter()
        .find(|d| !crate::reference::is_digest(d))
    {
        return Err(refuse(format!("unsupported layer digest {wrong:?}")));
    }
    Ok(config)
}

impl Found {
    /// Digest of the configuration.
    pub fn id(&self) -> &str {
        &self.manifest.config.digest
    }
}

/// Brings every layer that is not here.
pub(crate) async fn fetch_layers(
    layers: &Arc<Layers>,
    found: Found,
    reference: &Reference,
) -> Result<(), ImageError> {
    let session = Arc::new(found.session);
    let places = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
    // Dropped with this future: what is under way is aborted.
    let mut tasks = JoinSet::new();
    for (descriptor, diff_id) in found
        .manifest
        .layers
        .into_iter()
        .zip(found.config.rootfs.diff_ids)
    {
        let (session, layers, places) = (session.clone(), layers.clone(), places.clone());
        let reference = reference.clone();
        tasks.spawn(async move {
            // Never closed.
            let _place = places.acquire().await;
            fetch_layer(&session, &layers, &descriptor, &diff_id, &reference).await
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.map_err(|e| ImageError::Pull {
            reference: reference.to_string(),
            cause: e.to_string(),
        })??;
    }
    Ok(())
}

async fn fetch_layer(
    session: &Session,
    layers: &Arc<Layers>,
    descriptor: &Descriptor,
    diff_id: &str,
    reference: &Reference,
) -> Result<(), ImageError> {
    let lock = layers.lock_for(diff_id);
    let held = lock.lock_owned().await;
    if layers.size_bytes(diff_id).is_some() {
        return Ok(());
    }
    let blob = TemporaryFile(layers.temporary("blob"));
    session
        .download(&descriptor.digest, descriptor.size, &blob.0)
        .await
        .map_err(|e| refusal(reference, &[e]))?;
    let (layers, diff_id) = (layers.clone(), diff_id.to_string());
    let reference = reference.to_string();
    tokio::task::spawn_blocking(move || {
        // The lock goes with the work: a cancelled pull does not stop it.
        let _held = held;
        let file = File::open(&blob.0).map_err(|e| ImageError::io("open", &blob.0, e))?;
        layers.unpack(file, &diff_id).map(drop)
    })
    .await
    .unwrap_or_else(|e| {
        Err(ImageError::Pull {
            reference,
            cause: e.to_string(),
        })
    })
}

struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Gone already, or taken away by the next start.
        let _ = fs::remove_file(&self.0);
    }
}
