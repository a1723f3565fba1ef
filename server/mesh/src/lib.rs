//! Istio's and Kubernetes' objects to proxy configuration, as a pure function of a view.
//!
//! **In:** changes of objects ([`Mesh::update`]), as watches deliver them, and a [`Workload`] that asks. **Out:** xDS
//! resources ([`Mesh::generate`]) in the names and shapes of Istio 1.2x, each with a version that is a digest of its
//! bytes, and of each change the names of what it makes stale ([`Stale`]), so that whoever streams them sends no more
//! than that.
//!
//! Kept here:
//! - the same objects give the same bytes, on every server and however often they changed in between;
//! - an endpoint's change costs what its service's endpoints cost, however many services there are;
//! - no resource names a cluster that is not there, unless an object does;
//! - every route, cluster and virtual host that an object caused names it in its metadata.
//!
//! Not here, on purpose: streams, subscriptions and acknowledgements (server/xds), reading configuration back (xds),
//! what a proxy does with it (proxy/decide), identities and authorization.

mod access_log;
mod assignment;
mod cluster;
pub mod conditions;
mod endpoint;
pub mod explain;
mod filters;
mod gateway;
mod grpc;
mod host;
mod ingress;
mod listener;
mod locality;
mod mesh;
mod mesh_config;
mod proto;
mod protocol;
mod resource;
mod route;
mod routing;
mod rules;
mod scope;
mod secret;
mod service;
mod sight;
mod stale;
mod view;
mod workload;

pub use locality::Locality;
pub use mesh::Mesh;
pub use mesh_config::MeshConfig;
pub use resource::{Resource, Subscription};
pub use sight::Sight;
pub use stale::{Affected, Stale, Types};
pub use trireme_decide::{Change, ObjectKey};
pub use trireme_xds::Kind;
pub use view::{MeshError, View};
pub use workload::{Role, Workload};

/// How metadata names an object of Istio's networking group.
pub(crate) fn reference(kind: &str, key: &ObjectKey) -> String {
    let group = trireme_model::istio::GROUP;
    trireme_xds::metadata::object_reference(group, "v1", kind, &key.namespace, &key.name)
}
