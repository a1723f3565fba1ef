//! Defaults of pods and of the pod templates in workloads.

use serde_json::{Map, Value, json};

use super::{child, default, default_text, each, text};
use crate::meta::map_mut;

/// Permission bits of projected files: 0644.
const FILE_MODE: i64 = 420;

/// A pod gets, beyond what a template gets, requests equal to its limits, host ports on the host's network, and
/// service links.
pub fn pod(object: &mut Value) {
    let spec = child(object, "spec");
    default(spec, "enableServiceLinks", true);
    let on_host = spec
        .get("hostNetwork")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for container in each(Some(spec), list) {
            requests_from_limits(map_mut(container));
            if on_host {
                for port in each(container.as_object_mut(), "ports") {
                    let port = map_mut(port);
                    if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                        && let Some(number) = port.get("containerPort").cloned()
                    {
                        port.insert("hostPort".to_owned(), number);
                    }
                }
            }
        }
    }
    self::spec(spec);
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(Value::Object(resources)) = container.get_mut("resources") else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = map_mut(resources.entry("requests").or_insert_with(|| json!({})));
    for (resource, amount) in limits {
        requests.entry(resource).or_insert(amount);
    }
}

/// Defaults of a pod's or a template's `spec`.
pub fn spec(spec: &mut Map<String, Value>) {
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    // The deprecated name of the same field; both are always shown.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccount".to_owned(), account.as_str().into());
        spec.insert("serviceAccountName".to_owned(), account.into());
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(Some(spec), list) {
            self::container(map_mut(container), list == "ephemeralContainers");
        }
    }
    for volume in each(Some(spec), "volumes") {
        self::volume(map_mut(volume));
    }
}

/// `Always` for images that name no fixed version.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn container(container: &mut Map<String, Value>, ephemeral: bool) {
    let policy = pull_policy(text(container, "image"));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    if !ephemeral {
        default(container, "resources", json!({}));
    }
    for port in each(Some(container), "ports") {
        default_text(map_mut(port), "protocol", "TCP");
    }
    for variable in each(Some(container), "env") {
        if let Some(Value::Object(source)) = variable.get_mut("valueFrom") {
            field_reference(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(name) {
            self::probe(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(Value::Object(handler)) = lifecycle.get_mut(name) {
                http_get(handler);
            }
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        // Zero is Go's "not said" for these.
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.to_owned(), value.into());
        }
    }
    if let Some(Value::Object(call)) = probe.get_mut("grpc") {
        default(call, "service", "");
    }
    http_get(probe);
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(request)) = handler.get_mut("httpGet") {
        default_text(request, "path", "/");
        default_text(request, "scheme", "HTTP");
    }
}

fn field_reference(owner: &mut Map<String, Value>) {
    if let Some(Value::Object(reference)) = owner.get_mut("fieldRef") {
        default_text(reference, "apiVersion", "v1");
    }
    if let Some(Value::Object(reference)) = owner.get_mut("resourceFieldRef") {
        default(reference, "divisor", "0");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = volume.get_mut(name) {
            default(source, "defaultMode", FILE_MODE);
            for item in each(Some(source), "items") {
                field_reference(map_mut(item));
            }
            for projection in each(Some(source), "sources") {
                self::projection(map_mut(projection));
            }
        }
    }
    if let Some(Value::Object(source)) = volume.get_mut("hostPath") {
        default(source, "type", "");
    }
}

fn projection(projection: &mut Map<String, Value>) {
    if let Some(Value::Object(token)) = projection.get_mut("serviceAccountToken") {
        default(token, "expirationSeconds", 3600);
    }
    if let Some(Value::Object(source)) = projection.get_mut("downwardAPI") {
        for item in each(Some(source), "items") {
            field_reference(map_mut(item));
        }
    }
}
