//! Envoy's xDS types, the names and metadata we give to resources, and their reading into the
//! proxy's configuration.
//!
//! In: protobuf messages of Envoy's API v3, as our own control plane, an istiod or a test writes
//! them. Out: parsed parts of a [`trireme_proxy_decide::config`] snapshot, or an error that
//! names the resource, the field and, where metadata tells, the Kubernetes object that caused it;
//! that text is what a proxy sends back as its NACK.
//!
//! Invariants: equal messages encode to equal bytes ([`pack`] sorts maps), so that versions may be
//! digests of content and are the same on every server. A field that we do not honour and that
//! would change behaviour is refused; one that is ignored stands in [`parse::IGNORED`] with the reason.
//!
//! Not here: streams and sockets (server/xds serves, proxy/run subscribes), and the choice of what
//! a workload gets (server/mesh).

mod canonical;
mod kind;
pub mod metadata;
pub mod node;
mod packing;
pub mod parse;

pub use envoy_types::pb;
pub use kind::Kind;
pub use node::{NodeId, NodeType};
pub use packing::{UnpackError, encode, pack, type_url, unpack};
