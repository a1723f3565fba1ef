//! One server: wiring of consensus, state, API and decisions.
//!
//! In: [`ServerOptions`]. Out: a process that serves the API on one port and Raft on another, and
//! that runs the scheduler and the controllers while it leads.
//!
//! Keeps I1 (controllers write through the API's gRPC form, as any client) and the executor's half
//! of I5: an intent carries its precondition, and a key is not decided again until the view has
//! seen the writes that its last decision made.
//!
//! Deliberately not here: what to do (server/decide), what an object means (model), how entries are
//! replicated (server/raft).

pub mod authority;
mod bootstrap;
mod cluster;
pub mod compaction;
mod conditions;
mod control;
mod directory;
mod event;
mod execute;
mod explain;
mod join;
mod kubeconfig;
mod mesh;
mod mesh_service;
mod peers;
mod replica;
mod server;
pub mod token;

pub use directory::{Directory, DirectoryError, Identity};
pub use join::JoinError;
pub use kubeconfig::kubeconfig;
pub use server::{ServerOptions, Start, run};
pub use trireme_raft::Timing;
