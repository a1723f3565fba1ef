//! Updates of services: what the server allocated stays, and what belonged to a former type goes.

use serde_json::{Map, Value};

use crate::meta::map_mut;

fn type_of(spec: Option<&Map<String, Value>>) -> String {
    spec.and_then(|spec| spec.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
        .to_owned()
}

fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Whether a field was left as it is stored, so that the request does not mean it.
fn unchanged(new: &Map<String, Value>, old: &Value, field: &str) -> bool {
    new.get(field) == old.get(field)
}

pub fn prepare_update(new: &mut Value, old: &Value) {
    let old_spec = &old["spec"];
    let old_type = type_of(old_spec.as_object());
    let Some(spec) = map_mut(new).get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let new_type = type_of(Some(&*spec));
    if new_type != "ExternalName" && old_type != "ExternalName" {
        keep_addresses(spec, old_spec);
    }
    if has_node_ports(&new_type) {
        keep_node_ports(spec, old_spec);
    }
    if new_type != old_type {
        drop_former(spec, old_spec, &new_type, &old_type);
    }
}

/// A manifest without addresses can be replaced over the stored service.
fn keep_addresses(spec: &mut Map<String, Value>, old: &Value) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let empty = match spec.get(field) {
            None => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if empty && let Some(value) = old.get(field) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}

/// So can one without node ports: a port that stays keeps its number on the nodes.
fn keep_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let stored = old
        .get("ports")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let identity = |port: &Value| {
        let protocol = port
            .get("protocol")
            .and_then(Value::as_str)
            .unwrap_or("TCP")
            .to_owned();
        (port.get("port").and_then(Value::as_i64), protocol)
    };
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) == 0
            && let Some(kept) = stored
                .iter()
                .find(|stored| identity(stored) == identity(port))
            && let Some(node_port) = kept.get("nodePort")
        {
            map_mut(port).insert("nodePort".to_owned(), node_port.clone());
        }
    }
}

fn drop_unchanged(spec: &mut Map<String, Value>, old: &Value, fields: &[&str]) {
    for field in fields {
        if unchanged(spec, old, field) {
            spec.remove(*field);
        }
    }
}

/// A patch of the type alone leaves fields behind that the new type may not have.
fn drop_former(spec: &mut Map<String, Value>, old: &Value, new_type: &str, old_type: &str) {
    if new_type == "ExternalName" && unchanged(spec, old, "clusterIP") {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            spec.remove(field);
        }
    }
    if old_type == "LoadBalancer" {
        drop_unchanged(
            spec,
            old,
            &["allocateLoadBalancerNodePorts", "loadBalancerClass"],
        );
    }
    if has_node_ports(old_type) && !has_node_ports(new_type) {
        drop_unchanged(spec, old, &["externalTrafficPolicy", "healthCheckNodePort"]);
        let stored: Vec<&Value> = old
            .get("ports")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|port| port.get("nodePort"))
            .collect();
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let port = map_mut(port);
            if port
                .get("nodePort")
                .is_some_and(|number| stored.contains(&number))
            {
                port.remove("nodePort");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node_port() -> Value {
        json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}})
    }

    #[test]
    fn allocations_stay_where_a_manifest_is_silent() {
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}});
        prepare_update(&mut new, &node_port());
        assert_eq!(new["spec"]["clusterIP"], "10.43.0.9");
        assert_eq!(
            new["spec"]["ports"],
            json!([{"port": 80, "nodePort": 30080}, {"port": 81}])
        );
    }

    #[test]
    fn a_patched_type_sheds_what_the_old_one_had() {
        let mut new = node_port();
        new["spec"]["type"] = json!("ClusterIP");
        prepare_update(&mut new, &node_port());
        assert_eq!(
            new["spec"],
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
                "ports": [{"port": 80, "protocol": "TCP"}]})
        );
        let mut new = node_port();
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["externalName"] = json!("example.com");
        prepare_update(&mut new, &node_port());
        assert!(new["spec"].get("clusterIP").is_none());
    }
}
