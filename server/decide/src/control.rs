//! The controllers, one file each: level-triggered reconciliation of one key against a view.

use trireme_model::kinds::Kind;

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
    let _ = configuration;
    Vec::new()
}
