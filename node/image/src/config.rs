//! What an image says about how it is run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The parts of an OCI image configuration a container is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// As written: `user`, `uid`, `user:group`, `uid:gid`, or empty.
    pub user: String,
    /// Empty for the root directory.
    pub working_dir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// `SIGQUIT`, `3`, or empty.
    pub stop_signal: String,
    pub labels: BTreeMap<String, String>,
}

/// An OCI (and Docker) image configuration as registries hold it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Option<ConfigSection>,
    pub rootfs: RootFs,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ConfigSection {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub stop_signal: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the layers as plain tar archives, the base first.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

impl ConfigFile {
    pub fn image_config(&self) -> ImageConfig {
        let empty = ConfigSection::default();
        let section = self.config.as_ref().unwrap_or(&empty);
        ImageConfig {
            entrypoint: section.entrypoint.clone().unwrap_or_default(),
            cmd: section.cmd.clone().unwrap_or_default(),
            env: section.env.clone().unwrap_or_default(),
            user: section.user.clone().unwrap_or_default(),
            working_dir: section.working_dir.clone().unwrap_or_default(),
            exposed_ports: section
                .exposed_ports
                .iter()
                .flatten()
                .map(|(port, _)| port.clone())
                .collect(),
            stop_signal: section.stop_signal.clone().unwrap_or_default(),
            labels: section.labels.clone().unwrap_or_default(),
        }
    }

    /// A configuration for an image made here.
    pub fn from_image_config(config: &ImageConfig, diff_ids: Vec<String>) -> Self {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
        let text = |item: &str| (!item.is_empty()).then(|| item.to_string());
        ConfigFile {
            architecture: architecture().to_string(),
            os: "linux".to_string(),
            config: Some(ConfigSection {
                entrypoint: list(&config.entrypoint),
                cmd: list(&config.cmd),
                env: list(&config.env),
                user: text(&config.user),
                working_dir: text(&config.working_dir),
                exposed_ports: (!config.exposed_ports.is_empty()).then(|| {
                    config
                        .exposed_ports
                        .iter()
                        .map(|p| (p.clone(), serde_json::json!({})))
                        .collect()
                }),
                stop_signal: text(&config.stop_signal),
                labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            }),
            rootfs: RootFs {
                kind: "layers".to_string(),
                diff_ids,
            },
        }
    }
}

/// This machine's architecture in Go's words, which images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}
