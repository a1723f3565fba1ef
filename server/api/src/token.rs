//! Service account tokens: JSON Web Tokens (RFC 7519) signed with ES256 by the cluster's key.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use trireme_model::kinds::{POD, SERVICE_ACCOUNT};
use trireme_model::meta;

use crate::api::ConfigError;
use crate::identity::Identity;
use crate::store::Store;

/// What a token was made for, and how long it lasts.
pub(crate) struct Grant<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub audiences: Vec<String>,
    pub expires: Timestamp,
    /// Name and uid of the pod that the token dies with.
    pub pod: Option<(String, String)>,
}

/// The cluster's key for service account tokens. Every server holds the same one.
pub(crate) struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    issuer: String,
}

impl TokenKey {
    pub fn from_pem(pem: &str, issuer: String) -> Result<TokenKey, ConfigError> {
        let refused = |reason: String| ConfigError::ServiceAccountKey(reason);
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .map(str::trim)
            .collect();
        let der = STANDARD
            .decode(body)
            .map_err(|error| refused(error.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|error| refused(error.to_string()))?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(TokenKey {
            pair,
            random,
            key_id,
            issuer,
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn sign(&self, grant: &Grant<'_>, now: Timestamp) -> Result<String, String> {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let mut private = json!({
            "namespace": grant.namespace,
            "serviceaccount": { "name": grant.name, "uid": grant.uid },
        });
        if let Some((name, uid)) = &grant.pod {
            private["pod"] = json!({ "name": name, "uid": uid });
        }
        let claims = json!({
            "aud": grant.audiences,
            "exp": grant.expires.as_second(),
            "iat": now.as_second(),
            "nbf": now.as_second(),
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "sub": format!("system:serviceaccount:{}:{}", grant.namespace, grant.name),
            "kubernetes.io": private,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .pair
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| "signing a token failed".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The identity in a token that this cluster signed for the API or for `audience` (empty: for the API alone),
    /// that has not expired, and whose service account (and pod) still exist.
    pub fn verify(
        &self,
        store: &Store,
        token: &str,
        audience: &str,
        now: Timestamp,
    ) -> Option<Identity> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header.get("alg")?.as_str()? != "ES256" {
            return None;
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .ok()?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let seconds = |field: &str| claims.get(field).and_then(Value::as_i64);
        let in_time =
            seconds("exp")? > now.as_second() && seconds("nbf").unwrap_or(0) <= now.as_second();
        let ours = claims.get("iss")?.as_str()? == self.issuer
            && claims
                .get("aud")?
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .any(|own| own == self.issuer || own == audience && !audience.is_empty());
        if !in_time || !ours {
            return None;
        }
        let private = claims.get("kubernetes.io")?;
        let text = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).map(str::to_owned)
        };
        let namespace = text(private, "namespace")?;
        let account = private.get("serviceaccount")?;
        let (name, uid) = (text(account, "name")?, text(account, "uid")?);
        let stored = store
            .read_value(&SERVICE_ACCOUNT.key(&namespace, &name))
            .ok()??;
        if meta::uid(&stored) != uid {
            return None;
        }
        let mut identity = Identity::of_service_account(&namespace, &name, &uid);
        if let Some(pod) = private.get("pod") {
            let (pod_name, pod_uid) = (text(pod, "name")?, text(pod, "uid")?);
            let stored = store.read_value(&POD.key(&namespace, &pod_name)).ok()??;
            if meta::uid(&stored) != pod_uid {
                return None;
            }
            identity.extra.insert(
                "authentication.kubernetes.io/pod-name".to_owned(),
                vec![pod_name],
            );
            identity.extra.insert(
                "authentication.kubernetes.io/pod-uid".to_owned(),
                vec![pod_uid],
            );
        }
        Some(identity)
    }
}
