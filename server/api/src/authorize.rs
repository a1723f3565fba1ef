//! May this identity do that? Masters pass; node agents by the node authorizer; everyone by RBAC.

pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod review;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use trireme_model::selector::FieldSelector;
use trireme_model::status::Status;
use trireme_state::{EventKind, Revision};

use crate::failure;
use crate::identity::Identity;
use crate::store::{Store, prefix_range};
use policy::Policy;

/// All four RBAC kinds are kept under it.
const RBAC_PREFIX: &str = "/registry/rbac.authorization.k8s.io/";
/// How long a write of a role waits for this server's own rules to contain it, so that the next request
/// of the same client meets them. The rules are at most a watch event behind.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the rules are read anew after their watch ended.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// `None` at the cluster scope.
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    /// Set for paths that are no resources; the fields above except `verb` are empty then.
    pub path: Option<&'a str>,
    pub field_selector: Option<&'a FieldSelector>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub allowed: bool,
    /// Which rule allowed it, for reviews.
    pub reason: String,
}

impl Decision {
    fn allow(reason: impl Into<String>) -> Decision {
        Decision {
            allowed: true,
            reason: reason.into(),
        }
    }

    fn no_opinion() -> Decision {
        Decision {
            allowed: false,
            reason: String::new(),
        }
    }
}

#[derive(Clone, Default)]
struct Rules {
    policy: Arc<Policy>,
    revision: Revision,
}

pub(crate) struct Authorizer {
    store: Store,
    rules: watch::Receiver<Rules>,
    _follower: AbortOnDropHandle<()>,
}

impl Authorizer {
    /// Starts following the RBAC objects of this replica.
    pub fn start(store: Store) -> Authorizer {
        let (sender, rules) = watch::channel(Rules::default());
        let follower = tokio::spawn(follow(store.clone(), sender));
        Authorizer {
            store,
            rules,
            _follower: AbortOnDropHandle::new(follower),
        }
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.rules.borrow().policy.clone()
    }

    pub fn decide(&self, identity: &Identity, attributes: &Attributes<'_>) -> Decision {
        if identity.is_master() {
            return Decision::allow("system:masters may do everything");
        }
        if let Some(node) = identity.node()
            && node::allows(&self.store, node, attributes)
        {
            return Decision::allow("node authorizer");
        }
        self.policy().decide(identity, attributes)
    }

    /// The refusal to answer with, in Kubernetes' words.
    pub fn check(&self, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), Status> {
        if self.decide(identity, attributes).allowed {
            return Ok(());
        }
        if identity.is_anonymous() {
            return Err(Status::unauthorized());
        }
        Err(match attributes.path {
            Some(path) => failure::forbidden_path(identity, attributes.verb, path),
            None => failure::forbidden_resource(
                identity,
                attributes.verb,
                attributes.group,
                attributes.resource,
                attributes.subresource,
                attributes.namespace,
                attributes.name,
            ),
        })
    }

    /// Waits until the rules contain a write made at `revision`.
    pub async fn settle(&self, revision: Revision) {
        let mut rules = self.rules.clone();
        let reached = rules.wait_for(|rules| rules.revision >= revision);
        if tokio::time::timeout(SETTLE_TIMEOUT, reached).await.is_err() {
            tracing::warn!(revision, "RBAC rules did not reach a write in time");
        }
    }
}

async fn follow(store: Store, sender: watch::Sender<Rules>) {
    while !sender.is_closed() {
        if let Err(error) = follow_once(&store, &sender).await {
            tracing::debug!(%error, "reading the RBAC rules anew");
        }
        tokio::time::sleep(RELOAD_PAUSE).await;
    }
}

async fn follow_once(store: &Store, sender: &watch::Sender<Rules>) -> Result<(), String> {
    let (kvs, mut revision) = store
        .read_prefix(RBAC_PREFIX)
        .map_err(|status| status.message)?;
    let mut policy = Policy::default();
    for kv in &kvs {
        policy.insert(&kv.key, &kv.value);
    }
    let mut policy = Arc::new(policy);
    sender.send_replace(Rules {
        policy: policy.clone(),
        revision,
    });
    let (start, end) = prefix_range(RBAC_PREFIX);
    let mut watch = store
        .replica()
        .watch(start, end, revision)
        .map_err(|error| error.to_string())?;
    while let Some(batch) = watch.next().await {
        let batch = batch.map_err(|error| error.to_string())?;
        revision = revision.max(batch.revision);
        if !batch.events.is_empty() {
            let mut changed = Policy::clone(&policy);
            for event in &batch.events {
                match event.kind {
                    EventKind::Put => changed.insert(&event.kv.key, &event.kv.value),
                    EventKind::Delete => changed.remove(&event.kv.key),
                }
            }
            policy = Arc::new(changed);
        }
        sender.send_replace(Rules {
            policy: policy.clone(),
            revision,
        });
    }
    Err("the replica has stopped".to_owned())
}
