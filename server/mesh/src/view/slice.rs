//! What of an EndpointSlice the mesh needs.

use k8s_openapi::api::discovery::v1 as discovery;
use trireme_decide::ObjectKey;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub service: ObjectKey,
    /// Name and number of each port.
    pub ports: Vec<(String, u32)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub address: String,
    /// Takes new connections.
    pub ready: bool,
    pub node: String,
    pub zone: String,
    pub pod: Option<ObjectKey>,
    pub hostname: String,
}

impl Slice {
    /// `None` for a slice of no service.
    pub fn read(slice: &discovery::EndpointSlice) -> Option<Slice> {
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
        let ports = slice.ports.as_ref().into_iter().flatten();
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| {
                    let in_namespace = target
                        .namespace
                        .clone()
                        .unwrap_or_else(|| namespace.clone());
                    Some(ObjectKey::new(in_namespace, target.name.clone()?))
                });
            Some(SliceEndpoint {
                address: endpoint.addresses.first()?.clone(),
                ready: conditions.is_none_or(|it| it.ready != Some(false)),
                node: endpoint.node_name.clone().unwrap_or_default(),
                zone: endpoint.zone.clone().unwrap_or_default(),
                pod,
                hostname: endpoint.hostname.clone().unwrap_or_default(),
            })
        });
        Some(Slice {
            service: ObjectKey::new(namespace.clone(), service.clone()),
            ports: ports
                .filter_map(|port| {
                    let number = u32::try_from(port.port?).ok()?;
                    Some((port.name.clone().unwrap_or_default(), number))
                })
                .collect(),
            endpoints: endpoints.collect(),
        })
    }

    pub fn pods(&self) -> impl Iterator<Item = &ObjectKey> {
        self.endpoints.iter().filter_map(|it| it.pod.as_ref())
    }
}
