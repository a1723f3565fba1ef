//! The proxy's container and volumes, as sidecar and as gateway.
//!
//! What the program finds in them: its role in the arguments, who and where it is in the environment (Istio's names),
//! the pod's labels and annotations under [`PODINFO_PATH`], a token of the service account for the control plane under
//! [`TOKEN_PATH`] and the cluster's authority under [`CA_PATH`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

pub(crate) const CONTAINER: &str = "istio-proxy";
pub(crate) const IMAGE: &str = "trireme.local/proxy";
/// The user that interception lets pass.
pub(crate) const USER: i64 = 1337;
pub(crate) const STATUS_PORT: u16 = 15021;
const METRICS_PORT: u16 = 15090;
/// `labels` and `annotations`, as the downward API writes them.
pub(crate) const PODINFO_PATH: &str = "/etc/istio/pod";
/// `istio-token`, for the audience [`TOKEN_AUDIENCE`].
pub(crate) const TOKEN_PATH: &str = "/var/run/secrets/tokens";
pub(crate) const TOKEN_AUDIENCE: &str = "istio-ca";
/// `root-cert.pem`: who the servers' certificates are signed by.
pub(crate) const CA_PATH: &str = "/var/run/secrets/istio";
/// Half a day, as Istio's; the node renews it long before.
const TOKEN_SECONDS: i64 = 43_200;
const API_PORT: u16 = 443;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    Router,
}

/// What a template needs to know.
pub(crate) struct Proxy<'a> {
    pub role: Role,
    pub image: &'a str,
    /// ClusterIP of the API, where the control plane is too.
    pub api_address: Ipv4Addr,
    pub cluster_domain: &'a str,
    /// Name of the Deployment or what else the pod belongs to.
    pub workload: &'a str,
    /// Path of that object: `kubernetes://apis/apps/v1/namespaces/default/deployments/web`.
    pub owner: &'a str,
    /// Names of the application's containers, separated by commas.
    pub app_containers: &'a str,
    /// The application's ports, as JSON.
    pub app_ports: &'a str,
    pub requests: BTreeMap<&'static str, String>,
    pub limits: BTreeMap<&'static str, String>,
}

/// What Istio's annotations leave alone: little, since the proxy needs little.
pub(crate) fn default_requests() -> BTreeMap<&'static str, String> {
    BTreeMap::from([("cpu", "10m".to_owned()), ("memory", "40Mi".to_owned())])
}

pub(crate) fn container(proxy: &Proxy<'_>) -> Value {
    let role = match proxy.role {
        Role::Sidecar => "sidecar",
        Role::Router => "router",
    };
    let ready = json!({ "path": "/healthz/ready", "port": STATUS_PORT, "scheme": "HTTP" });
    let mut container = json!({
        "name": CONTAINER,
        "image": proxy.image,
        // The node has it; nothing is pulled.
        "imagePullPolicy": "IfNotPresent",
        "args": ["proxy", role],
        "env": environment(proxy),
        "ports": [{ "name": "http-envoy-prom", "containerPort": METRICS_PORT, "protocol": "TCP" }],
        "readinessProbe": {
            "httpGet": ready,
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 4,
        },
        // Ten minutes, as Istio's: whoever waits for the control plane is not restarted meanwhile.
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 600,
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
        },
        "volumeMounts": [
            { "name": "istio-podinfo", "mountPath": PODINFO_PATH },
            { "name": "istio-token", "mountPath": TOKEN_PATH, "readOnly": true },
            { "name": "istiod-ca-cert", "mountPath": CA_PATH, "readOnly": true },
        ],
    });
    let mut resources = json!({});
    for (side, amounts) in [("requests", &proxy.requests), ("limits", &proxy.limits)] {
        if !amounts.is_empty() {
            resources[side] = json!(amounts);
        }
    }
    container["resources"] = resources;
    if proxy.role == Role::Sidecar {
        // A sidecar in Kubernetes' own sense: up before the application, down after it, and no Job waits for it.
        container["restartPolicy"] = "Always".into();
    }
    container
}

fn environment(proxy: &Proxy<'_>) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let discovery = format!("{}:{API_PORT}", proxy.api_address);
    json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        value("DISCOVERY_ADDRESS", &discovery),
        value("CLUSTER_DOMAIN", proxy.cluster_domain),
        value("TRUST_DOMAIN", "cluster.local"),
        value("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        value("ISTIO_META_MESH_ID", "cluster.local"),
        value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        value("ISTIO_META_WORKLOAD_NAME", proxy.workload),
        value("ISTIO_META_OWNER", proxy.owner),
        value("ISTIO_META_APP_CONTAINERS", proxy.app_containers),
        value("ISTIO_META_POD_PORTS", proxy.app_ports),
    ])
}

pub(crate) fn volumes() -> Vec<Value> {
    let item = |path: &str, field: &str| json!({ "path": path, "fieldRef": { "apiVersion": "v1", "fieldPath": field } });
    vec![
        json!({
            "name": "istio-podinfo",
            "downwardAPI": {
                "defaultMode": 0o644,
                "items": [item("labels", "metadata.labels"), item("annotations", "metadata.annotations")],
            },
        }),
        json!({
            "name": "istio-token",
            "projected": {
                "defaultMode": 0o644,
                "sources": [{ "serviceAccountToken": {
                    "audience": TOKEN_AUDIENCE,
                    "expirationSeconds": TOKEN_SECONDS,
                    "path": "istio-token",
                } }],
            },
        }),
        json!({
            "name": "istiod-ca-cert",
            "configMap": {
                "name": "kube-root-ca.crt",
                "defaultMode": 0o644,
                "items": [{ "key": "ca.crt", "path": "root-cert.pem" }],
            },
        }),
    ]
}
