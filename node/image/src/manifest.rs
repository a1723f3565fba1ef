//! Manifests and indexes as registries and archives hold them.

use serde::Deserialize;

use crate::config::architecture;
use crate::error::ImageError;

/// The most layers an overlay can stack.
pub(crate) const LAYERS_MAX: usize = 500;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Tells by its fields what it is: media types are often missing.
pub(crate) fn parse(bytes: &[u8], reference: &str) -> Result<Document, ImageError> {
    let refuse = |cause: String| ImageError::InvalidImage {
        reference: reference.to_string(),
        cause,
    };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| refuse(format!("manifest: {e}")))?;
    let all = raw
        .config
        .iter()
        .chain(raw.layers.iter().flatten())
        .chain(raw.manifests.iter().flatten());
    for descriptor in all {
        if !crate::reference::is_digest(&descriptor.digest) {
            return Err(refuse(format!(
                "manifest: unsupported digest {:?}",
                descriptor.digest
            )));
        }
    }
    match raw {
        Raw {
            manifests: Some(list),
            ..
        } => Ok(Document::Index(list)),
        Raw {
            config: Some(config),
            layers: Some(layers),
            ..
        } => {
            if layers.len() > LAYERS_MAX {
                return Err(refuse(format!(
                    "it has {} layers; at most {LAYERS_MAX} can be mounted",
                    layers.len()
                )));
            }
            if let Some(layer) = layers.iter().find(|l| l.media_type.contains("encrypted")) {
                return Err(refuse(format!(
                    "layer type {} is not supported",
                    layer.media_type
                )));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        Raw {
            schema_version: 1, ..
        } => Err(refuse(
            "manifest: schema 1 is not supported; push it again with a current tool".to_string(),
        )),
        _ => Err(refuse(
            "manifest: neither an image nor an index".to_string(),
        )),
    }
}

/// The entry of an index for this machine.
pub(crate) fn choose(list: &[Descriptor], reference: &str) -> Result<Descriptor, ImageError> {
    let wanted = architecture();
    let mut fitting: Vec<&Descriptor> = list
        .iter()
        .filter(|d| {
            d.platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == wanted)
        })
        .collect();
    // The plainest variant first: every machine of the architecture runs it.
    fitting.sort_by_key(|d| {
        d.platform
            .as_ref()
            .and_then(|p| p.variant.clone())
            .unwrap_or_default()
    });
    if let Some(descriptor) = fitting.first() {
        return Ok((*descriptor).clone());
    }
    // An index of one image without a platform, as archives have.
    if let [only] = list
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let mut available: Vec<String> = list
        .iter()
        .filter_map(|d| d.platform.as_ref())
        .filter(|p| p.os != "unknown")
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    available.sort();
    available.dedup();
    Err(ImageError::NoPlatform {
        reference: reference.to_string(),
        platform: format!("linux/{wanted}"),
        available: if available.is_empty() {
            "none".to_string()
        } else {
            available.join(", ")
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(character: &str) -> String {
        format!("sha256:{}", character.repeat(64))
    }

    #[test]
    fn the_entry_of_this_machine_is_chosen() {
        let other = if architecture() == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{other}"}}}},
                {{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{}"}}}},
                {{"digest":"{}","size":1,"platform":{{"os":"unknown","architecture":"unknown"}}}}]}}"#,
            digest("a"),
            digest("b"),
            architecture(),
            digest("c")
        );
        let Ok(Document::Index(list)) = parse(text.as_bytes(), "x") else {
            panic!("no index");
        };
        assert_eq!(choose(&list, "x").expect("choice").digest, digest("b"));
        let error = choose(&list[..1], "x").expect_err("choice");
        assert!(
            error.to_string().contains(&format!("linux/{other}")),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_pulled_says_why() {
        for (text, words) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
            (r#"{"schemaVersion":2}"#, "neither"),
            ("<html>", "manifest"),
            (
                r#"{"config":{"digest":"sha512:00"},"layers":[]}"#,
                "unsupported digest",
            ),
        ] {
            let error = parse(text.as_bytes(), "x").expect_err("parsed").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
