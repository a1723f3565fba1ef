//! The controllers, one file each: level-triggered reconciliation of one key against a view.

mod backend;
mod clusterrole;
mod deployment;
mod endpointmirror;
mod endpoints;
mod endpointslice;
mod eventttl;
mod garbagecollector;
mod loadbalancer;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod ownership;
mod podgc;
mod replicaset;
mod rootca;
mod serviceaccount;
mod tainteviction;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use trireme_model::kinds::{self, Kind};

use crate::intent::Plan;
use crate::key::ObjectKey;
use crate::view::{Object, View};

/// What the controllers must be told about the cluster.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The cluster's certificate authority, PEM: published as `kube-root-ca.crt` in every namespace.
    pub ca_pem: String,
    /// Where nodes' pod ranges are cut from, such as `10.42.0.0/16`.
    pub cluster_cidr: String,
    /// Prefix length of one node's range.
    pub node_cidr_prefix: u8,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            ca_pem: String::new(),
            cluster_cidr: "10.42.0.0/16".to_owned(),
            node_cidr_prefix: 24,
        }
    }
}

/// A pure reconciler. `reconcile` may be called at any time and any number of times for any key,
/// also one that does not exist: it answers what is still missing, and nothing when all is well.
pub trait Controller: Send + Sync {
    fn name(&self) -> &'static str;

    /// Keys whose reconciliation a change may call for. `view` holds `after` already. On the first
    /// fill every object is reported with `before` empty.
    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey>;

    fn reconcile(&self, view: &View, key: &ObjectKey, seed: u64) -> Plan;
}

/// All controllers.
pub fn controllers(configuration: &Configuration) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(deployment::Deployments),
        Box::new(replicaset::ReplicaSets),
        Box::new(endpointslice::EndpointSlices),
        Box::new(endpoints::EndpointLists),
        Box::new(endpointmirror::EndpointMirrors),
        Box::new(nodelifecycle::NodeLife),
        Box::new(tainteviction::TaintEviction),
        Box::new(nodeipam::NodeRanges {
            cluster_cidr: configuration.cluster_cidr.clone(),
            node_prefix: configuration.node_cidr_prefix,
        }),
        Box::new(namespace::Namespaces),
        Box::new(garbagecollector::GarbageCollector),
        Box::new(podgc::PodGarbage),
        Box::new(serviceaccount::ServiceAccounts),
        Box::new(rootca::RootCas {
            ca_pem: configuration.ca_pem.clone(),
        }),
        Box::new(eventttl::EventLifetimes),
        Box::new(loadbalancer::LoadBalancers),
        Box::new(clusterrole::Aggregations),
    ]
}

/// Whether a namespace exists and is not being deleted.
fn staying_namespace(view: &View, name: &str) -> bool {
    view.namespace(name)
        .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none())
}

/// Whether a namespace is being deleted: the API takes nothing new for it, so nothing is tried.
fn leaving_namespace(view: &View, name: &str) -> bool {
    view.namespace(name)
        .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
}

/// The namespace to look at when it, or its object of one kind and name, changed.
fn namespace_of_named(
    wanted: &Kind,
    name: &str,
    kind: &Kind,
    before: Option<&Object>,
    after: Option<&Object>,
) -> Vec<ObjectKey> {
    let Some(key) = before.or(after).map(Object::key) else {
        return Vec::new();
    };
    if kind == kinds::NAMESPACE {
        vec![key]
    } else if kind == wanted && key.name == name {
        vec![ObjectKey::cluster(key.namespace)]
    } else {
        Vec::new()
    }
}

/// A typed object as the API takes it.
pub(crate) fn object_value<T: Serialize>(object: &T) -> Value {
    // Kubernetes' types are maps with text keys; serialising them cannot fail. Were that ever
    // untrue, the API would refuse the null instead of storing half an object.
    serde_json::to_value(object).unwrap_or_default()
}

/// Counts of zero are left out of statuses, as Kubernetes does.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The time as statuses carry it: whole seconds. What is written must equal what is read back, or
/// every comparison would find a difference.
pub(crate) fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
