//! Streams configuration as xDS: aggregated, state of the world and delta.
//!
//! In: a [`Source`] that answers for each node with its [`View`], and the requests of its
//! stream. Out: responses with what changed and nothing else, and a [`Registry`] of what every
//! connected workload has acknowledged or refused.
//!
//! Invariants:
//! - A stream holds at most one unacknowledged response of a kind; what changes meanwhile is sent
//!   as one later change. A slow client therefore costs a few responses, however much changes.
//! - Make before break: clusters, then endpoints, then listeners, then routes; a cluster is
//!   withdrawn only after the listeners and routes without it were acknowledged.
//! - Versions are digests of content, equal on all servers, so that a client that reconnects
//!   elsewhere is sent only what differs from what it has.
//!
//! [`session`] is the protocol without I/O; [`service`] is the I/O without protocol. What a
//! workload should get is decided in server/mesh.

pub mod mesh;
pub mod registry;
pub mod service;
pub mod session;
pub mod source;
mod subscription;

pub use mesh::MeshSource;
pub use registry::{KindState, KindStatus, Registry, WorkloadStatus};
pub use service::{Admit, Ads};
pub use source::{
    ChangeLog, Resource, Resources, Source, SourceError, StaticSource, View, Workload,
};
