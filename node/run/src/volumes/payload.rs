//! Contents of volumes that come from the API: configMap, secret, downwardAPI, projected.

use crate::downward::{self, Facts};
use crate::references::{self, Reference, ReferenceKind, References};
use crate::token::Tokens;
use crate::volumes::atomic::{File, Payload, check_path};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection,
};

/// The mode of files when nothing is said.
const DEFAULT_MODE: u32 = 0o644;
/// Together the files of a volume may have this many bytes: what an API object can hold, times the
/// most sources one projection sensibly has.
const PAYLOAD_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What contents are made from.
pub(crate) struct Sources<'a> {
    pub pod: &'a Pod,
    pub references: &'a References,
    pub tokens: &'a Tokens,
    pub facts: &'a Facts,
}

fn mode(own: Option<i32>, default: u32) -> u32 {
    own.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(default)
}

/// Whether the volume's content comes from the API, so that it may change while the pod runs.
pub(crate) fn is_api_volume(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether the content must not be written to a disk.
pub(crate) fn is_secret(volume: &Volume) -> bool {
    let projected = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    volume.secret.is_some()
        || projected
            .into_iter()
            .any(|source| source.secret.is_some() || source.service_account_token.is_some())
}

/// The volume's files.
pub(crate) async fn payload(volume: &Volume, sources: &Sources<'_>) -> Result<Payload, String> {
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let default = mode(source.default_mode, DEFAULT_MODE);
        let from = Keys {
            kind: ReferenceKind::ConfigMap,
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional,
        };
        from.add(&mut payload, default, sources).await?;
    } else if let Some(source) = &volume.secret {
        let default = mode(source.default_mode, DEFAULT_MODE);
        let from = Keys {
            kind: ReferenceKind::Secret,
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            optional: source.optional,
        };
        from.add(&mut payload, default, sources).await?;
    } else if let Some(source) = &volume.downward_api {
        let default = mode(source.default_mode, DEFAULT_MODE);
        downward_files(&mut payload, source.items.as_deref(), default, sources)?;
    } else if let Some(source) = &volume.projected {
        let default = mode(source.default_mode, DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            project(&mut payload, &volume.name, projection, default, sources).await?;
        }
    }
    let size: usize = payload.values().map(|file| file.bytes.len()).sum();
    if size > PAYLOAD_MAX_BYTES {
        return Err(format!(
            "contents of {size} bytes exceed the limit of {PAYLOAD_MAX_BYTES}"
        ));
    }
    Ok(payload)
}

async fn project(
    payload: &mut Payload,
    volume: &str,
    projection: &VolumeProjection,
    default: u32,
    sources: &Sources<'_>,
) -> Result<(), String> {
    if let Some(source) = &projection.config_map {
        let from = Keys {
            kind: ReferenceKind::ConfigMap,
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional,
        };
        return from.add(payload, default, sources).await;
    }
    if let Some(source) = &projection.secret {
        let from = Keys {
            kind: ReferenceKind::Secret,
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional,
        };
        return from.add(payload, default, sources).await;
    }
    if let Some(source) = &projection.downward_api {
        return downward_files(payload, source.items.as_deref(), default, sources);
    }
    if let Some(source) = &projection.service_account_token {
        let path = check_path(&source.path)?;
        let token = sources.tokens.get(sources.pod, volume, source).await?;
        let file = File {
            bytes: token.into_bytes(),
            mode: default,
        };
        payload.insert(path, file);
        return Ok(());
    }
    Err("this kind of projection is not supported by this node".to_owned())
}

/// Keys of a ConfigMap or Secret as files.
struct Keys<'a> {
    kind: ReferenceKind,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
}

impl Keys<'_> {
    async fn add(
        &self,
        payload: &mut Payload,
        default: u32,
        sources: &Sources<'_>,
    ) -> Result<(), String> {
        let optional = self.optional == Some(true);
        let reference = Reference {
            kind: self.kind,
            namespace: sources.pod.metadata.namespace.clone().unwrap_or_default(),
            name: self.name.to_owned(),
        };
        let content = match sources.references.get(&reference).await? {
            Some(object) => references::content(self.kind, &object),
            None if optional => return Ok(()),
            None => return Err(format!("{} {:?} not found", self.kind.title(), self.name)),
        };
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in content {
                let path = check_path(&key)?;
                payload.insert(
                    path,
                    File {
                        bytes,
                        mode: default,
                    },
                );
            }
            return Ok(());
        };
        for item in items {
            let path = check_path(&item.path)?;
            match content.get(&item.key) {
                Some(bytes) => {
                    let file = File {
                        bytes: bytes.clone(),
                        mode: mode(item.mode, default),
                    };
                    payload.insert(path, file);
                }
                None if optional => {}
                None => {
                    let (title, sort) = match self.kind {
                        ReferenceKind::ConfigMap => ("configmap", "config"),
                        ReferenceKind::Secret => ("secret", "secret"),
                    };
                    return Err(format!(
                        "{title} references non-existent {sort} key: {}",
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }
}

fn downward_files(
    payload: &mut Payload,
    items: Option<&[DownwardAPIVolumeFile]>,
    default: u32,
    sources: &Sources<'_>,
) -> Result<(), String> {
    let containers: Vec<Container> = trireme_node_decide::containers(sources.pod)
        .into_iter()
        .map(|found| found.container)
        .collect();
    for item in items.into_iter().flatten() {
        let path = check_path(&item.path)?;
        let text = if let Some(selector) = &item.field_ref {
            downward::field(sources.pod, sources.facts, selector)?
        } else if let Some(selector) = &item.resource_field_ref {
            downward::resource(&containers, None, sources.facts, selector)?
        } else {
            String::new()
        };
        let file = File {
            bytes: text.into_bytes(),
            mode: mode(item.mode, default),
        };
        payload.insert(path, file);
    }
    Ok(())
}
