//! Objects in the form the view holds them: typed where a decision reads their content, metadata
//! only where garbage collection and namespace deletion are all that ask for them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;

use super::ViewError;
use crate::key::ObjectKey;

/// The ConfigMap with the cluster's CA that every namespace has.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

/// An object and its kind; cheap to clone.
#[derive(Clone, Debug)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    Endpoints(Arc<Endpoints>),
    EndpointSlice(Arc<EndpointSlice>),
    /// A ConfigMap named [`ROOT_CA_CONFIG_MAP`]; all others are [`Object::Other`].
    RootCa(Arc<ConfigMap>),
    Lease(Arc<Lease>),
    ReplicaSet(Arc<ReplicaSet>),
    Deployment(Arc<Deployment>),
    Event(Arc<EventTrace>),
    ClusterRole(Arc<ClusterRole>),
    Other(Arc<Outline>),
}

/// The metadata of an object whose content no decision reads.
#[derive(Clone, Debug)]
pub struct Outline {
    pub kind: &'static Kind,
    pub metadata: ObjectMeta,
}

/// An event without its text: when it was last seen is all that its removal asks.
#[derive(Clone, Debug)]
pub struct EventTrace {
    pub metadata: ObjectMeta,
    pub last_seen: Option<Timestamp>,
}

fn typed<T: DeserializeOwned>(kind: &'static Kind, value: Value) -> Result<Arc<T>, ViewError> {
    let key = format!("{}/{}", meta::namespace(&value), meta::name(&value));
    serde_json::from_value(value)
        .map(Arc::new)
        .map_err(|source| ViewError::Malformed {
            kind: kind.kind,
            key,
            source,
        })
}

impl Object {
    pub fn from_value(kind: &'static Kind, mut value: Value) -> Result<Object, ViewError> {
        if meta::name(&value).is_empty() || meta::uid(&value).is_empty() {
            return Err(ViewError::Nameless { kind: kind.kind });
        }
        // Half of a small object's bytes, read by no decision. An update that carries none leaves
        // the stored ones alone, as in Kubernetes.
        meta::metadata_mut(&mut value).remove("managedFields");
        Ok(if kind == kinds::NAMESPACE {
            Object::Namespace(typed(kind, value)?)
        } else if kind == kinds::NODE {
            Object::Node(typed(kind, value)?)
        } else if kind == kinds::POD {
            Object::Pod(typed(kind, value)?)
        } else if kind == kinds::SERVICE {
            Object::Service(typed(kind, value)?)
        } else if kind == kinds::ENDPOINTS {
            Object::Endpoints(typed(kind, value)?)
        } else if kind == kinds::ENDPOINT_SLICE {
            Object::EndpointSlice(typed(kind, value)?)
        } else if kind == kinds::LEASE {
            Object::Lease(typed(kind, value)?)
        } else if kind == kinds::REPLICA_SET {
            Object::ReplicaSet(typed(kind, value)?)
        } else if kind == kinds::DEPLOYMENT {
            Object::Deployment(typed(kind, value)?)
        } else if kind == kinds::EVENT {
            Object::Event(Arc::new(EventTrace::of(typed(kind, value)?)))
        } else if kind == kinds::CLUSTER_ROLE {
            Object::ClusterRole(typed(kind, value)?)
        } else if kind == kinds::CONFIG_MAP && meta::name(&value) == ROOT_CA_CONFIG_MAP {
            Object::RootCa(typed(kind, value)?)
        } else {
            let metadata = value.get_mut("metadata").map(Value::take);
            let metadata: Arc<ObjectMeta> = typed(kind, metadata.unwrap_or_default())?;
            Object::Other(Arc::new(Outline {
                kind,
                metadata: Arc::unwrap_or_clone(metadata),
            }))
        })
    }

    pub fn kind(&self) -> &'static Kind {
        match self {
            Object::Namespace(_) => kinds::NAMESPACE,
            Object::Node(_) => kinds::NODE,
            Object::Pod(_) => kinds::POD,
            Object::Service(_) => kinds::SERVICE,
            Object::Endpoints(_) => kinds::ENDPOINTS,
            Object::EndpointSlice(_) => kinds::ENDPOINT_SLICE,
            Object::RootCa(_) => kinds::CONFIG_MAP,
            Object::Lease(_) => kinds::LEASE,
            Object::ReplicaSet(_) => kinds::REPLICA_SET,
            Object::Deployment(_) => kinds::DEPLOYMENT,
            Object::Event(_) => kinds::EVENT,
            Object::ClusterRole(_) => kinds::CLUSTER_ROLE,
            Object::Other(outline) => outline.kind,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Namespace(it) => &it.metadata,
            Object::Node(it) => &it.metadata,
            Object::Pod(it) => &it.metadata,
            Object::Service(it) => &it.metadata,
            Object::Endpoints(it) => &it.metadata,
            Object::EndpointSlice(it) => &it.metadata,
            Object::RootCa(it) => &it.metadata,
            Object::Lease(it) => &it.metadata,
            Object::ReplicaSet(it) => &it.metadata,
            Object::Deployment(it) => &it.metadata,
            Object::Event(it) => &it.metadata,
            Object::ClusterRole(it) => &it.metadata,
            Object::Other(it) => &it.metadata,
        }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.metadata())
    }

    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match self {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    pub fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Object::Node(node) => Some(node),
            _ => None,
        }
    }

    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    pub fn replica_set(&self) -> Option<&Arc<ReplicaSet>> {
        match self {
            Object::ReplicaSet(set) => Some(set),
            _ => None,
        }
    }
}

impl EventTrace {
    fn of(event: Arc<Event>) -> Self {
        let series = event.series.as_ref();
        let last_seen = [
            event.last_timestamp.as_ref().map(|at| at.0),
            series.and_then(|series| series.last_observed_time.as_ref().map(|at| at.0)),
            event.event_time.as_ref().map(|at| at.0),
            event.metadata.creation_timestamp.as_ref().map(|at| at.0),
        ]
        .into_iter()
        .flatten()
        .max();
        Self {
            metadata: event.metadata.clone(),
            last_seen,
        }
    }
}
