//! Join tokens: a secret, and the hash of the CA that the joining machine must meet.
//!
//! Text form: `tr1.<base64url secret>.<hex SHA-256 of the CA certificate in DER>`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: &str = "tr1";

/// A token as `trireme server --bootstrap` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: Vec<u8>,
    ca_sha256: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "a join token has three parts, tr1.<secret>.<SHA-256 of the cluster's CA>; copy all of it"
    )]
    Shape,
    #[error("the join token's version is {0:?}, this program knows tr1")]
    Version(String),
    #[error("the join token's secret is not base64url without padding")]
    Secret,
    #[error("the join token's CA hash is not 64 hexadecimal digits")]
    Hash,
}

impl JoinToken {
    pub fn new(secret: Vec<u8>, ca_sha256: [u8; 32]) -> JoinToken {
        JoinToken { secret, ca_sha256 }
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// SHA-256 of the CA certificate (DER) that servers must present.
    pub fn ca_sha256(&self) -> &[u8; 32] {
        &self.ca_sha256
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(version), Some(secret), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Shape);
        };
        if version != VERSION {
            return Err(TokenError::Version(version.to_string()));
        }
        let secret = URL_SAFE_NO_PAD
            .decode(secret)
            .ok()
            .filter(|secret| !secret.is_empty())
            .ok_or(TokenError::Secret)?;
        let mut ca_sha256 = [0; 32];
        hex::decode_to_slice(hash, &mut ca_sha256).map_err(|_| TokenError::Hash)?;
        Ok(JoinToken { secret, ca_sha256 })
    }
}

impl fmt::Display for JoinToken {
    /// The whole token, secret included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = URL_SAFE_NO_PAD.encode(&self.secret);
        write!(f, "{VERSION}.{secret}.{}", hex::encode(self.ca_sha256))
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret, so that logs may hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(ca {})", hex::encode(self.ca_sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_hides_the_secret() {
        let token = JoinToken::new(vec![0xfb, 0xff, 1, 2], [0xab; 32]);
        let text = token.to_string();
        assert_eq!(text, format!("tr1.-_8BAg.{}", "ab".repeat(32)));
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains("-_8BAg"));
    }

    #[test]
    fn refuses_damaged_tokens_by_part() {
        let hash = "ab".repeat(32);
        for (text, want) in [
            ("tr1.abc".to_string(), TokenError::Shape),
            (format!("tr1.aGk.{hash}.x"), TokenError::Shape),
            (format!("tr2.aGk.{hash}"), TokenError::Version("tr2".into())),
            (format!("tr1.a+b=.{hash}"), TokenError::Secret),
            (format!("tr1..{hash}"), TokenError::Secret),
            ("tr1.aGk.abcd".to_string(), TokenError::Hash),
        ] {
            assert_eq!(text.parse::<JoinToken>().unwrap_err(), want, "{text}");
        }
    }
}
