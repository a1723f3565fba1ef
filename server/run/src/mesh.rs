//! The mesh's part of every server: its view of the objects, and who may ask for what.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};
use trireme_api::Identity;
use trireme_decide::{Change, ObjectKey};
use trireme_mesh::Mesh;
use trireme_model::kinds::Kind;
use trireme_model::meta;
use trireme_raft::Replica;
use trireme_state::{EventKind, KeyValue, RangeRequest};
use trireme_xds::NodeId;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds_server::{Admit, MeshSource};

/// Every object is kept below it.
const REGISTRY: &str = "/registry/";
/// One past [`REGISTRY`], as a key.
const REGISTRY_END: &str = "/registry0";
/// Pause before the objects are read anew after their watch ended, or while no leader confirms that
/// this replica is up to date.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
/// Where a service account token names the pod that it is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Feeds `source` with this replica's objects until `ended`. `conditions` is marked as changed
/// when conditions of objects are to be looked at again.
pub async fn follow(
    replica: Arc<Replica>,
    source: MeshSource,
    conditions: watch::Sender<u64>,
    ended: CancellationToken,
) {
    let mut again = false;
    loop {
        tokio::select! {
            error = follow_once(&replica, &source, &conditions, again) => {
                tracing::debug!(error, "reading the mesh's objects anew");
            }
            () = ended.cancelled() => return,
        }
        again = true;
        tokio::select! {
            () = tokio::time::sleep(RELOAD_PAUSE) => {}
            () = ended.cancelled() => return,
        }
    }
}

/// Lists, then watches; answers why it ended.
async fn follow_once(
    replica: &Replica,
    source: &MeshSource,
    conditions: &watch::Sender<u64>,
    again: bool,
) -> String {
    // A server that has just joined knows nothing yet: its emptiness must not reach any proxy.
    if let Err(error) = replica.read_barrier().await {
        return error.to_string();
    }
    let revision = replica.revision();
    let kinds = Mesh::watched();
    let mut all = Vec::new();
    for kind in &kinds {
        let prefix = kind.prefix(None);
        let mut end = prefix.clone().into_bytes();
        // The prefix ends with a slash; '0' is the byte after it.
        end.pop();
        end.push(b'0');
        let range = replica.range(&RangeRequest {
            start: Bytes::from(prefix),
            end: Bytes::from(end),
            revision: Some(revision),
            ..RangeRequest::default()
        });
        match range {
            Ok(reply) => all.extend(
                reply
                    .kvs
                    .iter()
                    .filter_map(|kv| Some((*kind, Change::Upsert(object(kv)?)))),
            ),
            Err(error) => return error.to_string(),
        }
    }
    let watch = replica.watch(
        Bytes::from_static(REGISTRY.as_bytes()),
        Bytes::from_static(REGISTRY_END.as_bytes()),
        revision,
    );
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => return error.to_string(),
    };
    if again {
        source.restart();
    }
    source.apply(all);
    source.complete();
    conditions.send_modify(|round| *round += 1);
    while let Some(batch) = watch.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return error.to_string(),
        };
        let changes = batch.events.iter().filter_map(|event| {
            let key = std::str::from_utf8(&event.kv.key).ok()?;
            let kind = kinds.iter().find(|kind| kind.parse_key(key).is_some())?;
            let change = match event.kind {
                EventKind::Put => Change::Upsert(object(&event.kv)?),
                EventKind::Delete => {
                    let (namespace, name) = kind.parse_key(key)?;
                    Change::Delete(ObjectKey::new(namespace, name))
                }
            };
            Some((*kind, change))
        });
        let changes: Vec<(&'static Kind, Change)> = changes.collect();
        if changes.is_empty() {
            continue;
        }
        if source.apply(changes).conditions {
            conditions.send_modify(|round| *round += 1);
        }
    }
    "the replica has stopped".to_owned()
}

fn object(kv: &KeyValue) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(&kv.value)
        .inspect_err(|error| {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::error!(%key, %error, "a stored object is not JSON");
        })
        .ok()?;
    meta::set_resource_version(&mut value, &kv.mod_revision.to_string());
    Some(value)
}

/// A workload gets its own configuration and nobody else's: the node that it claims to be must be
/// the pod that its token is bound to, or, with a token that is bound to none, one of the token's
/// service account. Cluster administrators may be any node.
pub fn admit(source: MeshSource) -> Admit {
    Arc::new(move |extensions: &Extensions, node: &Node| {
        let identity = extensions.get::<Identity>().ok_or_else(|| {
            Status::unauthenticated("a service account token or client certificate is needed")
        })?;
        check(identity, node, |key| {
            source
                .with(|mesh| {
                    mesh.view()
                        .pods
                        .get(key)
                        .map(|pod| pod.service_account.clone())
                })
                .flatten()
        })
    })
}

fn check(
    identity: &Identity,
    node: &Node,
    account_of: impl Fn(&ObjectKey) -> Option<String>,
) -> Result<(), Status> {
    if identity.is_master() {
        return Ok(());
    }
    let denied = |why: String| {
        Err(Status::permission_denied(format!(
            "node {:?} is not {:?}: {why}",
            node.id, identity.user
        )))
    };
    let Some((namespace, account)) = identity.service_account() else {
        return denied("configuration is for service accounts of workloads".to_owned());
    };
    let id: NodeId = node
        .id
        .parse()
        .map_err(|error| Status::invalid_argument(format!("{error}")))?;
    let metadata = trireme_xds::node::metadata(node);
    let told = |told: &str, is: &str| told.is_empty() || told == is;
    if id.namespace != namespace || !told(&metadata.namespace, namespace) {
        return denied(format!("the token is of namespace {namespace:?}"));
    }
    if !told(&metadata.service_account, account) {
        return denied(format!("the token is of service account {account:?}"));
    }
    if !told(&metadata.name, &id.pod) {
        return denied("its metadata names another pod".to_owned());
    }
    let bound = identity.extra.get(POD_NAME).and_then(|names| names.first());
    if let Some(pod) = bound {
        if *pod != id.pod {
            return denied(format!("the token is bound to pod {pod:?}"));
        }
        return Ok(());
    }
    match account_of(&ObjectKey::new(id.namespace, id.pod)) {
        Some(of_pod) if of_pod != account => {
            denied(format!("that pod is of service account {of_pod:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use trireme_xds::node::NodeMetadata;

    use super::*;

    fn node(pod: &str, namespace: &str) -> Node {
        Node {
            id: format!("sidecar~10.42.0.7~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            ..Node::default()
        }
    }

    fn bound(pod: &str) -> Identity {
        let mut identity = Identity::of_service_account("shop", "reviews", "uid");
        identity
            .extra
            .insert(POD_NAME.to_owned(), vec![pod.to_owned()]);
        identity
    }

    #[test]
    fn a_token_opens_only_its_own_pods_configuration() {
        let nothing = |_: &ObjectKey| None;
        let ask = |identity: &Identity, node: &Node| {
            check(identity, node, nothing).map_err(|status| status.message().to_owned())
        };
        assert_eq!(ask(&bound("reviews-1"), &node("reviews-1", "shop")), Ok(()));
        let refused = ask(&bound("reviews-1"), &node("reviews-2", "shop"));
        assert!(refused.is_err_and(|why| why.contains("bound to pod \"reviews-1\"")));
        let refused = ask(&bound("reviews-1"), &node("reviews-1", "bank"));
        assert!(refused.is_err_and(|why| why.contains("of namespace \"shop\"")));
        let mut other = node("reviews-1", "shop");
        other.metadata = Some(
            NodeMetadata {
                service_account: "admin".into(),
                ..NodeMetadata::default()
            }
            .to_struct(),
        );
        let refused = ask(&bound("reviews-1"), &other);
        assert!(refused.is_err_and(|why| why.contains("of service account \"reviews\"")));
        other.metadata = Some(
            NodeMetadata {
                name: "ledger-1".into(),
                ..NodeMetadata::default()
            }
            .to_struct(),
        );
        assert!(ask(&bound("reviews-1"), &other).is_err());
    }

    #[test]
    fn a_token_of_no_pod_opens_those_of_its_service_account() {
        let unbound = Identity::of_service_account("shop", "reviews", "uid");
        let of = |account: &'static str| move |_: &ObjectKey| Some(account.to_owned());
        assert!(check(&unbound, &node("reviews-1", "shop"), of("reviews")).is_ok());
        assert!(check(&unbound, &node("ledger-1", "shop"), of("ledger")).is_err());
        assert!(check(&unbound, &node("machine", "shop"), |_| None).is_ok());
    }

    #[test]
    fn only_administrators_may_be_anyone() {
        let admin = Identity::new("kubernetes-admin", ["system:masters"]);
        assert!(check(&admin, &node("a", "b"), |_| None).is_ok());
        let person = Identity::new("jane", ["developers"]);
        assert!(check(&person, &node("a", "b"), |_| None).is_err());
        let agent = Identity::new("system:node:one", ["system:nodes"]);
        assert!(check(&agent, &node("a", "b"), |_| None).is_err());
    }
}
