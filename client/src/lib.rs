//! A client of Trireme's gRPC API (`trireme.v1`), for node agents, controllers and the command
//! line.
//!
//! In: the addresses of all servers, a TLS identity, and JSON objects named by a
//! [`Kind`](trireme_model::kinds::Kind). Out: JSON objects, typed errors that carry Kubernetes'
//! Status, watches, and [`Informer`]s that follow a kind through server failures.
//!
//! Invariants: a call ends by its deadline; a write that may have reached a server is never sent
//! again behind the caller's back ([`Error::Lost`] says so instead); an informer never delivers a
//! change twice or skips one, except that what happens between two lists is delivered as its
//! outcome.
//!
//! Deliberately absent: caching of reads, and the REST form of the API.

mod call;
mod client;
mod cluster;
mod connect;
mod error;
mod event;
mod informer;
mod mesh;
mod tls;
mod token;
mod watch;

pub use client::{
    ApplyOptions, Client, ClientConfig, DeleteOptions, Deletion, ListOptions, ObjectList, PatchType,
};
pub use cluster::join;
pub use connect::{Dialer, Stream, tcp_dialer};
pub use error::Error;
pub use event::{Event, EventRecorder, EventWriter, events};
pub use informer::{Change, Informer, InformerOptions};
pub use tls::{TlsError, certificate_sha256, client_config, pinned_config};
pub use token::{JoinToken, TokenError};
pub use trireme_proto::v1;
pub use watch::{Watch, WatchEvent, WatchOptions};
