//! Who asks: a proxy, as it introduces itself.

use std::collections::BTreeMap;

use trireme_decide::ObjectKey;
use trireme_xds::node::NodeIdError;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::{NodeId, NodeType};

use crate::locality::Locality;

/// What Istio calls a cluster that has no other name.
pub const CLUSTER_ID: &str = "Kubernetes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
    /// A gRPC library without a proxy.
    Grpc,
}

/// A member of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub role: Role,
    /// As in the proxy's id.
    pub address: String,
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    pub node_name: String,
    pub cluster_id: String,
    /// Of the Deployment or whatever made the pod.
    pub workload_name: String,
    pub locality: Locality,
}

impl Workload {
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone(), self.name.clone())
    }

    /// Reads the node's id and the metadata that Istio's proxies send: NAME, NAMESPACE, LABELS, SERVICE_ACCOUNT,
    /// NODE_NAME, CLUSTER_ID, WORKLOAD_NAME, GENERATOR.
    pub fn from_node(node: &Node) -> Result<Workload, NodeIdError> {
        let id: NodeId = node.id.parse()?;
        let metadata = trireme_xds::node::metadata(node);
        let or = |told: String, otherwise: &str| match told.is_empty() {
            true => otherwise.to_owned(),
            false => told,
        };
        let locality = node.locality.as_ref().map(|it| Locality {
            region: it.region.clone(),
            zone: it.zone.clone(),
            sub_zone: it.sub_zone.clone(),
        });
        Ok(Workload {
            role: match (metadata.generator.as_str(), id.node_type) {
                ("grpc", _) => Role::Grpc,
                (_, NodeType::Sidecar) => Role::Sidecar,
                (_, NodeType::Router) => Role::Router,
            },
            address: id.address.to_string(),
            name: or(metadata.name, &id.pod),
            namespace: or(metadata.namespace, &id.namespace),
            labels: metadata.labels,
            service_account: metadata.service_account,
            node_name: metadata.node_name,
            cluster_id: or(metadata.cluster_id, CLUSTER_ID),
            workload_name: metadata.workload_name,
            locality: locality.unwrap_or_default(),
        })
    }
}
