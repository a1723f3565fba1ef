//! Cluster DNS, one server a node, at an address that only the node has.
//!
//! In: an immutable [`Snapshot`] of the services, replaced whole when
//! something changed. Out: answers by Kubernetes' DNS specification 1.1
//! (services, named ports, headless services, pods by address, reverse names),
//! everything else forwarded to the node's own resolvers.

mod answer;
mod resolv;
mod server;
mod snapshot;
mod upstream;

pub use resolv::{DnsConfig, DnsPolicy, ResolvConf, upstreams};
#[doc(hidden)]
pub use server::answer_datagram;
pub use server::{DnsError, SERVER_ADDRESS, Server, ServerConfig, claim_address, release_address};
pub use snapshot::{EndpointRecord, PortRecord, ServiceAddress, ServiceRecord, Snapshot};
