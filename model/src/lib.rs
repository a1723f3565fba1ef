//! The objects of the cluster: what they are, what is allowed in them, and how they change.
//!
//! In: JSON values (and the bytes they came as). Out: the same values checked, defaulted, validated,
//! patched, converted or printed, or a [`status::Status`] in Kubernetes' own words saying why not.
//!
//! One table of kinds ([`kinds`]) drives everything else: discovery, OpenAPI, schema checks, storage keys,
//! protobuf decoding and printing. A new kind is a row there and, where it has rules of its own, a file under
//! `defaults/` and `validate/`.
//!
//! Invariants: every function here is pure (no clock, no randomness: `now` and `uid` are passed in), total on
//! any input, and deterministic: maps are sorted, so equal objects have equal bytes on every server.
//!
//! Deliberately absent: storage, HTTP, admission that needs other objects (quota, service accounts), and
//! allocation of addresses: those live in `server/`.

pub mod apply;
pub mod defaults;
pub mod discovery;
pub mod event;
pub mod istio;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validate;

pub use serde_json::Value;
