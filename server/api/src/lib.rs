//! Kubernetes' REST API and its gRPC form (`trireme.v1.Resources`) over one replica, on one port.
//!
//! In: HTTP requests (TLS, HTTP/1.1 and HTTP/2) or their socketless form ([`Api::handle`]), with the identity
//! of a client certificate or service account token. Out: objects, lists, tables, watch streams, or a
//! `Status` in Kubernetes' own words.
//!
//! One handler set over the table of kinds (`trireme_model::kinds`): a path becomes a [`route`], a route and
//! a method become a typed request, a [`verb`] carries it out, [`respond`] writes the result in the form that
//! the client accepts. gRPC maps to the same typed requests.
//!
//! Invariants:
//! - Every write passes authorization, admission and validation, and is one Raft command that carries its
//!   precondition (the revision read); what was decided on a stale read becomes a conflict and is decided again.
//! - Reads are linearizable unless the caller asked otherwise; so are refusals and writes that change nothing.
//! - No request path blocks a thread or spawns one: the crate runs unchanged in the simulator.
//!
//! Deliberately absent: decisions (controllers, scheduling), the terminal protocols of exec and port-forward
//! (they are spliced to the node), certificates, and membership, whose gRPC service the server passes in.

mod admission;
mod api;
mod authenticate;
mod authorize;
mod body;
mod bootstrap;
mod config;
mod document;
mod document_page;
mod failure;
mod grpc;
mod handle;
mod identity;
mod metrics;
mod params;
mod respond;
mod route;
mod serve;
mod shape;
mod store;
mod stream_proxy;
mod subresource;
mod token;
mod verb;
mod watch_body;

pub use api::{Api, ConfigError, bootstrap_objects};
pub use config::{ApiConfig, Limits};
pub use identity::{Identity, MASTERS, NODES};
pub use respond::{Body, BodyError};
pub use serve::{Listener, serve};
