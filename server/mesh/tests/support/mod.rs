//! A cluster out of YAML: objects as users write them, and `kind: Pods`, which stands for running pods and makes the
//! EndpointSlices of every Service that selects them.
#![allow(dead_code)]

pub mod render;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trireme_mesh::{
    Change, Kind, Locality, Mesh, ObjectKey, Resource, Role, Stale, Subscription, Workload,
};
use trireme_model::istio;
use trireme_model::kinds;

pub fn kind(name: &str) -> &'static kinds::Kind {
    let mut known = Mesh::watched().into_iter();
    known
        .find(|kind| kind.kind == name)
        .unwrap_or_else(|| panic!("no kind {name}"))
}

/// All documents, old spellings brought to today's, in the order in which they stand; the n-th is n seconds younger
/// than the first.
pub fn documents(yaml: &str) -> Vec<Value> {
    let mut documents = Vec::new();
    for (index, text) in yaml.split("\n---").enumerate() {
        let mut value: Value = serde_yaml_ng::from_str(text).expect("YAML");
        if value.is_null() {
            continue;
        }
        let name = value["kind"].as_str().expect("kind").to_owned();
        let metadata = &mut value["metadata"];
        if metadata.get("namespace").is_none() && !["Node", "Namespace"].contains(&name.as_str()) {
            metadata["namespace"] = json!("default");
        }
        metadata["creationTimestamp"] = json!(format!(
            "2026-01-01T00:{:02}:{:02}Z",
            index / 60,
            index % 60
        ));
        istio::normalize(&name, &mut value);
        documents.push(value);
    }
    expand(documents)
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.as_object();
    selector.is_some_and(|it| {
        !it.is_empty()
            && it
                .iter()
                .all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str())
    })
}

fn expand(documents: Vec<Value>) -> Vec<Value> {
    let (pods, mut rest): (Vec<Value>, Vec<Value>) =
        documents.into_iter().partition(|it| it["kind"] == "Pods");
    let pods: Vec<Value> = pods.iter().flat_map(pods_of).collect();
    let services: Vec<Value> = rest
        .iter()
        .filter(|it| it["kind"] == "Service")
        .cloned()
        .collect();
    rest.extend(pods.iter().cloned());
    rest.extend(services.iter().filter_map(|service| slice(service, &pods)));
    rest
}

fn pods_of(many: &Value) -> Vec<Value> {
    let name = many["metadata"]["name"].as_str().expect("name");
    let addresses = many["addresses"].as_array().expect("addresses");
    let all = addresses.iter().enumerate();
    all.map(|(index, address)| {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": format!("{name}-{index}"), "namespace": many["metadata"]["namespace"], "labels": many["labels"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "1", "controller": true}],
            },
            "spec": {"nodeName": many["node"], "serviceAccountName": "default", "containers": [{"name": "app", "ports": many["ports"]}]},
            "status": {"podIP": address, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        })
    })
    .collect()
}

pub fn slice(service: &Value, pods: &[Value]) -> Option<Value> {
    let namespace = &service["metadata"]["namespace"];
    let selected: Vec<&Value> = pods
        .iter()
        .filter(|pod| pod["metadata"]["namespace"] == *namespace)
        .filter(|pod| {
            selects(
                &service["spec"]["selector"],
                &labels(&pod["metadata"]["labels"]),
            )
        })
        .collect();
    let name = service["metadata"]["name"].as_str()?;
    let ports: Vec<Value> = service["spec"]["ports"]
        .as_array()?
        .iter()
        .map(|port| {
            let target = port.get("targetPort").unwrap_or(&port["port"]);
            json!({"name": port["name"].as_str().unwrap_or(""), "port": target.as_u64().unwrap_or(0), "protocol": "TCP"})
        })
        .collect();
    let endpoints: Vec<Value> = selected
        .iter()
        .map(|pod| {
            json!({
                "addresses": [pod["status"]["podIP"]], "conditions": {"ready": true, "serving": true},
                "nodeName": pod["spec"]["nodeName"],
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace},
            })
        })
        .collect();
    Some(json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "ports": ports, "endpoints": endpoints,
    }))
}

pub fn apply(mesh: &mut Mesh, object: &Value) -> Stale {
    let kind = kind(object["kind"].as_str().expect("kind"));
    mesh.update(kind, Change::Upsert(object.clone()))
        .expect("a whole object")
}

pub fn delete(mesh: &mut Mesh, object: &Value) -> Stale {
    let kind = kind(object["kind"].as_str().expect("kind"));
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or("").to_owned();
    mesh.update(
        kind,
        Change::Delete(ObjectKey::new(text("namespace"), text("name"))),
    )
    .expect("known")
}

pub fn mesh(yaml: &str) -> Mesh {
    let mut mesh = Mesh::new();
    for object in documents(yaml) {
        apply(&mut mesh, &object);
    }
    mesh
}

/// `sidecar default app=web`, `router istio-system istio=ingressgateway`, `grpc default app=web`; the place after an `@`.
pub fn workload(text: &str) -> Workload {
    let (text, place) = text.split_once('@').unwrap_or((text, ""));
    let mut parts = text.split_whitespace();
    let role = match parts.next() {
        Some("router") => Role::Router,
        Some("grpc") => Role::Grpc,
        _ => Role::Sidecar,
    };
    let namespace = parts.next().unwrap_or("default").to_owned();
    let labels = parts.filter_map(|it| it.split_once('='));
    Workload {
        role,
        address: "10.42.9.9".to_owned(),
        name: "me-0".to_owned(),
        namespace,
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        service_account: "default".to_owned(),
        node_name: String::new(),
        cluster_id: "Kubernetes".to_owned(),
        workload_name: "me".to_owned(),
        locality: Locality::parse(place.trim()),
    }
}

pub const KINDS: [Kind; 4] = [Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoint];

/// Everything that a workload gets.
pub fn everything(mesh: &Mesh, workload: &Workload) -> Vec<(Kind, Resource)> {
    let of = |kind| {
        mesh.generate(workload, kind, &Subscription::All)
            .into_iter()
            .map(move |it| (kind, it))
    };
    KINDS.into_iter().flat_map(of).collect()
}
