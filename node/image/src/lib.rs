//! Images: found in registries, unpacked into layer directories that every
//! container shares, and removed when nobody uses them.
//!
//! **In:** a reference as a pod writes it, credentials from pull secrets, and
//! `registries.yaml` in k3s's format. **Out:** an [`Image`]: layer directories
//! (the base first) for an overlay, and the image's configuration.
//!
//! Invariants kept here:
//! - A layer directory exists only whole: unpacked beside, synced, renamed.
//! - What was unpacked is what the manifest named: every blob's and every
//!   layer's digest is verified.
//! - Unpacking never writes outside its directory, whatever the archive says.
//! - Two pulls of one layer download it once.
//!
//! Deliberately not here: pull policies and back-off (the agent decides when),
//! and mounting (see `trireme-container`).

mod archive;
mod config;
mod credentials;
mod digest;
mod elf;
mod error;
mod layer;
mod manifest;
mod padding;
mod program;
mod pull;
mod reference;
mod registries;
mod registry;
mod store;
mod unpack;
mod user;

pub use config::ImageConfig;
pub use credentials::{Credential, PullSecrets};
pub use error::ImageError;
pub use program::{ProgramLayer, program_layer};
pub use reference::Reference;
pub use registries::Registries;
pub use store::{Image, ImageStore};
pub use user::{ResolvedUser, resolve_user};
