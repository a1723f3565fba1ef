//! The proxy: sidecar, gateway and forward proxy in one program.
//!
//! In come connections (redirected ones, or to a gateway's ports) and configuration (xDS, or a static snapshot); out
//! go connections to the endpoints that `proxy/decide` chose, telemetry and logs. Every decision is taken there; here
//! it is carried out.
//!
//! Invariants: a worker is one thread and shares nothing mutable with the others but the decisions' state; a
//! configuration takes effect as one snapshot, for connections and requests that start after it; the last good one
//! stays when the control plane is gone or sends what cannot be applied; nothing is buffered without a named limit;
//! an idle connection owns no buffer.
//!
//! Deliberately not here: identities and authorization (their place is between `tls` and `listener`).

mod admin;
mod attempt;
mod body;
mod chain;
#[doc(hidden)]
pub mod client_hello;
mod date;
mod deadline;
#[doc(hidden)]
pub mod detect;
mod dns;
mod drain;
mod exchange;
pub mod h1;
pub mod h2;
mod http;
mod inspect;
mod listener;
mod mirror;
pub mod net;
mod number;
mod pool;
mod program;
mod rate_limit;
mod replay;
mod shared;
mod sweep;
mod tcp;
pub mod telemetry;
mod tls;
mod tunnel;
mod worker;
pub mod xds;

pub use admin::{Control, Scope, answer};
pub use body::Body;
pub use drain::Drain;
pub use program::{main, without_huge_pages};
pub use shared::Shared;
pub use worker::Worker;

use std::rc::Rc;
use std::sync::Arc;

/// Starts what runs once a process, on this worker: the resolution of names, and the sweeps of outlier detection.
pub fn spawn_background(shared: &Arc<Shared>, net: &Rc<dyn net::Net>) {
    tokio::task::spawn_local(dns::run(shared.clone(), net.clone()));
    tokio::task::spawn_local(sweep::run(shared.clone()));
}
