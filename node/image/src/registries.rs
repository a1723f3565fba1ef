//! `registries.yaml` in k3s's format: mirrors, credentials and TLS.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use crate::credentials::{Credential, decode_basic};
use crate::error::ImageError;

/// How each registry is reached. `Default` asks each at its own name by HTTPS.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default)]
struct Mirror {
    endpoints: Vec<String>,
    rewrites: Vec<(Regex, String)>,
}

/// What is known of one registry host.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostConfig {
    pub credential: Option<Credential>,
    pub insecure_skip_verify: bool,
    /// PEM.
    pub ca: Option<Vec<u8>>,
    /// PEM: certificate chain and key.
    pub identity: Option<Vec<u8>>,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host:port/v2`, or the path the file gives instead of `/v2`; no
    /// slash at the end.
    pub url: String,
    /// Host and port, the key of `configs`.
    pub host: String,
    pub repository: String,
    /// Only asked when the one before could not be reached.
    pub fallback: bool,
    /// Sent as `ns=` to a mirror, so that it knows which registry is meant.
    pub namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: Option<BTreeMap<String, Option<FileMirror>>>,
    configs: Option<BTreeMap<String, Option<FileConfig>>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct FileMirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct FileConfig {
    auth: Option<FileAuth>,
    tls: Option<FileTls>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct FileAuth {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct FileTls {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

impl Registries {
    /// Reads the file and the certificates it names. A missing file is an
    /// error: it was asked for.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let text = fs::read_to_string(path).map_err(|e| ImageError::Registries {
            path: path.to_path_buf(),
            cause: e.to_string(),
        })?;
        Self::parse(&text, path)
    }

    /// Parses `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ImageError> {
        let refuse = |cause: String| ImageError::Registries {
            path: path.to_path_buf(),
            cause,
        };
        let file: Option<File> =
            serde_yaml_ng::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let file = file.unwrap_or_default();
        let mut registries = Registries::default();
        for (name, mirror) in file.mirrors.unwrap_or_default() {
            let mirror = mirror.unwrap_or_default();
            let mut endpoints = Vec::new();
            for endpoint in &mirror.endpoint {
                if split_endpoint(endpoint).is_none() {
                    return Err(refuse(format!(
                        "mirrors.{name}.endpoint: {endpoint:?} is not http://host or https://host"
                    )));
                }
                endpoints.push(endpoint.trim_end_matches('/').to_string());
            }
            let mut rewrites = Vec::new();
            for (pattern, replacement) in mirror.rewrite {
                let regex = Regex::new(&pattern)
                    .map_err(|e| refuse(format!("mirrors.{name}.rewrite: {e}")))?;
                rewrites.push((regex, replacement));
            }
            registries.mirrors.insert(
                name,
                Mirror {
                    endpoints,
                    rewrites,
                },
            );
        }
        for (host, config) in file.configs.unwrap_or_default() {
            let config = config.unwrap_or_default();
            let parsed = host_config(&config)
                .map_err(|cause| refuse(format!("configs.{host:?}.{cause}")))?;
            registries.configs.insert(host, parsed);
        }
        Ok(registries)
    }

    /// Where to ask for an image, in order: its mirrors, those of `*`, then
    /// the registry itself.
    pub(crate) fn endpoints(&self, registry: &str, repository: &str) -> Vec<Endpoint> {
        let mut list = Vec::new();
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        if let Some(mirror) = mirror {
            let repository = mirror
                .rewrites
                .iter()
                .find(|(pattern, _)| pattern.is_match(repository))
                .map(|(pattern, replacement)| {
                    pattern
                        .replace(repository, replacement.as_str())
                        .into_owned()
                })
                .unwrap_or_else(|| repository.to_string());
            for endpoint in &mirror.endpoints {
                let Some((_, host)) = split_endpoint(endpoint) else {
                    continue;
                };
                list.push(Endpoint {
                    url: with_path(endpoint),
                    host: host.to_string(),
                    repository: repository.clone(),
                    fallback: false,
                    namespace: (host != registry).then(|| registry.to_string()),
                });
            }
        }
        let own = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        if !list.iter().any(|e| e.host == own) {
            let mut push = |scheme: &str, fallback: bool| {
                list.push(Endpoint {
                    url: format!("{scheme}://{own}/v2"),
                    host: registry.to_string(),
                    repository: repository.to_string(),
                    fallback,
                    namespace: None,
                });
            };
            push("https", false);
            // As every engine does: nothing leaves the machine.
            if is_loopback(registry) {
                push("http", true);
            }
        }
        list
    }

    pub(crate) fn host(&self, host: &str) -> HostConfig {
        self.configs
            .get(host)
            .or_else(|| self.configs.get("*"))
            .cloned()
            .unwrap_or_default()
    }
}

/// An endpoint without a path has the API at `/v2`; one with a path, there.
fn with_path(endpoint: &str) -> String {
    match split_endpoint(endpoint) {
        Some((scheme, host)) if endpoint.len() == scheme.len() + 3 + host.len() => {
            format!("{endpoint}/v2")
        }
        _ => endpoint.to_string(),
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|a| a.is_loopback())
}

/// Scheme and host (with port) of an endpoint.
fn split_endpoint(endpoint: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let host = rest.split('/').next()?;
    (matches!(scheme, "http" | "https") && !host.is_empty()).then_some((scheme, host))
}

fn host_config(config: &FileConfig) -> Result<HostConfig, String> {
    let mut parsed = HostConfig::default();
    if let Some(auth) = &config.auth {
        parsed.credential = if !auth.identity_token.is_empty() {
            Some(Credential::Identity(auth.identity_token.clone()))
        } else if !auth.username.is_empty() {
            Some(Credential::Basic {
                username: auth.username.clone(),
                password: auth.password.clone(),
            })
        } else if !auth.auth.is_empty() {
            Some(decode_basic(&auth.auth).ok_or("auth.auth: not base64 of user:password")?)
        } else {
            None
        };
    }
    if let Some(tls) = &config.tls {
        let read = |field: &str, path: &Path| {
            fs::read(path).map_err(|e| format!("tls.{field}: {}: {e}", path.display()))
        };
        parsed.insecure_skip_verify = tls.insecure_skip_verify;
        if let Some(path) = &tls.ca_file {
            parsed.ca = Some(read("ca_file", path)?);
        }
        match (&tls.cert_file, &tls.key_file) {
            (Some(certificate), Some(key)) => {
                let mut identity = read("cert_file", certificate)?;
                identity.push(b'\n');
                identity.extend(read("key_file", key)?);
                parsed.identity = Some(identity);
            }
            (None, None) => {}
            _ => return Err("tls: cert_file and key_file go together".to_string()),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries, ImageError> {
        Registries::parse(text, Path::new("registries.yaml"))
    }

    #[test]
    fn mirrors_come_before_the_registry_and_rewrite_its_names() {
        let registries = parse(
            r#"
mirrors:
  docker.io:
    endpoint: ["http://10.0.0.1:5000/", "https://mirror.example/proxy/v2"]
    rewrite:
      "^library/(.*)": "mirrored/$1"
configs:
  "mirror.example":
    auth: {username: u, password: p}
    tls: {insecure_skip_verify: true}
"#,
        )
        .expect("parse");
        let endpoints = registries.endpoints("docker.io", "library/nginx");
        let shown: Vec<(&str, &str)> = endpoints
            .iter()
            .map(|e| (e.url.as_str(), e.repository.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("http://10.0.0.1:5000/v2", "mirrored/nginx"),
                ("https://mirror.example/proxy/v2", "mirrored/nginx"),
                ("https://registry-1.docker.io/v2", "library/nginx"),
            ]
        );
        assert_eq!(endpoints[0].namespace.as_deref(), Some("docker.io"));
        assert!(registries.host("mirror.example").insecure_skip_verify);
        assert!(registries.host("docker.io").credential.is_none());
    }

    #[test]
    fn a_registry_that_is_its_own_mirror_is_asked_once() {
        let registries =
            parse("mirrors: {\"10.0.0.1:5000\": {endpoint: [\"http://10.0.0.1:5000\"]}}")
                .expect("parse");
        let endpoints = registries.endpoints("10.0.0.1:5000", "app");
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].url, "http://10.0.0.1:5000/v2");
        assert_eq!(endpoints[0].namespace, None);
    }

    #[test]
    fn only_loopback_registries_are_asked_without_tls() {
        let urls = |registry: &str| -> Vec<String> {
            Registries::default()
                .endpoints(registry, "app")
                .into_iter()
                .map(|e| e.url)
                .collect()
        };
        assert_eq!(
            urls("localhost:5000"),
            ["https://localhost:5000/v2", "http://localhost:5000/v2"]
        );
        assert_eq!(urls("127.0.0.1:5000").len(), 2);
        assert_eq!(urls("[::1]:5000").len(), 2);
        assert_eq!(urls("10.0.0.1:5000"), ["https://10.0.0.1:5000/v2"]);
        assert_eq!(urls("localhost.evil.io").len(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("mirors: {}", "mirors"),
            ("mirrors: {a: {endpoint: [\"ftp://x\"]}}", "ftp://x"),
            ("mirrors: {a: {rewrite: {\"(\": x}}}", "rewrite"),
            ("configs: {a: {tls: {ca_file: /nowhere}}}", "/nowhere"),
            ("configs: {a: {tls: {cert_file: /c}}}", "key_file"),
        ] {
            let error = parse(text).expect_err("accepted").to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(parse("").is_ok());
    }
}
