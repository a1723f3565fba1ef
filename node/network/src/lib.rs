//! The network of one node: pod namespaces, routes between nodes, service
//! rules and cluster DNS.
//!
//! In: what the agent decided (a pod's uid and address, the peers' pod ranges,
//! the services with their endpoints). Out: kernel state in the network
//! namespace this process runs in, which need not be the machine's own:
//! `trireme up` runs every node in a namespace of its own.
//!
//! Invariants
//! - Every change is idempotent; whatever a killed agent left half made is
//!   either recognised as complete or removed and made again.
//! - A pod's network survives the agent: namespaces are bind-mounted files,
//!   and [`PodNetwork::list`] finds them again.
//! - Service rules change in one kernel transaction per [`ServiceRules::sync`]:
//!   no packet sees half an update.
//! - Nothing is written outside the objects named here: interfaces `tp*` and
//!   `trireme-vxlan`, the nft table `trireme` (and `trireme_mesh` in the pods' own namespaces), routes
//!   of protocol 84.
//!
//! Not here: IPv6, network policies, addresses for LoadBalancer services.
//!
//! Calls are short system calls (a pod takes a few milliseconds) and block;
//! async callers use `spawn_blocking`.

mod cidr;
mod error;
mod netfilter;
mod netlink;

pub mod address;
pub mod conntrack;
pub mod dns;
pub mod intercept;
pub mod namespace;
pub mod pod;
pub mod route;
pub mod service;
pub mod topology;

pub use address::{AddressPool, PoolError};
pub use cidr::{Cidr, CidrError};
pub use error::NetworkError;
pub use intercept::{AnnotationError, Interception, PROBE_MARK};
pub use namespace::{run_in, spawn_in_netns};
pub use pod::{PodAttachment, PodNetwork, PodNetworkConfig};
pub use route::{NodeRoutes, PeerRoute, RouteReport};
pub use service::{
    Affinity, Endpoint, Protocol, ServiceRule, ServiceRules, ServiceRulesConfig, SyncReport,
};
