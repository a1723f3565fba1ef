//! The cluster as the decisions see it: typed objects behind `Arc` and the indexes over them, kept
//! up to date change by change. A view never reads a clock: whoever feeds it sets [`View::set_now`].

mod get;
mod index;
mod object;
mod silence;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;
use trireme_model::kinds::{self, Kind};

use crate::key::ObjectKey;

pub(crate) use get::in_namespace;
use index::Indexes;
pub(crate) use index::{SERVICE_NAME_LABEL, controller_of, is_finished, node_of, phase_of};
pub use object::{EventTrace, Object, Outline, ROOT_CA_CONFIG_MAP};
pub(crate) use silence::NODE_LEASE_NAMESPACE;
pub use silence::Observation;
use silence::Silence;
use usage::Usage;
pub use usage::{HostPort, NodeUsage, PodDemand, Resources};

/// One change of one object, as a watch delivers it.
#[derive(Clone, Debug)]
pub enum Change {
    /// Added or modified: the whole object.
    Upsert(Value),
    Delete(ObjectKey),
}

/// What a change did, for [`crate::Controller::enqueue`].
#[derive(Clone, Debug)]
pub struct Transition {
    pub key: ObjectKey,
    pub before: Option<Object>,
    pub after: Option<Object>,
}

#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("{kind} {key}: {source}")]
    Malformed {
        kind: &'static str,
        key: String,
        source: serde_json::Error,
    },
    #[error("{kind} without a name or uid")]
    Nameless { kind: &'static str },
}

/// Back-off of a pod whose binding was refused, doubling: kube-scheduler's numbers.
const BINDING_BACK_OFF_FIRST: SignedDuration = SignedDuration::from_secs(1);
const BINDING_BACK_OFF_MAX: SignedDuration = SignedDuration::from_secs(10);

type Typed<T> = BTreeMap<ObjectKey, Arc<T>>;

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub struct View {
    now: Timestamp,
    pub(crate) namespaces: Typed<Namespace>,
    pub(crate) nodes: Typed<Node>,
    pub(crate) pods: Typed<Pod>,
    pub(crate) services: Typed<Service>,
    pub(crate) endpoints: Typed<Endpoints>,
    pub(crate) endpoint_slices: Typed<EndpointSlice>,
    pub(crate) root_cas: Typed<ConfigMap>,
    pub(crate) leases: Typed<Lease>,
    pub(crate) replica_sets: Typed<ReplicaSet>,
    pub(crate) deployments: Typed<Deployment>,
    pub(crate) events: Typed<EventTrace>,
    pub(crate) cluster_roles: Typed<ClusterRole>,
    /// Metadata of every other kind, for garbage collection and namespace deletion.
    pub(crate) others: BTreeMap<&'static Kind, Typed<Outline>>,
    pub(crate) index: Indexes,
    pub(crate) usage: Usage,
    pub(crate) silence: Silence,
    /// Pods bound by a plan of ours whose binding the watch has not shown yet: uid and node.
    assumed: BTreeMap<ObjectKey, (String, String)>,
    /// Pods whose binding was refused: how often in a row, and until when they wait.
    refused_bindings: BTreeMap<ObjectKey, (u32, Timestamp)>,
    /// The last refusal of a controller's write by the API, until one of its writes succeeds.
    failures: BTreeMap<(&'static str, ObjectKey), String>,
}

impl View {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    /// Every kind that has to be listed and watched to feed the view, each storage once.
    pub fn watched() -> Vec<&'static Kind> {
        let mut storages = BTreeSet::new();
        kinds::all()
            .iter()
            .filter(|kind| kind.has_verb("watch") && !kind.is_virtual())
            .filter(|kind| storages.insert(kind.storage))
            .collect()
    }

    /// The time all decisions on this view are made at.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Moves the view's time. Time that runs backwards is ignored.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Takes in one change. Answers what changed (both sides empty when an unknown object was
    /// deleted); a malformed object leaves the view as it was.
    pub fn update(&mut self, kind: &'static Kind, change: Change) -> Result<Transition, ViewError> {
        match change {
            Change::Upsert(value) => {
                let object = Object::from_value(kind, value)?;
                Ok(self.upsert(object))
            }
            Change::Delete(key) => {
                let before = self.remove(kind, &key);
                if let Some(before) = &before {
                    self.silence.forget(before, &key);
                }
                if kind == kinds::POD {
                    self.assumed.remove(&key);
                    self.refused_bindings.remove(&key);
                }
                Ok(Transition {
                    key,
                    before,
                    after: None,
                })
            }
        }
    }

    /// [`View::update`] for an object that is typed already.
    pub fn upsert(&mut self, object: Object) -> Transition {
        let object = match object {
            Object::Pod(pod) => Object::Pod(self.with_assumption(pod)),
            object => object,
        };
        let key = ObjectKey::of(object.metadata());
        let before = self.remove(object.kind(), &key);
        self.insert(key.clone(), object.clone());
        Transition {
            key,
            before,
            after: Some(object),
        }
    }

    /// Counts the pod on `node` from now on, before the watch shows the binding: call it when a
    /// [`crate::Action::Bind`] is sent, so that the next plan does not hand the same room out again.
    pub fn assume(&mut self, pod: &ObjectKey, uid: &str, node: &str) {
        let Some(known) = self.pods.get(pod).cloned() else {
            return;
        };
        if known.metadata.uid.as_deref() != Some(uid) {
            return;
        }
        self.assumed
            .insert(pod.clone(), (uid.to_owned(), node.to_owned()));
        self.upsert(Object::Pod(known));
    }

    /// Takes an assumption back: the binding was refused. The pod is pending again, but the scheduler
    /// leaves it alone for a while, so that one pod that can not be bound does not keep it busy.
    pub fn forget(&mut self, pod: &ObjectKey) {
        if self.assumed.remove(pod).is_none() {
            return;
        }
        let (count, _) = self
            .refused_bindings
            .get(pod)
            .copied()
            .unwrap_or((0, self.now));
        let doubled = BINDING_BACK_OFF_FIRST * 2i32.saturating_pow(count.min(8));
        let until = self.now + doubled.min(BINDING_BACK_OFF_MAX);
        self.refused_bindings
            .insert(pod.clone(), (count.saturating_add(1), until));
        if let Some(known) = self.pods.get(pod).cloned() {
            let mut known = Arc::unwrap_or_clone(known);
            if let Some(spec) = known.spec.as_mut() {
                spec.node_name = None;
            }
            self.upsert(Object::Pod(Arc::new(known)));
        }
    }

    /// Notes that the API refused a write of `controller` for `key` (`None`: one succeeded), for
    /// conditions such as `ReplicaFailure`.
    pub fn note_failure(
        &mut self,
        controller: &'static str,
        key: &ObjectKey,
        refusal: Option<String>,
    ) {
        match refusal {
            Some(refusal) => self.failures.insert((controller, key.clone()), refusal),
            None => self.failures.remove(&(controller, key.clone())),
        };
    }

    /// Until when a pod whose binding was refused is left alone.
    pub(crate) fn backs_off_until(&self, pod: &ObjectKey) -> Option<Timestamp> {
        let (_, until) = self.refused_bindings.get(pod)?;
        (*until > self.now).then_some(*until)
    }

    pub(crate) fn failure(&self, controller: &'static str, key: &ObjectKey) -> Option<&str> {
        self.failures
            .get(&(controller, key.clone()))
            .map(String::as_str)
    }

    /// The watch may still show an assumed pod unbound, for another change of it.
    fn with_assumption(&mut self, pod: Arc<Pod>) -> Arc<Pod> {
        let key = ObjectKey::of(&pod.metadata);
        let Some((uid, node)) = self.assumed.get(&key) else {
            return pod;
        };
        let bound = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.as_deref().is_some_and(|n| !n.is_empty()));
        if bound || pod.metadata.uid.as_deref() != Some(uid) {
            self.assumed.remove(&key);
            self.refused_bindings.remove(&key);
            return pod;
        }
        let mut pod = Arc::unwrap_or_clone(pod);
        if let Some(spec) = pod.spec.as_mut() {
            spec.node_name = Some(node.clone());
        }
        Arc::new(pod)
    }

    fn insert(&mut self, key: ObjectKey, object: Object) {
        self.index.add(&key, &object);
        self.usage.add(&key, &object);
        self.silence.observe(&key, &object, self.now);
        match object {
            Object::Namespace(it) => drop(self.namespaces.insert(key, it)),
            Object::Node(it) => drop(self.nodes.insert(key, it)),
            Object::Pod(it) => drop(self.pods.insert(key, it)),
            Object::Service(it) => drop(self.services.insert(key, it)),
            Object::Endpoints(it) => drop(self.endpoints.insert(key, it)),
            Object::EndpointSlice(it) => drop(self.endpoint_slices.insert(key, it)),
            Object::RootCa(it) => drop(self.root_cas.insert(key, it)),
            Object::Lease(it) => drop(self.leases.insert(key, it)),
            Object::ReplicaSet(it) => drop(self.replica_sets.insert(key, it)),
            Object::Deployment(it) => drop(self.deployments.insert(key, it)),
            Object::Event(it) => drop(self.events.insert(key, it)),
            Object::ClusterRole(it) => drop(self.cluster_roles.insert(key, it)),
            Object::Other(it) => drop(self.others.entry(it.kind).or_default().insert(key, it)),
        }
    }

    fn remove(&mut self, kind: &'static Kind, key: &ObjectKey) -> Option<Object> {
        let object = self.get(kind, key)?;
        self.index.remove(key, &object);
        self.usage.remove(key, &object);
        match &object {
            Object::Namespace(_) => drop(self.namespaces.remove(key)),
            Object::Node(_) => drop(self.nodes.remove(key)),
            Object::Pod(_) => drop(self.pods.remove(key)),
            Object::Service(_) => drop(self.services.remove(key)),
            Object::Endpoints(_) => drop(self.endpoints.remove(key)),
            Object::EndpointSlice(_) => drop(self.endpoint_slices.remove(key)),
            Object::RootCa(_) => drop(self.root_cas.remove(key)),
            Object::Lease(_) => drop(self.leases.remove(key)),
            Object::ReplicaSet(_) => drop(self.replica_sets.remove(key)),
            Object::Deployment(_) => drop(self.deployments.remove(key)),
            Object::Event(_) => drop(self.events.remove(key)),
            Object::ClusterRole(_) => drop(self.cluster_roles.remove(key)),
            Object::Other(it) => {
                if let Some(objects) = self.others.get_mut(it.kind) {
                    objects.remove(key);
                }
            }
        }
        Some(object)
    }
}
