use std::io;
use std::path::PathBuf;

/// What failed, on which object, and why.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a netlink request.
    #[error("cannot {operation}: {source}")]
    Netlink {
        operation: String,
        source: io::Error,
    },

    /// A network namespace could not be made, entered or removed.
    #[error("network namespace {path}: cannot {operation}: {source}", path = path.display())]
    Namespace {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },

    /// A kernel setting under /proc/sys could not be written.
    #[error("cannot set {path} to {value:?}: {source}", path = path.display())]
    Setting {
        path: PathBuf,
        value: String,
        source: io::Error,
    },

    /// An interface that has to exist does not.
    #[error("no network interface named {name}")]
    NoLink { name: String },

    /// A name that the kernel would refuse.
    #[error("{name:?} cannot name a network interface: {why}")]
    BadLinkName { name: String, why: &'static str },

    /// `nft` could not be run.
    #[error("cannot run nft (package nftables): {source}")]
    NftMissing { source: io::Error },

    /// `nft` refused the rules.
    #[error("nft refused {what}: {stderr}")]
    Nft { what: &'static str, stderr: String },

    /// An address range too small or otherwise unfit for its use.
    #[error("{range} cannot be used as {usage}: {why}")]
    Range {
        range: String,
        usage: &'static str,
        why: &'static str,
    },
}

impl NetworkError {
    pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
        let operation = operation.into();
        move |source| NetworkError::Netlink { operation, source }
    }
}
