//! One registry (or mirror) over HTTP: the OCI distribution API as far as
//! pulling needs it.

use std::time::Duration;

use base64::Engine;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::credentials::Credential;
use crate::digest::{self, Hashing};
use crate::registries::{Endpoint, HostConfig};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The limit registries themselves set for manifests.
const MANIFEST_MAX_BYTES: u64 = 4 * 1024 * 1024;
const ERROR_BODY_MAX_BYTES: u64 = 64 * 1024;
const TOKEN_MAX_BYTES: u64 = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for this long, a transfer has died.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a download broken off in the middle, or a server error.
const TRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What a registry said, or why it said nothing.
#[derive(Debug, Clone)]
pub(crate) struct RegistryError {
    pub kind: RegistryErrorKind,
    /// `https://host: 404 Not Found: manifest unknown`.
    pub words: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistryErrorKind {
    NotFound,
    Denied,
    /// No answer at all, or none we can trust.
    Unreachable,
    /// Worth another try later.
    Transient,
    Other,
}

impl RegistryError {
    fn is_passing(&self) -> bool {
        matches!(
            self.kind,
            RegistryErrorKind::Transient | RegistryErrorKind::Unreachable
        )
    }
}

/// A pull's conversation with one endpoint.
pub(crate) struct Session {
    client: reqwest::Client,
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// The header that the last challenge earned us.
    authorization: tokio::sync::Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Session {
    pub fn new(
        endpoint: Endpoint,
        host: &HostConfig,
        credential: Option<Credential>,
    ) -> Result<Self, RegistryError> {
        // Whoever was first chose; ours is the workspace's.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |e: reqwest::Error| RegistryError {
            kind: RegistryErrorKind::Other,
            words: format!("{}: {}", endpoint.url, chain(&e)),
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("trireme/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT);
        if endpoint.url.starts_with("http://") {
            // A host without certificates can still use plain registries.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        if host.insecure_skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some(pem) = &host.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?;
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(pem) = &host.identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(failed)?);
        }
        Ok(Session {
            client: builder.build().map_err(failed)?,
            endpoint,
            credential,
            authorization: tokio::sync::Mutex::new(None),
        })
    }

    fn url(&self, kind: &str, name: &str) -> Result<Url, RegistryError> {
        let text = format!(
            "{}/{}/{kind}/{name}",
            self.endpoint.url, self.endpoint.repository
        );
        let mut url = Url::parse(&text).map_err(|e| self.other(format!("{text}: {e}")))?;
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    fn other(&self, words: String) -> RegistryError {
        RegistryError {
            kind: RegistryErrorKind::Other,
            words,
        }
    }

    fn network(&self, error: &reqwest::Error) -> RegistryError {
        RegistryError {
            kind: RegistryErrorKind::Unreachable,
            words: format!("{}: {}", self.endpoint.url, chain(error)),
        }
    }

    /// The manifest or index of a tag or digest: its bytes and media type.
    pub async fn manifest(&self, version: &str) -> Result<(Vec<u8>, String), RegistryError> {
        let url = self.url("manifests", version)?;
        let response = self.get(url).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_string();
        let bytes = self.body(response, MANIFEST_MAX_BYTES).await?;
        Ok((bytes, media_type))
    }

    /// A small blob, verified.
    pub async fn blob(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let response = self.get(self.url("blobs", name)?).await?;
        let bytes = self.body(response, limit_bytes).await?;
        digest::verify(&format!("blob of {}", self.endpoint.url), &bytes, name)
            .map_err(|e| self.other(e.to_string()))?;
        Ok(bytes)
    }

    /// Downloads a blob of known size into a file, verified.
    pub async fn download(
        &self,
        name: &str,
        size_bytes: u64,
        target: &std::path::Path,
    ) -> Result<(), RegistryError> {
        let mut pause = RETRY_PAUSE;
        let mut tries = 1;
        loop {
            match self.download_once(name, size_bytes, target).await {
                Err(e) if e.is_passing() && tries < TRIES => {
                    tracing::debug!(blob = name, error = e.words, "download broken off");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn download_once(
        &self,
        name: &str,
        size_bytes: u64,
        target: &std::path::Path,
    ) -> Result<(), RegistryError> {
        let mut response = self.get(self.url("blobs", name)?).await?;
        let disk = |e: std::io::Error| self.other(format!("write {}: {e}", target.display()));
        let mut file = tokio::fs::File::create(target).await.map_err(disk)?;
        let mut hash = Hashing::new(std::io::sink());
        while let Some(chunk) = response.chunk().await.map_err(|e| self.network(&e))? {
            // A sink takes everything.
            let _ = std::io::Write::write_all(&mut hash, &chunk);
            if hash.bytes > size_bytes {
                return Err(self.other(format!(
                    "{}: blob {name} is longer than the {size_bytes} bytes its manifest says",
                    self.endpoint.url
                )));
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        digest::compare(
            &format!("blob of {}", self.endpoint.url),
            &hash.digest(),
            name,
        )
        .map_err(|e| self.other(e.to_string()))
    }

    /// Sends the request, answers one challenge, and takes only success.
    async fn get(&self, url: Url) -> Result<Response, RegistryError> {
        let response = self.send(url.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.successful(response).await;
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_string)
            .collect();
        let Some(header) = self.answer(&challenges).await? else {
            return self.successful(response).await;
        };
        *self.authorization.lock().await = Some(header);
        let response = self.send(url).await?;
        self.successful(response).await
    }

    async fn send(&self, url: Url) -> Result<Response, RegistryError> {
        let mut request = self.client.get(url).header(ACCEPT, MANIFEST_TYPES);
        if let Some(header) = self.authorization.lock().await.as_ref() {
            request = request.header(AUTHORIZATION, header);
        }
        request.send().await.map_err(|e| self.network(&e))
    }

    async fn successful(&self, response: Response) -> Result<Response, RegistryError> {
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    async fn refusal(&self, response: Response) -> RegistryError {
        let status = response.status();
        let kind = match status {
            StatusCode::NOT_FOUND => RegistryErrorKind::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryErrorKind::Denied,
            StatusCode::TOO_MANY_REQUESTS => RegistryErrorKind::Transient,
            status if status.is_server_error() => RegistryErrorKind::Transient,
            _ => RegistryErrorKind::Other,
        };
        let body = self
            .body(response, ERROR_BODY_MAX_BYTES)
            .await
            .unwrap_or_default();
        RegistryError {
            kind,
            words: format!("{}: {status}{}", self.endpoint.url, error_words(&body)),
        }
    }

    async fn body(
        &self,
        mut response: Response,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.network(&e))? {
            if (bytes.len() + chunk.len()) as u64 > limit_bytes {
                return Err(self.other(format!(
                    "{}: the answer exceeds {limit_bytes} bytes",
                    self.endpoint.url
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The `Authorization` header that meets one of the challenges; `None`
    /// where we have nothing to offer.
    async fn answer(&self, challenges: &[String]) -> Result<Option<String>, RegistryError> {
        if let Some(Credential::Bearer(token)) = &self.credential {
            return Ok(Some(format!("Bearer {token}")));
        }
        for challenge in challenges {
            let Some((scheme, parameters)) = challenge.split_once(' ') else {
                continue;
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                return self.token(parameters).await.map(Some);
            }
            if scheme.eq_ignore_ascii_case("basic")
                && let Some(Credential::Basic { username, password }) = &self.credential
            {
                return Ok(Some(basic(username, password)));
            }
        }
        Ok(None)
    }

    /// Exchanges what we have for a token at the realm the challenge names.
    async fn token(&self, parameters: &str) -> Result<String, RegistryError> {
        let parameter = |name: &str| challenge_parameter(parameters, name);
        let realm = parameter("realm")
            .ok_or_else(|| self.other("the challenge names no realm".to_string()))?;
        let mut url = Url::parse(&realm).map_err(|e| self.other(format!("realm {realm}: {e}")))?;
        let scope = parameter("scope")
            .unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let service = parameter("service").unwrap_or_default();
        let request = match &self.credential {
            Some(Credential::Identity(refresh_token)) => {
                // The form encoding is a query string's.
                let mut form = url.clone();
                form.query_pairs_mut()
                    .clear()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", refresh_token)
                    .append_pair("service", &service)
                    .append_pair("client_id", "trireme")
                    .append_pair("scope", &scope);
                self.client
                    .post(url)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_string())
            }
            other => {
                url.query_pairs_mut()
                    .append_pair("service", &service)
                    .append_pair("scope", &scope);
                let request = self.client.get(url);
                match other {
                    Some(Credential::Basic { username, password }) => {
                        request.header(AUTHORIZATION, basic(username, password))
                    }
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(|e| self.network(&e))?;
        if !response.status().is_success() {
            let mut error = self.refusal(response).await;
            error.words = format!("{}: no token from {realm}", error.words);
            return Err(error);
        }
        let body = self.body(response, TOKEN_MAX_BYTES).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|e| self.other(format!("token from {realm}: {e}")))?;
        answer
            .token
            .or(answer.access_token)
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| self.other(format!("no token in the answer of {realm}")))
    }
}

fn basic(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

/// `name="value"` of a challenge; values may hold commas.
fn challenge_parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, remainder) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_string());
        }
        rest = remainder.trim_start_matches([',', ' ']);
    }
    None
}

/// The registry's own words from its error body.
fn error_words(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<ErrorBody>(body)
        .map(|b| b.errors)
        .unwrap_or_default();
    let words: Vec<String> = parsed
        .iter()
        .map(|e| {
            if e.message.is_empty() {
                e.code.clone()
            } else {
                e.message.clone()
            }
        })
        .filter(|w| !w.is_empty())
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(": {}", words.join("; "))
    }
}

/// An error with all its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whole() {
        let text =
            r#"realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            challenge_parameter(text, "realm").as_deref(),
            Some("https://auth.io/token")
        );
        assert_eq!(
            challenge_parameter(text, "scope").as_deref(),
            Some("repository:a/b:pull,push")
        );
        assert_eq!(challenge_parameter(text, "error"), None);
    }

    #[test]
    fn the_registrys_words_are_kept() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        assert_eq!(error_words(body), ": manifest unknown");
        assert_eq!(error_words(b"<html>"), "");
    }
}
