//! The indexes over a view's objects. Every `add` has its `remove` with the same object, so an
//! index never outlives what it points to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use trireme_model::kinds::Kind;

use super::Object;
use crate::key::ObjectKey;

/// Names the service a slice belongs to.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, Default)]
pub(crate) struct Indexes {
    pub pods_by_node: BTreeMap<String, BTreeSet<ObjectKey>>,
    pub pods_by_controller: BTreeMap<String, BTreeSet<ObjectKey>>,
    /// By namespace.
    pub orphan_pods: BTreeMap<String, BTreeSet<ObjectKey>>,
    /// By namespace, label name and label value.
    pods_by_label: BTreeMap<String, BTreeMap<String, BTreeMap<String, BTreeSet<ObjectKey>>>>,
    /// Pods that wait for a node and are not finished or being deleted.
    pub pending_pods: BTreeSet<ObjectKey>,
    /// Pods on a node that care who is near them: affinity or anti-affinity between pods.
    pub opinionated_pods: BTreeSet<ObjectKey>,
    /// Succeeded and failed pods, oldest first.
    pub finished_pods: BTreeSet<(Option<Timestamp>, ObjectKey)>,
    /// By when they were last seen, oldest first.
    pub events_by_age: BTreeSet<(Timestamp, ObjectKey)>,
    pub replica_sets_by_controller: BTreeMap<String, BTreeSet<ObjectKey>>,
    pub slices_by_service: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    pub by_uid: BTreeMap<String, (&'static Kind, ObjectKey)>,
    pub dependents: BTreeMap<String, BTreeSet<(&'static Kind, ObjectKey)>>,
}

pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata
        .owner_references
        .as_ref()?
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// The node a pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

pub(crate) fn phase_of(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

/// Succeeded or Failed: it runs no more and takes no room.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase_of(pod), "Succeeded" | "Failed")
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|at| at.0)
}

fn service_of(metadata: &ObjectMeta) -> Option<ObjectKey> {
    let name = metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(metadata.namespace.clone()?, name.clone()))
}

fn put<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}

fn take<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

impl Indexes {
    pub fn pods_with_label(
        &self,
        namespace: &str,
        name: &str,
        value: &str,
    ) -> Option<&BTreeSet<ObjectKey>> {
        self.pods_by_label.get(namespace)?.get(name)?.get(value)
    }

    pub fn add(&mut self, key: &ObjectKey, object: &Object) {
        let metadata = object.metadata();
        let kind = object.kind();
        if let Some(uid) = &metadata.uid {
            self.by_uid.insert(uid.clone(), (kind, key.clone()));
        }
        for owner in metadata.owner_references.iter().flatten() {
            put(&mut self.dependents, owner.uid.clone(), (kind, key.clone()));
        }
        match object {
            Object::Pod(pod) => self.add_pod(key, pod),
            Object::Event(event) => {
                let seen = event.last_seen.unwrap_or(Timestamp::UNIX_EPOCH);
                self.events_by_age.insert((seen, key.clone()));
            }
            Object::ReplicaSet(_) => {
                if let Some(owner) = controller_of(metadata) {
                    put(
                        &mut self.replica_sets_by_controller,
                        owner.uid.clone(),
                        key.clone(),
                    );
                }
            }
            Object::EndpointSlice(_) => {
                if let Some(service) = service_of(metadata) {
                    put(&mut self.slices_by_service, service, key.clone());
                }
            }
            _ => {}
        }
    }

    pub fn remove(&mut self, key: &ObjectKey, object: &Object) {
        let metadata = object.metadata();
        let kind = object.kind();
        if let Some(uid) = &metadata.uid {
            self.by_uid.remove(uid);
        }
        for owner in metadata.owner_references.iter().flatten() {
            take(&mut self.dependents, &owner.uid, &(kind, key.clone()));
        }
        match object {
            Object::Pod(pod) => self.remove_pod(key, pod),
            Object::Event(event) => {
                let seen = event.last_seen.unwrap_or(Timestamp::UNIX_EPOCH);
                self.events_by_age.remove(&(seen, key.clone()));
            }
            Object::ReplicaSet(_) => {
                if let Some(owner) = controller_of(metadata) {
                    take(&mut self.replica_sets_by_controller, &owner.uid, key);
                }
            }
            Object::EndpointSlice(_) => {
                if let Some(service) = service_of(metadata) {
                    take(&mut self.slices_by_service, &service, key);
                }
            }
            _ => {}
        }
    }

    fn add_pod(&mut self, key: &ObjectKey, pod: &Pod) {
        match controller_of(&pod.metadata) {
            Some(owner) => put(&mut self.pods_by_controller, owner.uid.clone(), key.clone()),
            None => put(&mut self.orphan_pods, key.namespace.clone(), key.clone()),
        }
        for (name, value) in pod.metadata.labels.iter().flatten() {
            let values = self
                .pods_by_label
                .entry(key.namespace.clone())
                .or_default()
                .entry(name.clone())
                .or_default();
            put(values, value.clone(), key.clone());
        }
        if is_finished(pod) {
            self.finished_pods.insert((created(pod), key.clone()));
        }
        match node_of(pod) {
            Some(node) => {
                put(&mut self.pods_by_node, node.to_owned(), key.clone());
                if is_finished(pod) {
                    return;
                }
                let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
                let opinionated = affinity.is_some_and(|affinity| {
                    affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some()
                });
                if opinionated {
                    self.opinionated_pods.insert(key.clone());
                }
            }
            None => {
                if !is_finished(pod) && pod.metadata.deletion_timestamp.is_none() {
                    self.pending_pods.insert(key.clone());
                }
            }
        }
    }

    fn remove_pod(&mut self, key: &ObjectKey, pod: &Pod) {
        match controller_of(&pod.metadata) {
            Some(owner) => take(&mut self.pods_by_controller, &owner.uid, key),
            None => take(&mut self.orphan_pods, &key.namespace, key),
        }
        if let Some(names) = self.pods_by_label.get_mut(&key.namespace) {
            for (name, value) in pod.metadata.labels.iter().flatten() {
                if let Some(values) = names.get_mut(name) {
                    take(values, value, key);
                    if values.is_empty() {
                        names.remove(name);
                    }
                }
            }
            if names.is_empty() {
                self.pods_by_label.remove(&key.namespace);
            }
        }
        if let Some(node) = node_of(pod) {
            take(&mut self.pods_by_node, &node.to_owned(), key);
        }
        self.finished_pods.remove(&(created(pod), key.clone()));
        self.pending_pods.remove(key);
        self.opinionated_pods.remove(key);
    }
}
