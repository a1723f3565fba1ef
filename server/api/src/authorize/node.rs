//! The node authorizer: a node agent reaches its own Node, the pods bound to it, and what those refer to.
//!
//! A stolen node certificate must not read the secrets of pods that run elsewhere.

use trireme_model::Value;
use trireme_model::kinds::{self, Kind};

use super::Attributes;
use crate::store::{Store, Stored};

/// Where node heartbeats are.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

const READ: [&str; 3] = ["get", "list", "watch"];

pub(crate) fn allows(store: &Store, node: &str, asked: &Attributes<'_>) -> bool {
    if asked.path.is_some() {
        return false;
    }
    let reads = READ.contains(&asked.verb);
    let writes = matches!(asked.verb, "update" | "patch");
    match (asked.group, asked.resource, asked.subresource) {
        // Peers' addresses and pod networks make this node's routes.
        ("", "nodes", "") if reads => true,
        // Whose name it is only the body tells; admission checks it.
        ("", "nodes", "") if asked.verb == "create" => true,
        ("", "nodes", "" | "status") => writes && asked.name == node,
        ("", "services" | "endpoints", "") | ("discovery.k8s.io", "endpointslices", "") => reads,
        ("", "pods", "") => match asked.verb {
            "get" | "delete" => is_mine(store, node, asked),
            "list" | "watch" => asked
                .field_selector
                .is_some_and(|selector| selector.exact("spec.nodeName") == Some(node)),
            _ => false,
        },
        ("", "pods", "status") => (writes || asked.verb == "get") && is_mine(store, node, asked),
        ("", "pods", "eviction") => asked.verb == "create" && is_mine(store, node, asked),
        ("", "events", "") | ("events.k8s.io", "events", "") => writes || asked.verb == "create",
        ("coordination.k8s.io", "leases", "") => {
            asked.namespace == Some(LEASE_NAMESPACE)
                && (asked.verb == "create"
                    || asked.name == node && (writes || matches!(asked.verb, "get" | "delete")))
        }
        ("", "secrets", "") => reads && refers(store, node, asked, Referred::Secret),
        ("", "configmaps", "") => reads && refers(store, node, asked, Referred::ConfigMap),
        ("", "serviceaccounts", "") => {
            asked.verb == "get" && refers(store, node, asked, Referred::ServiceAccount)
        }
        ("", "serviceaccounts", "token") => {
            asked.verb == "create" && refers(store, node, asked, Referred::ServiceAccount)
        }
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Referred {
    Secret,
    ConfigMap,
    ServiceAccount,
}

fn is_mine(store: &Store, node: &str, asked: &Attributes<'_>) -> bool {
    let Some(namespace) = asked.namespace else {
        return false;
    };
    match store.read_value(&kinds::POD.key(namespace, asked.name)) {
        Ok(Some(pod)) => node_of(&pod) == node,
        // Let the node learn that its pod is gone.
        Ok(None) => true,
        Err(_) => false,
    }
}

fn node_of(pod: &Value) -> &str {
    pod.get("spec")
        .and_then(|spec| spec.get("nodeName"))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// A pod on this node refers to the object.
fn refers(store: &Store, node: &str, asked: &Attributes<'_>, what: Referred) -> bool {
    let Some(namespace) = asked.namespace else {
        return false;
    };
    let name = match asked
        .field_selector
        .and_then(|selector| selector.exact("metadata.name"))
    {
        Some(name) => name,
        None => asked.name,
    };
    if name.is_empty() {
        return false;
    }
    let Ok((pods, _)) = store.read_prefix(&kinds::POD.prefix(Some(namespace))) else {
        return false;
    };
    // Most pods run elsewhere: the text tells without parsing.
    let marker = format!("\"nodeName\":{}", Value::from(node));
    pods.iter()
        .filter(|kv| contains(&kv.value, marker.as_bytes()))
        .filter_map(|kv| Stored::new(kv).value().ok())
        .filter(|pod| node_of(pod) == node)
        .any(|pod| pod_refers(&pod, what, name))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn pod_refers(pod: &Value, what: Referred, name: &str) -> bool {
    let Some(spec) = pod.get("spec") else {
        return false;
    };
    let list = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .to_vec()
    };
    let names = |value: &Value, path: &[&str]| {
        let found = path
            .iter()
            .try_fold(value, |value, field| value.get(*field));
        found.and_then(Value::as_str) == Some(name)
    };
    let (volume, volume_name, reference, bulk) = match what {
        Referred::ServiceAccount => {
            let own = spec
                .get("serviceAccountName")
                .and_then(Value::as_str)
                .filter(|own| !own.is_empty());
            return own.unwrap_or("default") == name;
        }
        Referred::Secret => ("secret", "secretName", "secretKeyRef", "secretRef"),
        Referred::ConfigMap => ("configMap", "name", "configMapKeyRef", "configMapRef"),
    };
    let in_volumes = list(spec, "volumes").iter().any(|one| {
        names(one, &[volume, volume_name])
            || one.get("projected").is_some_and(|projected| {
                list(projected, "sources")
                    .iter()
                    .any(|source| names(source, &[volume, "name"]))
            })
    });
    let in_containers = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|field| {
            list(spec, field).iter().any(|container| {
                list(container, "env")
                    .iter()
                    .any(|env| names(env, &["valueFrom", reference, "name"]))
                    || list(container, "envFrom")
                        .iter()
                        .any(|from| names(from, &[bulk, "name"]))
            })
        });
    let pulls = matches!(what, Referred::Secret)
        && list(spec, "imagePullSecrets")
            .iter()
            .any(|secret| names(secret, &["name"]));
    in_volumes || in_containers || pulls
}

/// What a node may write in a body, beside what its path says.
pub(crate) fn check_create(node: &str, kind: &Kind, name: &str) -> Result<(), String> {
    let own = *kind == *kinds::NODE || *kind == *kinds::LEASE;
    if own && name != node {
        return Err(format!(
            "node {node:?} is not allowed to create {} {name:?}",
            kind.singular
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_refer_counts() {
        let pod = json!({"spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"secret": {"secretName": "s1"}}, {"configMap": {"name": "c1"}},
                {"projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c2"}}]}}],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s3"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s4"}}],
                "env": [{"valueFrom": {"configMapKeyRef": {"name": "c4"}}}]}]}});
        for name in ["pull", "s1", "s2", "s3", "s4"] {
            assert!(pod_refers(&pod, Referred::Secret, name), "{name}");
            assert!(!pod_refers(&pod, Referred::ConfigMap, name), "{name}");
        }
        for name in ["c1", "c2", "c3", "c4"] {
            assert!(pod_refers(&pod, Referred::ConfigMap, name), "{name}");
        }
        assert!(pod_refers(&pod, Referred::ServiceAccount, "robot"));
        assert!(!pod_refers(&pod, Referred::ServiceAccount, "default"));
        assert!(!pod_refers(&pod, Referred::Secret, "other"));
    }

    #[test]
    fn a_node_creates_only_itself() {
        assert!(check_create("a", kinds::NODE, "a").is_ok());
        assert!(check_create("a", kinds::NODE, "b").is_err());
        assert!(check_create("a", kinds::EVENT, "b").is_ok());
    }
}
