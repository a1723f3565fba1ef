//! The cells of a row, in the order of the kind's columns.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::duration::since;
use super::pod;
use crate::kinds::Kind;
use crate::meta;
use crate::selector::LabelSelector;

/// How many addresses or ports are listed before `+ n more...`.
const LISTED_MAX: usize = 3;

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

fn string<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}

fn entries(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, Map::len)
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

pub(super) fn cells(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let name = meta::name(object);
    let age = since(meta::creation_timestamp(object), now);
    let (spec, status) = (&object["spec"], &object["status"]);
    match kind.kind {
        "Pod" => pod::cells(object, name, age, now),
        "Service" => vec![
            name.into(),
            string(spec, "type").into(),
            cluster_address(spec).into(),
            external_address(spec, status).into(),
            or(&ports(spec), "<none>").into(),
            age.into(),
            label_map(&spec["selector"]).into(),
        ],
        "Node" => node(object, name, age),
        "Namespace" => vec![name.into(), string(status, "phase").into(), age.into()],
        "Endpoints" => vec![name.into(), endpoints(object).into(), age.into()],
        "EndpointSlice" => vec![
            name.into(),
            string(object, "addressType").into(),
            slice_ports(object).into(),
            slice_addresses(object).into(),
            age.into(),
        ],
        "ConfigMap" => {
            let count = entries(object, "data") + entries(object, "binaryData");
            vec![name.into(), count.into(), age.into()]
        }
        "Secret" => vec![
            name.into(),
            string(object, "type").into(),
            entries(object, "data").into(),
            age.into(),
        ],
        "ServiceAccount" => vec![name.into(), age.into()],
        "Event" => event(object, name, now),
        "Lease" => vec![
            name.into(),
            string(spec, "holderIdentity").into(),
            age.into(),
        ],
        "ReplicaSet" => {
            let (containers, images) = containers(spec);
            vec![
                name.into(),
                replicas(spec).into(),
                number(status, "replicas").into(),
                number(status, "readyReplicas").into(),
                age.into(),
                containers.into(),
                images.into(),
                selector(&spec["selector"]).into(),
            ]
        }
        "Deployment" => {
            let (containers, images) = containers(spec);
            vec![
                name.into(),
                format!("{}/{}", number(status, "readyReplicas"), replicas(spec)).into(),
                number(status, "updatedReplicas").into(),
                number(status, "availableReplicas").into(),
                age.into(),
                containers.into(),
                images.into(),
                selector(&spec["selector"]).into(),
            ]
        }
        "RoleBinding" | "ClusterRoleBinding" => role_binding(object, name, age),
        "VirtualService" => vec![
            name.into(),
            as_json(&spec["gateways"]),
            as_json(&spec["hosts"]),
            age.into(),
        ],
        "DestinationRule" => vec![name.into(), as_json(&spec["host"]), age.into()],
        "ServiceEntry" => vec![
            name.into(),
            as_json(&spec["hosts"]),
            as_json(&spec["location"]),
            as_json(&spec["resolution"]),
            age.into(),
        ],
        "WorkloadEntry" => vec![name.into(), age.into(), as_json(&spec["address"])],
        "Gateway" | "Sidecar" | "EnvoyFilter" => vec![name.into(), age.into()],
        _ => vec![name.into(), meta::creation_timestamp(object).into()],
    }
}

/// How a custom resource's column of type string shows a value: text as it is, lists as JSON, nothing as nothing.
fn as_json(value: &Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value.clone(),
        other => other.to_string().into(),
    }
}

/// One where the field is missing, as it is defaulted.
fn replicas(spec: &Value) -> i64 {
    spec["replicas"].as_i64().unwrap_or(1)
}

fn containers(spec: &Value) -> (String, String) {
    let containers = list(&spec["template"]["spec"], "containers");
    let join = |field: &str| {
        let parts: Vec<&str> = containers.iter().map(|c| string(c, field)).collect();
        parts.join(",")
    };
    (join("name"), join("image"))
}

fn selector(selector: &Value) -> String {
    match LabelSelector::from_json(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_string(),
        Err(_) => "<error>".to_string(),
    }
}

fn label_map(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or(&pairs.join(","), "<none>").to_string()
}

fn strings<'a>(object: &'a Value, field: &str) -> Vec<&'a str> {
    list(object, field)
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

fn cluster_address(spec: &Value) -> String {
    let first = strings(spec, "clusterIPs").first().copied();
    or(first.unwrap_or(string(spec, "clusterIP")), "<none>").to_string()
}

fn external_address(spec: &Value, status: &Value) -> String {
    let external = strings(spec, "externalIPs");
    match string(spec, "type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_string(),
        "LoadBalancer" => {
            let assigned: BTreeSet<&str> = list(&status["loadBalancer"], "ingress")
                .iter()
                .map(|ingress| or(string(ingress, "ip"), string(ingress, "hostname")))
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<&str> = assigned.into_iter().chain(external).collect();
            or(&all.join(","), "<pending>").to_string()
        }
        "ExternalName" => string(spec, "externalName").to_string(),
        _ => "<unknown>".to_string(),
    }
}

fn ports(spec: &Value) -> String {
    let pieces: Vec<String> = list(spec, "ports")
        .iter()
        .map(|port| {
            let (number_, protocol) = (number(port, "port"), or(string(port, "protocol"), "TCP"));
            match number(port, "nodePort") {
                0 => format!("{number_}/{protocol}"),
                node_port => format!("{number_}:{node_port}/{protocol}"),
            }
        })
        .collect();
    pieces.join(",")
}

fn node(object: &Value, name: &str, age: String) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let ready = list(status, "conditions")
        .iter()
        .rfind(|condition| condition["type"] == "Ready");
    let mut state = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_string();
    if spec["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let labels = object["metadata"]["labels"].as_object();
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            }
            .filter(|role| !role.is_empty())
        })
        .collect();
    let roles: Vec<&str> = roles.into_iter().collect();
    let address = |address_type: &str| {
        list(status, "addresses")
            .iter()
            .find(|address| address["type"] == address_type)
            .map_or("<none>", |address| string(address, "address"))
    };
    let info = &status["nodeInfo"];
    vec![
        name.into(),
        state.into(),
        or(&roles.join(","), "<none>").into(),
        age.into(),
        string(info, "kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(string(info, "osImage"), "<unknown>").into(),
        or(string(info, "kernelVersion"), "<unknown>").into(),
        or(string(info, "containerRuntimeVersion"), "<unknown>").into(),
    ]
}

/// The first few, and how many more there are.
fn abridged(all: &[String], none: &str) -> String {
    if all.len() > LISTED_MAX {
        let (shown, rest) = all.split_at(LISTED_MAX);
        return format!("{} + {} more...", shown.join(","), rest.len());
    }
    or(&all.join(","), none).to_string()
}

fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn endpoints(object: &Value) -> String {
    let subsets = list(object, "subsets");
    if subsets.is_empty() {
        return "<none>".to_string();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = list(subset, "addresses")
            .iter()
            .map(|address| string(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.map(String::from));
        } else {
            for port in ports {
                let port = number(port, "port");
                all.extend(addresses.clone().map(|address| host_port(address, port)));
            }
        }
    }
    abridged(&all, "")
}

fn slice_ports(object: &Value) -> String {
    let all: Vec<String> = list(object, "ports")
        .iter()
        .map(
            |port| match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_string(),
                (None, None) => "*".to_string(),
            },
        )
        .collect();
    abridged(&all, "<unset>")
}

fn slice_addresses(object: &Value) -> String {
    let all: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| strings(endpoint, "addresses"))
        .map(String::from)
        .collect();
    abridged(&all, "<unset>")
}

/// Reads an event by its core/v1 name of a field or, in its other view, by the new one.
fn either<'a>(object: &'a Value, core: &str, events: &str) -> &'a Value {
    match &object[core] {
        Value::Null => &object[events],
        value => value,
    }
}

fn event(object: &Value, name: &str, now: jiff::Timestamp) -> Vec<Value> {
    let text = |core: &str, events: &str| either(object, core, events).as_str().unwrap_or_default();
    let first = or(
        text("firstTimestamp", "deprecatedFirstTimestamp"),
        text("eventTime", "eventTime"),
    );
    let last = or(text("lastTimestamp", "deprecatedLastTimestamp"), first);
    let series = &object["series"];
    let (last, count) = if series.is_object() {
        (string(series, "lastObservedTime"), number(series, "count"))
    } else {
        let count = either(object, "count", "deprecatedCount").as_i64();
        (last, count.filter(|count| *count > 0).unwrap_or(1))
    };
    let involved = either(object, "involvedObject", "regarding");
    let kind = string(involved, "kind").to_lowercase();
    let target = match string(involved, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either(object, "source", "deprecatedSource");
    let component = or(
        string(source, "component"),
        text("reportingComponent", "reportingController"),
    );
    let source = match or(string(source, "host"), string(object, "reportingInstance")) {
        "" => component.to_string(),
        instance => format!("{component}, {instance}"),
    };
    vec![
        since(last, now).into(),
        string(object, "type").into(),
        string(object, "reason").into(),
        target.into(),
        string(involved, "fieldPath").into(),
        source.into(),
        text("message", "note").trim().into(),
        since(first, now).into(),
        count.into(),
        name.into(),
    ]
}

fn role_binding(object: &Value, name: &str, age: String) -> Vec<Value> {
    let subjects = |kind: &str| {
        let names: Vec<String> = list(object, "subjects")
            .iter()
            .filter(|subject| subject["kind"] == kind)
            .map(|subject| match kind {
                "ServiceAccount" => {
                    format!(
                        "{}/{}",
                        string(subject, "namespace"),
                        string(subject, "name")
                    )
                }
                _ => string(subject, "name").to_string(),
            })
            .collect();
        names.join(", ")
    };
    let role = &object["roleRef"];
    vec![
        name.into(),
        format!("{}/{}", string(role, "kind"), string(role, "name")).into(),
        age.into(),
        subjects("User").into(),
        subjects("Group").into(),
        subjects("ServiceAccount").into(),
    ]
}
