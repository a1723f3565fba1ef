//! Tokens of service accounts for projected volumes: asked for, kept, renewed in time.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use trireme_client::Client;
use trireme_model::kinds;

/// A token's life when nothing is said.
const DEFAULT_LIFE_S: i64 = 3600;
/// Renewed when this part of its life has passed, in percent: Kubernetes' number.
const RENEW_PERCENT: i64 = 80;
/// Nor ever older than this, however long it lives.
const RENEW_MAX_S: i64 = 24 * 3600;

/// Pod uid, volume, path.
type Key = (String, String, String);

struct Token {
    text: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// The tokens of all pods of this node.
pub(crate) struct Tokens {
    client: Client,
    held: Mutex<BTreeMap<Key, Token>>,
}

impl Tokens {
    pub fn new(client: Client) -> Self {
        Tokens {
            client,
            held: Mutex::new(BTreeMap::new()),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Key, Token>> {
        // A panic while holding it leaves the map as it was.
        self.held
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// A token that is not due to be renewed; while the API is away, one that has not expired.
    pub async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let key = (
            text(&pod.metadata.uid),
            volume.to_owned(),
            projection.path.clone(),
        );
        let now = Timestamp::now();
        if let Some(token) = self.held().get(&key)
            && token.renew_at > now
        {
            return Ok(token.text.clone());
        }
        match self.request(pod, projection, now).await {
            Ok(token) => {
                let text = token.text.clone();
                self.held().insert(key, token);
                Ok(text)
            }
            Err(error) => match self.held().get(&key) {
                Some(token) if token.expires_at > now => Ok(token.text.clone()),
                _ => Err(error),
            },
        }
    }

    async fn request(
        &self,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
        now: Timestamp,
    ) -> Result<Token, String> {
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let life = projection.expiration_seconds.unwrap_or(DEFAULT_LIFE_S);
        let audiences: Vec<&String> = projection
            .audience
            .iter()
            .filter(|audience| !audience.is_empty())
            .collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": {
                "audiences": audiences,
                "expirationSeconds": life,
                "boundObjectRef": {
                    "kind": "Pod", "apiVersion": "v1",
                    "name": pod.metadata.name, "uid": pod.metadata.uid,
                },
            },
        });
        let answer = self
            .client
            .create_subresource(
                kinds::SERVICE_ACCOUNT,
                &namespace,
                &account,
                "token",
                &request,
            )
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        let text = answer
            .pointer("/status/token")
            .and_then(|token| token.as_str())
            .filter(|token| !token.is_empty())
            .ok_or_else(|| "failed to fetch token: the API answered none".to_owned())?
            .to_owned();
        let expires_at = answer
            .pointer("/status/expirationTimestamp")
            .and_then(|at| at.as_str()?.parse().ok())
            .unwrap_or_else(|| later(now, life));
        let life = expires_at.duration_since(now).as_secs().max(0);
        let renew = (life * RENEW_PERCENT / 100).min(RENEW_MAX_S);
        Ok(Token {
            text,
            renew_at: later(now, renew),
            expires_at,
        })
    }

    /// When the first of a pod's tokens is due.
    pub fn next_renewal(&self, uid: &str) -> Option<Timestamp> {
        self.held()
            .iter()
            .filter(|((owner, _, _), _)| owner == uid)
            .map(|(_, token)| token.renew_at)
            .min()
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.held().retain(|(owner, _, _), _| owner != uid);
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
