//! Who a proxy says that it is: Istio's node id and metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::metadata::{Fields, inner, string, text};
use crate::pb::envoy::config::core::v3::{Locality, Node};
use crate::pb::google::protobuf::Struct;

/// What kind of proxy a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeType {
    /// Beside a workload.
    Sidecar,
    /// A gateway.
    Router,
}

impl NodeType {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeType::Sidecar => "sidecar",
            NodeType::Router => "router",
        }
    }
}

/// Why a node id is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    #[error("node id {0:?} is not TYPE~ADDRESS~POD.NAMESPACE~DOMAIN")]
    Shape(String),
    #[error("node id {id:?}: type {found:?} is neither sidecar nor router")]
    Type { id: String, found: String },
    #[error("node id {id:?}: {found:?} is no IP address")]
    Address { id: String, found: String },
}

/// A node's id: `sidecar~10.42.0.7~reviews-v1-5d9c.shop~shop.svc.cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId {
    pub node_type: NodeType,
    pub address: IpAddr,
    pub pod: String,
    pub namespace: String,
    /// Where short names of the workload are looked up: `NAMESPACE.svc.CLUSTER-DOMAIN`.
    pub domain: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}~{}~{}.{}~{}",
            self.node_type.as_str(),
            self.address,
            self.pod,
            self.namespace,
            self.domain
        )
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(id: &str) -> Result<NodeId, NodeIdError> {
        let shape = || NodeIdError::Shape(id.to_owned());
        let parts: Vec<&str> = id.split('~').collect();
        let [node_type, address, workload, domain] = parts[..] else {
            return Err(shape());
        };
        let node_type = match node_type {
            "sidecar" => NodeType::Sidecar,
            "router" => NodeType::Router,
            found => {
                return Err(NodeIdError::Type {
                    id: id.to_owned(),
                    found: found.to_owned(),
                });
            }
        };
        let address = address.parse().map_err(|_| NodeIdError::Address {
            id: id.to_owned(),
            found: address.to_owned(),
        })?;
        // A namespace has no dots; a pod's name may.
        let (pod, namespace) = workload.rsplit_once('.').ok_or_else(shape)?;
        if pod.is_empty() || namespace.is_empty() {
            return Err(shape());
        }
        Ok(NodeId {
            node_type,
            address,
            pod: pod.to_owned(),
            namespace: namespace.to_owned(),
            domain: domain.to_owned(),
        })
    }
}

/// What a proxy tells about itself beside its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMetadata {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    pub node_name: String,
    pub cluster_id: String,
    pub workload_name: String,
    /// `grpc` for a program that is a member without a proxy; empty for proxies.
    pub generator: String,
}

impl NodeMetadata {
    /// In the names that Istio's agents use.
    pub fn to_struct(&self) -> Struct {
        let mut fields = Fields::new();
        let texts = [
            ("NAME", &self.name),
            ("NAMESPACE", &self.namespace),
            ("SERVICE_ACCOUNT", &self.service_account),
            ("NODE_NAME", &self.node_name),
            ("CLUSTER_ID", &self.cluster_id),
            ("WORKLOAD_NAME", &self.workload_name),
            ("GENERATOR", &self.generator),
        ];
        for (name, value) in texts {
            if !value.is_empty() {
                fields.set(name, string(value));
            }
        }
        if !self.labels.is_empty() {
            let labels = self.labels.iter();
            let labels = Fields::text(labels.map(|(name, value)| (name.as_str(), value.as_str())));
            fields.set("LABELS", labels.into_value());
        }
        fields.into_struct()
    }

    /// What is absent is empty; what is unknown is left out.
    pub fn of_struct(fields: &Struct) -> NodeMetadata {
        let field = |name| text(fields, name).unwrap_or_default().to_owned();
        let mut labels = BTreeMap::new();
        if let Some(given) = inner(fields, "LABELS") {
            for name in given.fields.keys() {
                if let Some(value) = text(given, name) {
                    labels.insert(name.clone(), value.to_owned());
                }
            }
        }
        NodeMetadata {
            name: field("NAME"),
            namespace: field("NAMESPACE"),
            labels,
            service_account: field("SERVICE_ACCOUNT"),
            node_name: field("NODE_NAME"),
            cluster_id: field("CLUSTER_ID"),
            workload_name: field("WORKLOAD_NAME"),
            generator: field("GENERATOR"),
        }
    }
}

/// The node that a proxy puts into its first request.
pub fn node(
    id: &NodeId,
    metadata: &NodeMetadata,
    cluster: &str,
    locality: Option<Locality>,
) -> Node {
    Node {
        id: id.to_string(),
        cluster: cluster.to_owned(),
        metadata: Some(metadata.to_struct()),
        locality,
        ..Node::default()
    }
}

/// A node's metadata, empty where it has none.
pub fn metadata(node: &Node) -> NodeMetadata {
    node.metadata
        .as_ref()
        .map(NodeMetadata::of_struct)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_written() {
        let text = "sidecar~10.42.0.7~reviews.v1-5d9c.shop~shop.svc.cluster.local";
        let id: NodeId = text.parse().expect("valid");
        assert_eq!(id.pod, "reviews.v1-5d9c");
        assert_eq!(id.namespace, "shop");
        assert_eq!(id.to_string(), text);
        let router = "router~fd00::7~gate-1.istio-system~istio-system.svc.cluster.local";
        assert_eq!(
            router.parse::<NodeId>().map(|id| id.node_type),
            Ok(NodeType::Router)
        );
    }

    #[test]
    fn what_is_no_id_says_why() {
        let refused = |text: &str| text.parse::<NodeId>().map_err(|error| error.to_string());
        assert_eq!(
            refused("sidecar~10.0.0.1~a.b"),
            Err("node id \"sidecar~10.0.0.1~a.b\" is not TYPE~ADDRESS~POD.NAMESPACE~DOMAIN".into())
        );
        assert_eq!(
            refused("ztunnel~10.0.0.1~a.b~c"),
            Err("node id \"ztunnel~10.0.0.1~a.b~c\": type \"ztunnel\" is neither sidecar nor router".into())
        );
        assert!(refused("sidecar~here~a.b~c").is_err());
        assert!(refused("sidecar~10.0.0.1~ab~c").is_err());
        assert!(refused("sidecar~10.0.0.1~.b~c").is_err());
        assert!(refused("").is_err());
    }

    #[test]
    fn metadata_is_read_as_written() {
        let metadata = NodeMetadata {
            name: "reviews-1".into(),
            namespace: "shop".into(),
            labels: BTreeMap::from([("app".into(), "reviews".into())]),
            service_account: "default".into(),
            workload_name: "reviews".into(),
            ..NodeMetadata::default()
        };
        assert_eq!(NodeMetadata::of_struct(&metadata.to_struct()), metadata);
    }
}
