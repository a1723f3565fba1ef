//! Who we are to a registry: pull secrets in `dockerconfigjson` form.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Deserialize;

use crate::error::ImageError;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// A name and password, or a token to exchange at the registry's authority.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Basic {
        username: String,
        password: String,
    },
    /// An identity (refresh) token.
    Identity(String),
    /// Sent as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret itself: credentials pass through error paths.
        match self {
            Credential::Basic { username, .. } => write!(out, "Basic({username})"),
            Credential::Identity(_) => write!(out, "Identity"),
            Credential::Bearer(_) => write!(out, "Bearer"),
        }
    }
}

/// The pull secrets of a pod, in order.
#[derive(Debug, Clone, Default)]
pub struct PullSecrets {
    /// Registry (and path) as written, with the credential.
    entries: Vec<(String, Credential)>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerAuth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl PullSecrets {
    /// None: anonymous.
    pub fn none() -> Self {
        PullSecrets::default()
    }

    /// Adds the content of a `.dockerconfigjson` key.
    pub fn add_docker_config_json(&mut self, json: &[u8]) -> Result<(), ImageError> {
        let config: DockerConfig = serde_json::from_slice(json).map_err(refused)?;
        self.add_auths(config.auths)
    }

    /// Adds the content of a legacy `.dockercfg` key.
    pub fn add_docker_cfg(&mut self, json: &[u8]) -> Result<(), ImageError> {
        let auths: BTreeMap<String, DockerAuth> = serde_json::from_slice(json).map_err(refused)?;
        self.add_auths(auths)
    }

    fn add_auths(&mut self, auths: BTreeMap<String, DockerAuth>) -> Result<(), ImageError> {
        // Longer paths are more particular, so they are tried first.
        let mut list: Vec<(String, DockerAuth)> = auths.into_iter().collect();
        list.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        for (key, auth) in list {
            if let Some(credential) = credential(&key, auth)? {
                self.entries.push((key, credential));
            }
        }
        Ok(())
    }

    /// The credentials for an image, the likeliest first.
    pub fn matching(&self, reference: &Reference) -> Vec<Credential> {
        self.entries
            .iter()
            .filter(|(key, _)| covers(key, reference))
            .map(|(_, credential)| credential.clone())
            .collect()
    }
}

fn refused(cause: impl std::fmt::Display) -> ImageError {
    ImageError::PullSecret {
        cause: cause.to_string(),
    }
}

fn credential(key: &str, auth: DockerAuth) -> Result<Option<Credential>, ImageError> {
    let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
    if let Some(token) = filled(auth.registrytoken) {
        return Ok(Some(Credential::Bearer(token)));
    }
    if let Some(token) = filled(auth.identitytoken) {
        return Ok(Some(Credential::Identity(token)));
    }
    if let (Some(username), Some(password)) = (filled(auth.username), auth.password) {
        return Ok(Some(Credential::Basic { username, password }));
    }
    let Some(encoded) = filled(auth.auth) else {
        return Ok(None);
    };
    decode_basic(&encoded).map(Some).ok_or_else(|| {
        refused(format!(
            "auths[{key:?}].auth is not base64 of user:password"
        ))
    })
}

/// `base64(user:password)`.
pub(crate) fn decode_basic(encoded: &str) -> Option<Credential> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credential::Basic {
        username: username.to_string(),
        password: password.trim_end_matches('\0').to_string(),
    })
}

/// Whether an entry named `key` (host, `https://host/v1/`, `host/path`,
/// `*.host`) is meant for this image.
fn covers(key: &str, reference: &Reference) -> bool {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = match path {
        "v1" | "v2" => "",
        other => other,
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    let host_matches = match host.strip_prefix("*.") {
        // A star stands for one label.
        Some(parent) => reference
            .registry
            .split_once('.')
            .is_some_and(|(_, rest)| rest == parent),
        None => host == reference.registry,
    };
    host_matches
        && (path.is_empty()
            || reference.repository == path
            || reference
                .repository
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_entry_comes_first() {
        let mut secrets = PullSecrets::none();
        secrets
            .add_docker_config_json(
                br#"{"auths":{"reg.io":{"username":"all","password":"a"},
                     "reg.io/team":{"auth":"dGVhbTpwOnc="},
                     "https://index.docker.io/v1/":{"auth":"aHViOmg="}}}"#,
            )
            .expect("parse");
        let names = |image: &str| -> Vec<String> {
            secrets
                .matching(&Reference::parse(image).expect("reference"))
                .into_iter()
                .map(|c| match c {
                    Credential::Basic { username, password } => format!("{username}/{password}"),
                    other => format!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(names("reg.io/team/app"), ["team/p:w", "all/a"]);
        assert_eq!(names("reg.io/teamster/app"), ["all/a"]);
        assert_eq!(names("nginx"), ["hub/h"]);
        assert!(names("other.io/a").is_empty());
    }

    #[test]
    fn a_damaged_secret_names_its_entry() {
        let error = PullSecrets::none()
            .add_docker_config_json(br#"{"auths":{"reg.io":{"auth":"%%"}}}"#)
            .expect_err("accepted");
        assert!(error.to_string().contains("reg.io"), "{error}");
        assert!(
            PullSecrets::none()
                .add_docker_config_json(b"not json")
                .is_err()
        );
    }
}
