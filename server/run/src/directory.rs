//! A server's data directory: its identity, credentials and store.
//!
//! ```text
//! DIR/server.json      who this server is, and the addresses of the others when it last knew
//! DIR/tls/             roots (certificate and key), this server's serving and peer certificates
//! DIR/token            the join token, readable by root alone
//! DIR/store/           RocksDB
//! ```

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority::Credential;

#[derive(Debug, thiserror::Error)]
#[error("data directory: {operation} {path}: {cause}")]
pub struct DirectoryError {
    operation: &'static str,
    path: String,
    cause: std::io::Error,
}

/// Exists once the directory's token is known to the whole cluster.
pub const TOKEN_PUBLISHED: &str = "token-published";

/// Who a server is; written once, when it bootstraps or has joined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub id: u64,
    pub name: String,
    /// host:port that others reach the API at.
    pub api_address: String,
    /// host:port that other servers reach Raft at.
    pub peer_address: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_domain: String,
    pub cluster_dns: String,
    /// This server started the cluster; it alone may begin with an empty store.
    pub bootstrap: bool,
    /// Whether it has become a member of the Raft group; until then, joining is taken up again.
    pub member: bool,
    /// API addresses of other servers, to finish joining with.
    pub others: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Opens or makes the directory, closed to everybody but its owner.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        let tls = root.join("tls");
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        builder.create(&tls).map_err(|cause| DirectoryError {
            operation: "creating",
            path: tls.display().to_string(),
            cause,
        })?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn identity(&self) -> Result<Option<Identity>, DirectoryError> {
        let Some(text) = self.read("server.json")? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|cause| self.error("parsing", "server.json", cause.into()))
    }

    pub fn write_identity(&self, identity: &Identity) -> Result<(), DirectoryError> {
        let text = serde_json::to_string_pretty(identity)
            .map_err(|cause| self.error("writing", "server.json", cause.into()))?;
        self.write("server.json", &text)
    }

    pub fn credential(&self, name: &str) -> Result<Option<Credential>, DirectoryError> {
        let certificate = self.read(&format!("tls/{name}.pem"))?;
        let key = self.read(&format!("tls/{name}-key.pem"))?;
        Ok(certificate
            .zip(key)
            .map(|(certificate_pem, key_pem)| Credential {
                certificate_pem,
                key_pem,
            }))
    }

    pub fn write_credential(
        &self,
        name: &str,
        credential: &Credential,
    ) -> Result<(), DirectoryError> {
        self.write(&format!("tls/{name}-key.pem"), &credential.key_pem)?;
        self.write(&format!("tls/{name}.pem"), &credential.certificate_pem)
    }

    /// A file's text, `None` where it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<String>, DirectoryError> {
        match std::fs::read_to_string(self.root.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(self.error("reading", name, cause)),
        }
    }

    /// Replaces a file whole: written beside it, synced, renamed; mode 0600.
    pub fn write(&self, name: &str, text: &str) -> Result<(), DirectoryError> {
        let path = self.root.join(name);
        let fresh = path.with_extension("new");
        let attempt = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            if let Some(parent) = path.parent() {
                std::fs::File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        attempt().map_err(|cause| self.error("writing", name, cause))
    }

    fn error(&self, operation: &'static str, name: &str, cause: std::io::Error) -> DirectoryError {
        DirectoryError {
            operation,
            path: self.root.join(name).display().to_string(),
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_come_back_and_belong_to_the_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(folder.path()).expect("opens");
        assert!(directory.read("token").expect("reads").is_none());
        directory.write("token", "secret").expect("writes");
        directory.write("token", "newer").expect("writes again");
        assert_eq!(
            directory.read("token").expect("reads").as_deref(),
            Some("newer")
        );
        let mode = std::fs::metadata(directory.path("token"))
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_identity_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(folder.path()).expect("opens");
        directory.write("server.json", "{").expect("writes");
        let error = directory.identity().expect_err("broken").to_string();
        assert!(error.contains("server.json"), "{error}");
    }
}
