//! What the server itself writes into an object on its way in: identity, times, generation, and which half of the
//! object (spec or status) a request may change.

mod service;

use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind};
use crate::meta::{self, map_mut, metadata_mut};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;

/// Metadata only the server writes; an update keeps the stored values whatever the request says.
const SERVER_METADATA: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

/// Whether status is a subresource of this kind, so that plain writes leave it alone.
fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// Whether changes of the specification are counted in `metadata.generation`.
fn counts_generations(kind: &Kind) -> bool {
    *kind == *kinds::DEPLOYMENT
        || *kind == *kinds::REPLICA_SET
        || *kind == *kinds::POD
        || *kind == *kinds::ENDPOINT_SLICE
        || kind.is_istio()
}

/// Whether a PUT of an object that does not exist creates it. Kubernetes decides it kind by kind
/// (`AllowCreateOnUpdate` of its strategies).
pub fn creates_on_update(kind: &Kind) -> bool {
    [
        kinds::ENDPOINTS,
        kinds::EVENT,
        kinds::SERVICE,
        kinds::LEASE,
        kinds::ROLE,
        kinds::ROLE_BINDING,
        kinds::CLUSTER_ROLE,
        kinds::CLUSTER_ROLE_BINDING,
    ]
    .contains(&kind)
}

/// Whether an update must say which version it replaces: leases are how programs exclude each other.
pub fn needs_version_on_update(kind: &Kind) -> bool {
    *kind == *kinds::LEASE
}

/// Fits a new object for storing: identity, time of creation, first generation, initial status.
/// Whatever the request says about those is overwritten.
pub fn prepare_create(kind: &Kind, object: &mut Value, uid: &str, now: jiff::Timestamp) {
    let map = map_mut(object);
    map.insert("apiVersion".to_owned(), kind.api_version().into());
    map.insert("kind".to_owned(), kind.kind.into());
    let metadata = metadata_mut(object);
    for field in SERVER_METADATA {
        metadata.remove(field);
    }
    metadata.remove("resourceVersion");
    if !kind.namespaced {
        metadata.remove("namespace");
    }
    if kind.is_virtual() {
        return;
    }
    meta::set_uid(object, uid);
    meta::set_creation_timestamp(object, now);
    if counts_generations(kind) {
        meta::set_generation(object, 1);
    }
    if has_status(kind) && *kind != *kinds::NODE {
        map_mut(object).remove("status");
    }
    if kind.is_istio() {
        // As a custom resource: no status until a controller writes one.
        return;
    }
    if *kind == *kinds::POD {
        object["status"] = json!({"phase": "Pending", "qosClass": quality_of_service(object)});
    } else if *kind == *kinds::NAMESPACE {
        prepare_namespace(object);
    } else if *kind == *kinds::SERVICE {
        object["status"] = json!({"loadBalancer": {}});
    } else if *kind == *kinds::REPLICA_SET {
        object["status"] = json!({"replicas": 0});
    } else if has_status(kind) && object.get("status").is_none() {
        object["status"] = Value::Object(Map::new());
    }
}

/// A namespace names itself in a label and keeps the finalizer of the namespace controller.
fn prepare_namespace(object: &mut Value) {
    let name = meta::name(object).to_owned();
    if !name.is_empty() {
        meta::set_label(object, "kubernetes.io/metadata.name", &name);
    }
    let spec = map_mut(map_mut(object).entry("spec").or_insert_with(|| json!({})));
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|finalizer| finalizer == "kubernetes")
    {
        list.push("kubernetes".into());
    }
    object["status"] = json!({"phase": "Active"});
}

/// Fits an update of the main resource: the server's own metadata and the status stay as stored, and the generation
/// grows when the specification changed.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value) {
    prepare_metadata(kind, new, old);
    if has_status(kind) {
        keep(new, old, "status");
    }
    if *kind == *kinds::NAMESPACE {
        // Only `finalize` takes finalizers of the specification away.
        keep(new, old, "spec");
        let name = meta::name(old).to_owned();
        meta::set_label(new, "kubernetes.io/metadata.name", &name);
    }
    if *kind == *kinds::SERVICE {
        service::prepare_update(new, old);
    }
    if counts_generations(kind) && content(new) != content(old) {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

/// Fits an update of `status`: everything but the status stays as stored.
pub fn prepare_status_update(kind: &Kind, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let managed_fields = new
        .get("metadata")
        .and_then(|metadata| metadata.get("managedFields"))
        .cloned();
    let resource_version = meta::resource_version(new).to_owned();
    // Node agents and controllers may label and annotate through status, as Kubernetes lets them on nodes and pods.
    let marks: Vec<(&str, Option<Value>)> = ["labels", "annotations"]
        .into_iter()
        .map(|field| {
            (
                field,
                new.get("metadata")
                    .and_then(|metadata| metadata.get(field))
                    .cloned(),
            )
        })
        .collect();
    let keeps_marks = *kind == *kinds::NODE;
    *new = old.clone();
    match status {
        Some(status) => map_mut(new).insert("status".to_owned(), status),
        None => map_mut(new).remove("status"),
    };
    let metadata = metadata_mut(new);
    match managed_fields {
        Some(fields) => metadata.insert("managedFields".to_owned(), fields),
        None => metadata.remove("managedFields"),
    };
    if keeps_marks {
        for (field, value) in marks {
            match value {
                Some(value) => metadata.insert(field.to_owned(), value),
                None => metadata.remove(field),
            };
        }
    }
    if !resource_version.is_empty() {
        meta::set_resource_version(new, &resource_version);
    }
    if *kind == *kinds::POD && new["status"].get("qosClass").is_none() {
        let class = old
            .get("status")
            .and_then(|status| status.get("qosClass"))
            .cloned();
        map_mut(&mut new["status"]).insert(
            "qosClass".to_owned(),
            class.unwrap_or_else(|| quality_of_service(old).into()),
        );
    }
}

/// Fits a `namespaces/finalize` update: only `spec.finalizers` changes.
pub fn prepare_finalize(new: &mut Value, old: &Value) {
    let finalizers = new
        .get("spec")
        .and_then(|spec| spec.get("finalizers"))
        .cloned();
    let resource_version = meta::resource_version(new).to_owned();
    *new = old.clone();
    let spec = map_mut(map_mut(new).entry("spec").or_insert_with(|| json!({})));
    match finalizers {
        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
        None => spec.remove("finalizers"),
    };
    if !resource_version.is_empty() {
        meta::set_resource_version(new, &resource_version);
    }
}

fn prepare_metadata(kind: &Kind, new: &mut Value, old: &Value) {
    let map = map_mut(new);
    map.insert("apiVersion".to_owned(), kind.api_version().into());
    map.insert("kind".to_owned(), kind.kind.into());
    let stored = old.get("metadata");
    let metadata = metadata_mut(new);
    if !kind.namespaced {
        metadata.remove("namespace");
    }
    for field in SERVER_METADATA {
        match stored.and_then(|stored| stored.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    if let Some(generated) = stored.and_then(|stored| stored.get("generateName")) {
        metadata
            .entry("generateName")
            .or_insert_with(|| generated.clone());
    }
}

/// What generations count: everything beside identity and status.
fn content(object: &Value) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    for field in ["metadata", "status", "apiVersion", "kind"] {
        map.remove(field);
    }
    map
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => map_mut(new).insert(field.to_owned(), value.clone()),
        None => map_mut(new).remove(field),
    };
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of all containers.
pub fn quality_of_service(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let spec = pod.get("spec");
    for list in ["containers", "initContainers"] {
        let containers = spec
            .and_then(|spec| spec.get(list))
            .and_then(Value::as_array);
        for container in containers.map(Vec::as_slice).unwrap_or_default() {
            for resource in ["cpu", "memory"] {
                let amount = |side: &str| {
                    let value = container.get("resources")?.get(side)?.get(resource)?;
                    quantity(value).filter(|amount| *amount > 0)
                };
                let (limit, request) = (amount("limits"), amount("requests"));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A quantity's thousandths, from a string or a number.
fn quantity(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Quantity::parse(&text).ok().map(|quantity| quantity.milli())
}

/// The `autoscaling/v1` Scale of a Deployment or ReplicaSet.
pub fn scale_of(object: &Value) -> Value {
    let source = object.get("metadata").and_then(Value::as_object);
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = source.and_then(|source| source.get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let number = |half: &str| {
        object
            .get(half)
            .and_then(|half| half.get("replicas"))
            .and_then(Value::as_i64)
    };
    let mut status = json!({"replicas": number("status").unwrap_or(0)});
    let selector = object.get("spec").and_then(|spec| spec.get("selector"));
    if let Some(selector) = selector.and_then(|selector| LabelSelector::from_json(selector).ok()) {
        status["selector"] = selector.to_string().into();
    }
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": number("spec").unwrap_or(1)},
        "status": status,
    })
}

/// Sets the replicas of `object` to those of `scale`; identity and precondition of the scale are the caller's to
/// check with [`meta::uid`] and [`meta::resource_version`].
pub fn merge_scale(object: &mut Value, scale: &Value) {
    let replicas = scale
        .get("spec")
        .and_then(|spec| spec.get("replicas"))
        .and_then(Value::as_i64)
        .unwrap_or(0);
    map_mut(map_mut(object).entry("spec").or_insert_with(|| json!({})))
        .insert("replicas".to_owned(), replicas.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    #[test]
    fn what_the_server_writes_cannot_be_claimed() {
        let mut pod = json!({"metadata": {"name": "a", "uid": "mine", "generation": 9, "resourceVersion": "5",
            "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        prepare_create(kinds::POD, &mut pod, "theirs", now());
        assert_eq!(
            pod,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "theirs", "generation": 1,
                "creationTimestamp": "2026-01-02T03:04:05Z"}, "status": {"phase": "Pending", "qosClass": "BestEffort"}})
        );
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2"}}});
        prepare_create(kinds::NODE, &mut node, "u", now());
        assert_eq!(
            node["status"]["capacity"]["cpu"], "2",
            "node agents register with their status"
        );
    }

    #[test]
    fn updates_and_status_updates_keep_to_their_half() {
        let old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "uid": "u", "generation": 3,
            "resourceVersion": "7"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "a", "resourceVersion": "7", "generation": 1},
            "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_update(kinds::DEPLOYMENT, &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
        assert_eq!(
            (&new["spec"], &new["status"], &new["metadata"]["uid"]),
            (
                &json!({"replicas": 2}),
                &json!({"replicas": 1}),
                &json!("u")
            )
        );
        let mut new = json!({"metadata": {"name": "a", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_status_update(kinds::DEPLOYMENT, &mut new, &old);
        let mut expected = old.clone();
        expected["status"] = json!({"replicas": 9});
        assert_eq!(new, expected);
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(quality_of_service(&pod(json!({}))), "BestEffort");
        assert_eq!(
            quality_of_service(&pod(json!({"limits": both, "requests": both}))),
            "Guaranteed"
        );
        assert_eq!(
            quality_of_service(&pod(json!({"limits": both, "requests": {"cpu": "500m"}}))),
            "Burstable"
        );
        assert_eq!(
            quality_of_service(&pod(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
    }

    #[test]
    fn scales_carry_the_selector_as_text() {
        let deployment = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"x": "y"}},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"b": "2", "a": "1"}}}, "status": {"replicas": 3}});
        let mut scale = scale_of(&deployment);
        assert_eq!(scale["spec"]["replicas"], 0);
        assert_eq!(
            scale["status"],
            json!({"replicas": 3, "selector": "a=1,b=2"})
        );
        assert!(scale["metadata"].get("labels").is_none());
        scale["spec"]["replicas"] = json!(5);
        let mut scaled = deployment.clone();
        merge_scale(&mut scaled, &scale);
        assert_eq!(scaled["spec"]["replicas"], 5);
    }
}
