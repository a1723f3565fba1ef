//! What Kubernetes fills in where a manifest is silent, so that what is stored says everything that is in force.
//!
//! Only the object itself decides here; values that need other objects or allocation (cluster addresses, node ports)
//! come later.

mod pod;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind};
use crate::meta::map_mut;

/// Fills the defaults in; applying it again changes nothing.
pub fn apply(kind: &Kind, object: &mut Value) {
    if *kind == *kinds::POD {
        pod::pod(object);
    } else if *kind == *kinds::DEPLOYMENT {
        deployment(object);
    } else if *kind == *kinds::REPLICA_SET {
        let spec = child(object, "spec");
        default(spec, "replicas", 1);
        template(spec);
    } else if *kind == *kinds::SERVICE {
        service(object);
    } else if *kind == *kinds::SECRET {
        secret(object);
    } else if *kind == *kinds::ENDPOINTS {
        for subset in each(object.as_object_mut(), "subsets") {
            for port in each(subset.as_object_mut(), "ports") {
                default(map_mut(port), "protocol", "TCP");
            }
        }
    } else if *kind == *kinds::ENDPOINT_SLICE {
        for port in each(object.as_object_mut(), "ports") {
            let port = map_mut(port);
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    } else if *kind == *kinds::NODE {
        node(object);
    } else if *kind == *kinds::ROLE_BINDING || *kind == *kinds::CLUSTER_ROLE_BINDING {
        binding(object);
    } else if *kind == *kinds::NAMESPACE {
        let name = crate::meta::name(object).to_owned();
        if !name.is_empty() {
            crate::meta::set_label(object, "kubernetes.io/metadata.name", &name);
        }
    }
}

/// The defaults of a TokenRequest: an hour.
pub fn token_request(object: &mut Value) {
    default(child(object, "spec"), "expirationSeconds", 3600);
}

/// The map under `field`, made where it is missing.
fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    map_mut(
        map_mut(object)
            .entry(field)
            .or_insert_with(|| Value::Object(Map::new())),
    )
}

/// Sets the field where it is missing.
fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if !map.contains_key(field) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets the field where it is missing or the empty string: fields that are plain strings in Kubernetes' types.
fn default_text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if text(map, field).is_empty() {
        map.insert(field.to_owned(), value.into());
    }
}

fn text<'a>(map: &'a Map<String, Value>, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or("")
}

/// The elements of a list, or none.
fn each<'a>(
    map: Option<&'a mut Map<String, Value>>,
    field: &str,
) -> impl Iterator<Item = &'a mut Value> {
    map.and_then(|map| map.get_mut(field))
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template") {
        pod::spec(child(template, "spec"));
    }
}

fn deployment(object: &mut Value) {
    let spec = child(object, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = map_mut(spec.entry("strategy").or_insert_with(|| json!({})));
    default_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = map_mut(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    template(spec);
}

fn service(object: &mut Value) {
    let spec = child(object, "spec");
    default_text(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        let config = map_mut(
            spec.entry("sessionAffinityConfig")
                .or_insert_with(|| json!({})),
        );
        let client = map_mut(config.entry("clientIP").or_insert_with(|| json!({})));
        default(client, "timeoutSeconds", 10_800);
    }
    default_text(spec, "type", "ClusterIP");
    for port in each(Some(spec), "ports") {
        let port = map_mut(port);
        default_text(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None => true,
            Some(Value::String(name)) => name.is_empty(),
            Some(number) => number.as_i64() == Some(0),
        };
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default(spec, "internalTrafficPolicy", "Cluster");
        default(spec, "ipFamilyPolicy", "SingleStack");
        if spec
            .get("ipFamilies")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
        }
        let address = text(spec, "clusterIP").to_owned();
        if !address.is_empty()
            && spec
                .get("clusterIPs")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
        {
            spec.insert("clusterIPs".to_owned(), json!([address]));
        }
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn secret(object: &mut Value) {
    let map = map_mut(object);
    default_text(map, "type", "Opaque");
    // The convenience field for writing becomes what is stored, and wins over it.
    if let Some(Value::Object(plain)) = map.remove("stringData")
        && !plain.is_empty()
    {
        let data = map_mut(map.entry("data").or_insert_with(|| json!({})));
        for (key, value) in plain {
            data.insert(key, BASE64.encode(value.as_str().unwrap_or("")).into());
        }
    }
}

fn node(object: &mut Value) {
    let map = map_mut(object);
    if let Some(Value::Object(spec)) = map.get_mut("spec") {
        let range = text(spec, "podCIDR").to_owned();
        if !range.is_empty() {
            default(spec, "podCIDRs", json!([range]));
        }
    }
    if let Some(Value::Object(status)) = map.get_mut("status")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        default(status, "allocatable", capacity);
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let map = map_mut(object);
    if let Some(Value::Object(role)) = map.get_mut("roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in each(Some(map), "subjects") {
        let subject = map_mut(subject);
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_decide_the_pull_policy() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:aa", "IfNotPresent"),
            ("nginx:latest@sha256:aa", "Always"),
        ] {
            assert_eq!(pod::pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn string_data_becomes_data() {
        let mut object = json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "new"}});
        apply(kinds::SECRET, &mut object);
        assert_eq!(
            object,
            json!({"type": "Opaque", "data": {"a": "bmV3", "b": "eA=="}})
        );
    }

    #[test]
    fn bindings_name_their_group() {
        let mut object = json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        apply(kinds::ROLE_BINDING, &mut object);
        assert_eq!(object["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(
            object["subjects"][0]["apiGroup"],
            "rbac.authorization.k8s.io"
        );
        assert_eq!(object["subjects"][1].get("apiGroup"), None);
    }
}
