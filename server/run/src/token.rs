//! Join tokens as the cluster keeps them; their text form is [`JoinToken`]'s.
//!
//! Secrets are kept as objects of kind Secret in `kube-system`, type [`SECRET_TYPE`], one for each
//! token, so that every server honours them and deleting one revokes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use trireme_client::JoinToken;
use trireme_model::kinds;
use trireme_raft::Replica;
use trireme_state::RangeRequest;

pub const SECRET_TYPE: &str = "trireme.io/join-token";
pub const NAMESPACE: &str = "kube-system";
/// The token that the first server makes.
pub const FIRST_NAME: &str = "join-token";
/// 192 bits, which nobody guesses over a network.
const SECRET_BYTES: usize = 24;
/// Secrets in `kube-system` that a check of a token looks at.
const MAX_SECRETS: usize = 1000;

/// A new random token for the cluster with this root certificate (SHA-256 of its DER).
pub fn generate(ca_sha256: [u8; 32]) -> JoinToken {
    let secret: [u8; SECRET_BYTES] = rand::random();
    JoinToken::new(secret.to_vec(), ca_sha256)
}

/// The Secret object that makes a token valid.
pub fn object(name: &str, token: &JoinToken, description: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": SECRET_TYPE,
        "data": {
            "secret": STANDARD.encode(token.secret()),
            "description": STANDARD.encode(description),
        },
    })
}

/// Whether this server's state holds the token. Call after a read barrier.
pub fn is_valid(replica: &Replica, token: &JoinToken) -> Result<bool, trireme_state::RangeError> {
    let start = kinds::SECRET.prefix(Some(NAMESPACE)).into_bytes();
    let mut end = start.clone();
    // The prefix ends in '/', whose successor bounds every key below it.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let found = replica.range(&RangeRequest {
        start: Bytes::from(start),
        end: Bytes::from(end),
        limit: MAX_SECRETS,
        ..RangeRequest::default()
    })?;
    let expected = STANDARD.encode(token.secret());
    Ok(found.kvs.iter().any(|kv| {
        let Ok(object) = serde_json::from_slice::<Value>(&kv.value) else {
            return false;
        };
        object["type"] == SECRET_TYPE
            && object["metadata"]["deletionTimestamp"].is_null()
            && object["data"]["secret"]
                .as_str()
                .is_some_and(|known| equal(known.as_bytes(), expected.as_bytes()))
    }))
}

/// Compares in time that depends on the lengths only.
fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |differ, (one, other)| differ | (one ^ other))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_equality() {
        assert!(equal(b"abc", b"abc"));
        assert!(!equal(b"abc", b"abd"));
        assert!(!equal(b"abc", b"ab"));
        assert!(equal(b"", b""));
    }

    #[test]
    fn no_two_tokens_are_the_same() {
        assert_ne!(generate([1; 32]), generate([1; 32]));
    }
}
