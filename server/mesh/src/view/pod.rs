//! What of a pod the mesh needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::locality::{LOCALITY_LABEL, Locality};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub address: String,
    pub node: String,
    pub service_account: String,
    /// Of the Deployment or whatever made it.
    pub workload: String,
    /// Named container ports.
    pub ports: BTreeMap<String, u32>,
    /// Neither finished nor without an address.
    pub live: bool,
    pub ready: bool,
    /// A sidecar is in it.
    pub meshed: bool,
}

/// The container that injection puts into a pod.
const PROXY_CONTAINER: &str = "istio-proxy";

impl Pod {
    pub fn read(pod: &core::Pod) -> Pod {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let containers = || {
            let init = spec.and_then(|spec| spec.init_containers.as_ref());
            let main = spec.map(|spec| &spec.containers);
            main.into_iter().chain(init).flatten()
        };
        let mut ports = BTreeMap::new();
        for port in containers().filter_map(|it| it.ports.as_ref()).flatten() {
            if let (Some(name), Ok(number)) = (&port.name, u32::try_from(port.container_port)) {
                ports.entry(name.clone()).or_insert(number);
            }
        }
        let address = status.and_then(|it| it.pod_ip.clone()).unwrap_or_default();
        let phase = status.and_then(|it| it.phase.as_deref()).unwrap_or("");
        let ready = status
            .and_then(|it| it.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Pod {
            workload: workload(pod, &labels).unwrap_or_else(|| name.clone()),
            name,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            node: spec.and_then(|it| it.node_name.clone()).unwrap_or_default(),
            service_account: spec
                .and_then(|it| it.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            live: !address.is_empty() && phase != "Succeeded" && phase != "Failed",
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
            meshed: containers().any(|container| container.name == PROXY_CONTAINER),
            address,
            ports,
            labels,
        }
    }

    /// What its labels say of where it is, in Istio's spelling with dots for slashes.
    pub fn own_locality(&self) -> Option<Locality> {
        let text = self.labels.get(LOCALITY_LABEL)?;
        Some(Locality::parse(&text.replace('.', "/")))
    }
}

/// A ReplicaSet's pods are its Deployment's.
fn workload(pod: &core::Pod, labels: &BTreeMap<String, String>) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    if owner.kind == "ReplicaSet"
        && let Some(hash) = labels.get("pod-template-hash")
        && let Some(deployment) = owner.name.strip_suffix(&format!("-{hash}"))
    {
        return Some(deployment.to_owned());
    }
    Some(owner.name.clone())
}

/// Istio's canonical name and revision of a workload: by its own labels, then by Kubernetes' and `app`/`version`.
pub fn canonical(labels: &BTreeMap<String, String>, workload: &str) -> (String, String) {
    let first = |names: [&str; 3], otherwise: &str| {
        let mut found = names.iter().filter_map(|name| labels.get(*name));
        found
            .next()
            .map_or_else(|| otherwise.to_owned(), Clone::clone)
    };
    (
        first(
            [
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ],
            workload,
        ),
        first(
            [
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ],
            "latest",
        ),
    )
}
