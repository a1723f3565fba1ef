//! Reading a view.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use trireme_model::kinds::{self, Kind};

use super::{NodeUsage, Object, View};
use crate::key::ObjectKey;

/// The part of a map that lies in one namespace.
pub(crate) fn in_namespace<'a, T>(
    map: &'a BTreeMap<ObjectKey, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
    let start = ObjectKey::new(namespace, "");
    map.range((Bound::Included(start), Bound::Unbounded))
        .take_while(move |(key, _)| key.namespace == namespace)
}

impl View {
    pub fn get(&self, kind: &Kind, key: &ObjectKey) -> Option<Object> {
        if kind == kinds::NAMESPACE {
            self.namespaces.get(key).cloned().map(Object::Namespace)
        } else if kind == kinds::NODE {
            self.nodes.get(key).cloned().map(Object::Node)
        } else if kind == kinds::POD {
            self.pods.get(key).cloned().map(Object::Pod)
        } else if kind == kinds::SERVICE {
            self.services.get(key).cloned().map(Object::Service)
        } else if kind == kinds::ENDPOINTS {
            self.endpoints.get(key).cloned().map(Object::Endpoints)
        } else if kind == kinds::ENDPOINT_SLICE {
            self.endpoint_slices
                .get(key)
                .cloned()
                .map(Object::EndpointSlice)
        } else if kind == kinds::LEASE {
            self.leases.get(key).cloned().map(Object::Lease)
        } else if kind == kinds::REPLICA_SET {
            self.replica_sets.get(key).cloned().map(Object::ReplicaSet)
        } else if kind == kinds::DEPLOYMENT {
            self.deployments.get(key).cloned().map(Object::Deployment)
        } else if kind == kinds::EVENT {
            self.events.get(key).cloned().map(Object::Event)
        } else if kind == kinds::CLUSTER_ROLE {
            self.cluster_roles
                .get(key)
                .cloned()
                .map(Object::ClusterRole)
        } else if kind == kinds::CONFIG_MAP && key.name == super::ROOT_CA_CONFIG_MAP {
            self.root_cas.get(key).cloned().map(Object::RootCa)
        } else {
            self.others.get(kind)?.get(key).cloned().map(Object::Other)
        }
    }

    /// Keys of all objects of a kind, those of one namespace where one is named.
    pub fn keys(&self, kind: &Kind, namespace: Option<&str>) -> Vec<ObjectKey> {
        fn pick<T>(map: &BTreeMap<ObjectKey, T>, namespace: Option<&str>) -> Vec<ObjectKey> {
            match namespace {
                None => map.keys().cloned().collect(),
                Some(namespace) => in_namespace(map, namespace)
                    .map(|(key, _)| key.clone())
                    .collect(),
            }
        }
        if kind == kinds::NAMESPACE {
            pick(&self.namespaces, namespace)
        } else if kind == kinds::NODE {
            pick(&self.nodes, namespace)
        } else if kind == kinds::POD {
            pick(&self.pods, namespace)
        } else if kind == kinds::SERVICE {
            pick(&self.services, namespace)
        } else if kind == kinds::ENDPOINTS {
            pick(&self.endpoints, namespace)
        } else if kind == kinds::ENDPOINT_SLICE {
            pick(&self.endpoint_slices, namespace)
        } else if kind == kinds::LEASE {
            pick(&self.leases, namespace)
        } else if kind == kinds::REPLICA_SET {
            pick(&self.replica_sets, namespace)
        } else if kind == kinds::DEPLOYMENT {
            pick(&self.deployments, namespace)
        } else if kind == kinds::EVENT {
            pick(&self.events, namespace)
        } else if kind == kinds::CLUSTER_ROLE {
            pick(&self.cluster_roles, namespace)
        } else {
            let mut keys = self
                .others
                .get(kind)
                .map(|map| pick(map, namespace))
                .unwrap_or_default();
            if kind == kinds::CONFIG_MAP {
                keys.extend(pick(&self.root_cas, namespace));
            }
            keys
        }
    }

    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::cluster(name))
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// Pods bound to a node, whether or not the node exists.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.index
            .pods_by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// What the pods on a node ask for, all together.
    pub fn usage_of(&self, node: &str) -> Option<&NodeUsage> {
        self.usage.nodes.get(node)
    }

    pub fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    pub fn replica_set(&self, key: &ObjectKey) -> Option<&Arc<ReplicaSet>> {
        self.replica_sets.get(key)
    }

    pub fn deployment(&self, key: &ObjectKey) -> Option<&Arc<Deployment>> {
        self.deployments.get(key)
    }

    /// Pods whose controller has this uid.
    pub fn pods_of<'a>(&'a self, controller_uid: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.index
            .pods_by_controller
            .get(controller_uid)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// Pods of a namespace that no controller owns.
    pub fn orphan_pods<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.index
            .orphan_pods
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// Pods of a namespace that carry all of these labels; with none, all of the namespace.
    pub fn pods_labelled<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> Vec<&'a Arc<Pod>> {
        // The label that the fewest pods carry bounds the walk.
        let rarest = labels
            .iter()
            .map(|(name, value)| self.index.pods_with_label(namespace, name, value))
            .min_by_key(|keys| keys.map_or(0, |keys| keys.len()));
        match rarest {
            None => in_namespace(&self.pods, namespace)
                .map(|(_, pod)| pod)
                .collect(),
            Some(None) => Vec::new(),
            Some(Some(keys)) => keys
                .iter()
                .filter_map(|key| self.pods.get(key))
                .filter(|pod| {
                    let own = pod.metadata.labels.as_ref();
                    labels
                        .iter()
                        .all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
                })
                .collect(),
        }
    }

    /// ReplicaSets whose controller has this uid.
    pub fn replica_sets_of<'a>(
        &'a self,
        controller_uid: &str,
    ) -> impl Iterator<Item = &'a Arc<ReplicaSet>> {
        self.index
            .replica_sets_by_controller
            .get(controller_uid)
            .into_iter()
            .flatten()
            .filter_map(|key| self.replica_sets.get(key))
    }

    /// Slices that carry the service's name in `kubernetes.io/service-name`.
    pub fn slices_of<'a>(
        &'a self,
        service: &ObjectKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.index
            .slices_by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.endpoint_slices.get(key))
    }

    /// The object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<Object> {
        let (kind, key) = self.index.by_uid.get(uid)?;
        self.get(kind, key)
    }

    /// Objects that name this uid among their owners.
    pub fn dependents_of<'a>(&'a self, owner_uid: &str) -> impl Iterator<Item = Object> + 'a {
        self.index
            .dependents
            .get(owner_uid)
            .into_iter()
            .flatten()
            .filter_map(|(kind, key)| self.get(kind, key))
    }
}
