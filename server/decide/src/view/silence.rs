//! How long a node has been silent, by this view's own time.
//!
//! A node renews its Lease (or its Ready condition) by its own clock, which need not agree with
//! ours. So what counts is when this view first saw the newest renewal, never the time written in
//! it. A view that has just been filled (a new leader) sees every node for the first time: all get
//! the full grace again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::Object;
use crate::key::ObjectKey;

/// Where node agents keep their Leases.
pub(crate) const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// The newest sign of life of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What was written: a renewal or heartbeat time, by the node's clock.
    pub renewed: Option<Timestamp>,
    /// When this view first saw it, by the view's time.
    pub seen: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Silence {
    leases: BTreeMap<String, Observation>,
    statuses: BTreeMap<String, Observation>,
    /// When each NoExecute taint of a node was first seen, by key and value.
    taints: BTreeMap<String, BTreeMap<(String, Option<String>), Timestamp>>,
}

fn renewal(lease: &Lease) -> Option<Timestamp> {
    lease
        .spec
        .as_ref()?
        .renew_time
        .as_ref()
        .map(|renewed| renewed.0)
}

/// The heartbeat of the Ready condition, if the node agent wrote it: one that says Unknown is ours.
fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status != "Unknown")?;
    ready.last_heartbeat_time.as_ref().map(|at| at.0)
}

fn note(
    map: &mut BTreeMap<String, Observation>,
    name: &str,
    renewed: Option<Timestamp>,
    now: Timestamp,
) {
    match map.get_mut(name) {
        Some(known) if known.renewed == renewed || renewed.is_none() => {}
        Some(known) => {
            *known = Observation { renewed, seen: now };
        }
        None => {
            map.insert(name.to_owned(), Observation { renewed, seen: now });
        }
    }
}

impl Silence {
    pub fn observe(&mut self, key: &ObjectKey, object: &Object, now: Timestamp) {
        match object {
            Object::Lease(lease) if key.namespace == NODE_LEASE_NAMESPACE => {
                note(&mut self.leases, &key.name, renewal(lease), now);
            }
            Object::Node(node) => {
                note(&mut self.statuses, &key.name, heartbeat(node), now);
                self.observe_taints(&key.name, node, now);
            }
            _ => {}
        }
    }

    fn observe_taints(&mut self, name: &str, node: &Node, now: Timestamp) {
        let known = self.taints.remove(name).unwrap_or_default();
        let taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        let seen: BTreeMap<_, _> = taints
            .filter(|taint| taint.effect == "NoExecute")
            .map(|taint| (taint.key.clone(), taint.value.clone()))
            .map(|taint| {
                let since = known.get(&taint).copied().unwrap_or(now);
                (taint, since)
            })
            .collect();
        if !seen.is_empty() {
            self.taints.insert(name.to_owned(), seen);
        }
    }

    /// When this view first saw a NoExecute taint that the node still has.
    pub fn taint_seen(&self, node: &str, taint: &Taint) -> Option<Timestamp> {
        let identity = (taint.key.clone(), taint.value.clone());
        self.taints.get(node)?.get(&identity).copied()
    }

    /// When the node last gave a sign of life, by the view's time.
    pub fn last_seen(&self, node: &str) -> Option<Timestamp> {
        let lease = self.leases.get(node).map(|it| it.seen);
        let status = self.statuses.get(node).map(|it| it.seen);
        lease.max(status)
    }

    /// Forgets nodes and leases that are gone for good, so that the maps stay as large as the
    /// cluster.
    pub fn forget(&mut self, object: &Object, key: &ObjectKey) {
        match object {
            Object::Lease(_) if key.namespace == NODE_LEASE_NAMESPACE => {
                self.leases.remove(&key.name);
            }
            Object::Node(_) => {
                self.statuses.remove(&key.name);
                self.taints.remove(&key.name);
            }
            _ => {}
        }
    }
}
