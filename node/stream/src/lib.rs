//! The node's side of `kubectl exec`, `attach` and `port-forward`.
//!
//! In: an HTTP request that asks for an upgrade, and a backend that starts a
//! process or opens a connection. Out: the upgrade's response, and a session
//! that lives until its process has ended or its client is gone.
//!
//! Spoken: WebSocket with `v5.channel.k8s.io`, `v4.channel.k8s.io`, their base64
//! form and the nameless first version; SPDY/3.1 with `v4.channel.k8s.io` down
//! to `channel.k8s.io`; port-forward over SPDY, also tunnelled in a WebSocket.
//!
//! Invariants
//! - Every session is owned by a [`Sessions`], which ends and awaits them.
//! - Nothing is buffered without bound: a slow reader stops its writer.
//! - A client that vanishes drops the process's handles, by which the backend
//!   learns of it.
//!
//! Not here: who may do this (the API server), what a container is (the
//! runtime), logs (plain HTTP).

mod backend;
mod exec;
mod outgoing;
mod port_forward;
mod sessions;
mod spdy;
mod status;
mod upgrade;
mod websocket;
#[doc(hidden)]
pub mod wire;

pub use backend::{
    BackendError, ExecBackend, PortForwardBackend, Process, Reader, StreamOptions, TerminalSize,
    Writer,
};
pub use exec::serve_exec;
pub use port_forward::{PortForwardOptions, serve_port_forward};
pub use sessions::Sessions;

/// The response's body: short text, or nothing where the upgrade succeeds.
pub type Body = http_body_util::Full<bytes::Bytes>;
