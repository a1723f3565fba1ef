//! The downward API: a pod's own fields and resources, as text.

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use trireme_model::quantity::Quantity;

/// Facts that are not in the pod's object yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub node_name: String,
    pub host_ip: String,
    pub pod_ip: String,
    /// For limits that are not set: the node's own.
    pub node_cpu_milli: i128,
    pub node_memory_bytes: i128,
    pub node_storage_bytes: i128,
}

/// A string as Go's %q prints it, which is how labels are written to files.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let all = map.into_iter().flatten();
    let made: Vec<String> = all
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    made.join("\n")
}

/// The field's value; an error names a field that there is not.
pub(crate) fn field(
    pod: &Pod,
    facts: &Facts,
    selector: &ObjectFieldSelector,
) -> Result<String, String> {
    let path = selector.field_path.as_str();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let subscript = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    if let Some(key) = subscript("metadata.labels") {
        return Ok(text(
            pod.metadata.labels.as_ref().and_then(|map| map.get(key)),
        ));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(text(
            pod.metadata
                .annotations
                .as_ref()
                .and_then(|map| map.get(key)),
        ));
    }
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => Ok(text(pod.metadata.name.as_ref())),
        "metadata.namespace" => Ok(text(pod.metadata.namespace.as_ref())),
        "metadata.uid" => Ok(text(pod.metadata.uid.as_ref())),
        "metadata.labels" => Ok(lines(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(pod.metadata.annotations.as_ref())),
        "spec.nodeName" => Ok(facts.node_name.clone()),
        "spec.serviceAccountName" => Ok(text(spec.and_then(|s| s.service_account_name.as_ref()))),
        "status.hostIP" | "status.hostIPs" => Ok(facts.host_ip.clone()),
        "status.podIP" | "status.podIPs" => Ok(facts.pod_ip.clone()),
        other => Err(format!("unsupported fieldPath: {other}")),
    }
}

/// The resource's value, divided and rounded up.
pub(crate) fn resource(
    containers: &[Container],
    own: Option<&str>,
    facts: &Facts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(own);
    let container = containers
        .iter()
        .find(|c| Some(c.name.as_str()) == name)
        .ok_or_else(|| format!("container {} not found", name.unwrap_or_default()))?;
    let (table, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource: {}", selector.resource))?;
    let resources = container.resources.clone().unwrap_or_default();
    let limits = resources.limits.unwrap_or_default();
    let requests = resources.requests.unwrap_or_default();
    let milli = |map: &BTreeMap<String, _>| -> Option<i128> {
        let found: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            map.get(resource);
        Some(Quantity::parse(&found?.0).ok()?.milli())
    };
    let node = match resource {
        "cpu" => facts.node_cpu_milli,
        "memory" => facts.node_memory_bytes.saturating_mul(1000),
        "ephemeral-storage" => facts.node_storage_bytes.saturating_mul(1000),
        _ => 0,
    };
    let value = match table {
        "limits" => milli(&limits).unwrap_or(node),
        "requests" => milli(&requests).or_else(|| milli(&limits)).unwrap_or(0),
        _ => {
            return Err(format!(
                "unsupported container resource: {}",
                selector.resource
            ));
        }
    };
    let divisor = match &selector.divisor {
        Some(quantity) => Quantity::parse(&quantity.0)
            .map_err(|error| error.to_string())?
            .milli(),
        None => 1000,
    };
    let divisor = if divisor <= 0 { 1000 } else { divisor };
    Ok(value
        .saturating_add(divisor - 1)
        .div_euclid(divisor)
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources_are_text() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u",
                         "labels": {"b": "2", "a": "say \"hi\""}},
            "spec": {"serviceAccountName": "default", "containers": [
                {"name": "app", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}
        }))
        .unwrap();
        let facts = Facts {
            node_name: "n1".into(),
            pod_ip: "10.42.0.5".into(),
            node_memory_bytes: 1 << 30,
            ..Facts::default()
        };
        let of = |path: &str| {
            let selector = serde_json::from_value(json!({"fieldPath": path})).unwrap();
            field(&pod, &facts, &selector)
        };
        assert_eq!(
            of("metadata.labels").unwrap(),
            "a=\"say \\\"hi\\\"\"\nb=\"2\""
        );
        assert_eq!(of("metadata.labels['b']").unwrap(), "2");
        assert_eq!(of("status.podIP").unwrap(), "10.42.0.5");
        assert!(of("spec.nosuch").is_err());
        let containers = pod.spec.as_ref().unwrap().containers.clone();
        let amount = |value: serde_json::Value| {
            let selector = serde_json::from_value(value).unwrap();
            resource(&containers, Some("app"), &facts, &selector)
        };
        assert_eq!(amount(json!({"resource": "limits.cpu"})).unwrap(), "2");
        assert_eq!(
            amount(json!({"resource": "limits.cpu", "divisor": "1m"})).unwrap(),
            "1500"
        );
        assert_eq!(
            amount(json!({"resource": "requests.memory", "divisor": "1Mi"})).unwrap(),
            "64"
        );
        assert!(amount(json!({"resource": "limits.memory", "containerName": "x"})).is_err());
    }
}
