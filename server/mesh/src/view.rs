//! The objects that configuration is made from, typed and indexed, kept up to date change by change.

mod pod;
mod registry;
mod slice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trireme_decide::{Change, ObjectKey};
use trireme_model::istio;
use trireme_model::kinds::Kind;

use crate::locality::Locality;
use crate::mesh_config::{self, MeshConfig};
use crate::service::{Origin, Service};
use crate::stale::{Stale, Types};

pub use pod::{Pod, canonical};
pub use registry::{Registry, selects};
pub use slice::Slice;

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("{kind} {key}: {source}")]
    Malformed {
        kind: &'static str,
        key: String,
        source: serde_json::Error,
    },
    #[error("ConfigMap istio-system/istio, key mesh: {source}")]
    MeshConfig { source: serde_yaml_ng::Error },
}

pub type Typed<T> = BTreeMap<ObjectKey, Arc<T>>;

/// A certificate and its key, of a Secret that a Gateway may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub certificate: Vec<u8>,
    pub private_key: Vec<u8>,
    pub authorities: Vec<u8>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct View {
    pub mesh: MeshConfig,
    pub registry: Registry,
    pub slices: Typed<Slice>,
    slices_of_service: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    slices_of_pod: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    pub pods: Typed<Pod>,
    pub localities: BTreeMap<String, Locality>,
    pub namespaces: BTreeSet<String>,
    pub credentials: Typed<Credential>,
    pub virtual_services: Typed<istio::VirtualService>,
    pub destination_rules: Typed<istio::DestinationRule>,
    pub gateways: Typed<istio::Gateway>,
    pub service_entries: Typed<istio::ServiceEntry>,
    pub workload_entries: Typed<istio::WorkloadEntry>,
    pub sidecars: Typed<istio::Sidecar>,
    pub envoy_filters: Typed<istio::EnvoyFilter>,
}

/// Group and kind of everything that the view is fed with.
const WATCHED: [(&str, &str); 14] = [
    ("", "ConfigMap"),
    ("", "Namespace"),
    ("", "Node"),
    ("", "Pod"),
    ("", "Secret"),
    ("", "Service"),
    ("discovery.k8s.io", "EndpointSlice"),
    (istio::GROUP, "VirtualService"),
    (istio::GROUP, "DestinationRule"),
    (istio::GROUP, "Gateway"),
    (istio::GROUP, "ServiceEntry"),
    (istio::GROUP, "WorkloadEntry"),
    (istio::GROUP, "Sidecar"),
    (istio::GROUP, "EnvoyFilter"),
];

impl View {
    /// Every kind to list and watch, each storage once.
    pub fn watched() -> Vec<&'static Kind> {
        let mut storages = BTreeSet::new();
        trireme_model::kinds::all()
            .iter()
            .filter(|kind| WATCHED.contains(&(kind.group, kind.kind)))
            .filter(|kind| storages.insert(kind.storage))
            .collect()
    }

    /// Takes in one change and answers what it makes stale. A malformed object leaves the view as it was.
    pub fn update(&mut self, kind: &'static Kind, change: Change) -> Result<Stale, MeshError> {
        let (key, value) = match change {
            Change::Upsert(value) => (key_of(&value), Some(value)),
            Change::Delete(key) => (key, None),
        };
        let mut stale = match (kind.group, kind.kind) {
            ("", "Service") => self.update_service(&key, read(kind, &key, value)?),
            ("discovery.k8s.io", "EndpointSlice") => {
                self.update_slice(&key, read(kind, &key, value)?)
            }
            ("", "Pod") => self.update_pod(&key, read(kind, &key, value)?),
            ("", "Node") => self.update_node(&key, read(kind, &key, value)?),
            ("", "Secret") => self.update_secret(&key, read(kind, &key, value)?),
            ("", "ConfigMap") => self.update_config(&key, read(kind, &key, value)?)?,
            ("", "Namespace") => {
                match value {
                    Some(_) => self.namespaces.insert(key.name.clone()),
                    None => self.namespaces.remove(&key.name),
                };
                Stale::default()
            }
            (istio::GROUP, _) => self.update_istio(kind, &key, value)?,
            _ => Stale::default(),
        };
        if !stale.is_empty() || stale.conditions {
            stale.objects.insert(format!("{} {key}", kind.kind));
        }
        Ok(stale)
    }

    fn update_istio(
        &mut self,
        kind: &'static Kind,
        key: &ObjectKey,
        value: Option<Value>,
    ) -> Result<Stale, MeshError> {
        const ROUTING: Types = Types::ROUTES.and(Types::LISTENERS);
        const SENDING: Types = Types::CLUSTERS.and(Types::ENDPOINTS).and(Types::ROUTES);
        let types = match kind.kind {
            "VirtualService" => {
                // Listeners know of it only where it routes what is no HTTP.
                let by_listener = |view: &View| {
                    let known = view.virtual_services.get(key);
                    known.is_some_and(|it| !it.spec.tcp.is_empty() || !it.spec.tls.is_empty())
                };
                let before = by_listener(self);
                let object = read(kind, key, value)?;
                let changed = changed(&mut self.virtual_services, key, object);
                changed.then(|| match before || by_listener(self) {
                    true => ROUTING,
                    false => Types::ROUTES,
                })
            }
            "DestinationRule" => changed(&mut self.destination_rules, key, read(kind, key, value)?)
                .then_some(SENDING),
            "Gateway" => changed(&mut self.gateways, key, read(kind, key, value)?)
                .then_some(ROUTING.and(Types::SECRETS)),
            "Sidecar" => {
                changed(&mut self.sidecars, key, read(kind, key, value)?).then_some(Types::ALL)
            }
            "EnvoyFilter" => changed(&mut self.envoy_filters, key, read(kind, key, value)?)
                .then_some(ROUTING.and(Types::CLUSTERS)),
            "ServiceEntry" => {
                let entry: Option<istio::ServiceEntry> = read(kind, key, value)?;
                let services = entry.as_ref().map(Service::of_entry).unwrap_or_default();
                changed(&mut self.service_entries, key, entry);
                self.registry
                    .replace(Origin::ServiceEntry, key, services)
                    .then_some(Types::ALL)
            }
            "WorkloadEntry" => {
                let before = self.workload_entries.get(key).cloned();
                if !changed(&mut self.workload_entries, key, read(kind, key, value)?) {
                    return Ok(Stale::default());
                }
                let after = self.workload_entries.get(key).cloned();
                let mut stale = Stale {
                    conditions: true,
                    ..Stale::default()
                };
                for labels in [before, after].iter().flatten().map(|it| &it.spec.labels) {
                    self.endpoints_of_selected(&key.namespace, labels, &mut stale);
                }
                return Ok(stale);
            }
            _ => None,
        };
        Ok(Stale {
            types: types.unwrap_or_default(),
            conditions: types.is_some(),
            ..Stale::default()
        })
    }

    fn update_service(&mut self, key: &ObjectKey, service: Option<core::Service>) -> Stale {
        let services = service.as_ref().and_then(Service::of_kubernetes);
        let changed =
            self.registry
                .replace(Origin::Kubernetes, key, services.into_iter().collect());
        Stale {
            types: if changed { Types::ALL } else { Types::NONE },
            conditions: changed,
            ..Stale::default()
        }
    }

    fn update_slice(&mut self, key: &ObjectKey, slice: Option<discovery::EndpointSlice>) -> Stale {
        let after = slice.as_ref().and_then(Slice::read).map(Arc::new);
        let before = self.slices.get(key).cloned();
        if before == after {
            return Stale::default();
        }
        if let Some(before) = &before {
            unlink(&mut self.slices_of_service, &before.service, key);
            for pod in before.pods() {
                unlink(&mut self.slices_of_pod, pod, key);
            }
            self.slices.remove(key);
        }
        if let Some(after) = &after {
            let link = self.slices_of_service.entry(after.service.clone());
            link.or_default().insert(key.clone());
            for pod in after.pods() {
                let link = self.slices_of_pod.entry(pod.clone());
                link.or_default().insert(key.clone());
            }
            self.slices.insert(key.clone(), after.clone());
        }
        let mut stale = Stale::default();
        for slice in [before, after].into_iter().flatten() {
            self.endpoints_of_service(&slice.service, &mut stale);
        }
        stale
    }

    fn update_pod(&mut self, key: &ObjectKey, pod: Option<core::Pod>) -> Stale {
        let after = pod.as_ref().map(Pod::read).map(Arc::new);
        let before = self.pods.get(key).cloned();
        if before == after {
            return Stale::default();
        }
        match after.clone() {
            Some(after) => drop(self.pods.insert(key.clone(), after)),
            None => drop(self.pods.remove(key)),
        }
        let mut stale = Stale::default();
        // Whether it is ready, a Service's endpoints say in their slices.
        let told = |pod: &Option<Arc<Pod>>| {
            pod.as_ref()
                .map(|it| (it.labels.clone(), it.workload.clone(), it.node.clone()))
        };
        if told(&before) != told(&after) {
            // Selectors may find it now, or no longer.
            stale.conditions = true;
            let services: BTreeSet<ObjectKey> = self
                .slices_of_pod
                .get(key)
                .into_iter()
                .flatten()
                .filter_map(|slice| Some(self.slices.get(slice)?.service.clone()))
                .collect();
            for service in &services {
                self.endpoints_of_service(service, &mut stale);
            }
        }
        for pod in [&before, &after].into_iter().flatten() {
            self.endpoints_of_selected_pods(&key.namespace, &pod.labels, &mut stale);
        }
        let shape = |pod: &Option<Arc<Pod>>| {
            pod.as_ref()
                .map(|pod| (pod.labels.clone(), pod.ports.clone(), pod.address.clone()))
        };
        if shape(&before) != shape(&after) {
            stale.workloads.insert(key.clone());
        }
        stale
    }

    fn update_node(&mut self, key: &ObjectKey, node: Option<core::Node>) -> Stale {
        let after = node.map(|node| {
            let labels = node.metadata.labels.unwrap_or_default();
            Locality::of_node_labels(|name| labels.get(name))
        });
        let before = self.localities.get(&key.name).cloned();
        if before == after {
            return Stale::default();
        }
        match after {
            Some(after) => drop(self.localities.insert(key.name.clone(), after)),
            None => drop(self.localities.remove(&key.name)),
        }
        Stale {
            types: Types::ENDPOINTS,
            ..Stale::default()
        }
    }

    fn update_secret(&mut self, key: &ObjectKey, secret: Option<core::Secret>) -> Stale {
        // Generic secrets serve as well when they have these keys, as in Istio.
        let credential = secret.and_then(|secret| {
            let data = secret.data.unwrap_or_default();
            let take = |names: &[&str]| {
                let mut found = names.iter().filter_map(|name| data.get(*name));
                found.next().map(|bytes| bytes.0.clone())
            };
            let authorities = take(&["ca.crt", "cacert"]);
            let certificate = take(&["tls.crt", "cert"]);
            let private_key = take(&["tls.key", "key"]);
            let usable = (certificate.is_some() && private_key.is_some())
                || (authorities.is_some() && secret.type_.as_deref() == Some("Opaque"));
            usable.then(|| Credential {
                certificate: certificate.unwrap_or_default(),
                private_key: private_key.unwrap_or_default(),
                authorities: authorities.unwrap_or_default(),
            })
        });
        let changed = changed(&mut self.credentials, key, credential);
        Stale {
            types: if changed { Types::SECRETS } else { Types::NONE },
            conditions: changed,
            ..Stale::default()
        }
    }

    fn update_config(
        &mut self,
        key: &ObjectKey,
        config: Option<core::ConfigMap>,
    ) -> Result<Stale, MeshError> {
        if key.namespace != mesh_config::NAMESPACE || key.name != mesh_config::CONFIG_MAP {
            return Ok(Stale::default());
        }
        let yaml = config
            .and_then(|config| config.data)
            .and_then(|mut data| data.remove(mesh_config::KEY))
            .unwrap_or_default();
        let mesh = MeshConfig::parse(&yaml).map_err(|source| MeshError::MeshConfig { source })?;
        let changed = self.mesh != mesh;
        self.mesh = mesh;
        Ok(Stale {
            types: if changed { Types::ALL } else { Types::NONE },
            conditions: changed,
            ..Stale::default()
        })
    }

    /// The slices of a Kubernetes Service.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<Slice>> {
        let keys = self.slices_of_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    fn endpoints_of_service(&self, key: &ObjectKey, stale: &mut Stale) {
        for service in self.registry.of_source(Origin::Kubernetes, key) {
            note_endpoints(service, stale);
        }
    }

    /// Services, of either origin, whose endpoints a WorkloadEntry with these labels is.
    fn endpoints_of_selected(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        stale: &mut Stale,
    ) {
        for service in self.registry.selecting(namespace, labels) {
            note_endpoints(service, stale);
        }
    }

    fn endpoints_of_selected_pods(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        stale: &mut Stale,
    ) {
        for service in self.registry.entries_selecting(namespace, labels) {
            note_endpoints(service, stale);
        }
    }
}

/// A headless service's pods have listeners of their own for what is no HTTP, and endpoints of DNS clusters are part of
/// the cluster.
fn note_endpoints(service: &Service, stale: &mut Stale) {
    use crate::protocol::Treatment;
    use crate::service::Resolution;
    stale.endpoints.insert(service.host.clone());
    let mut ports = service.ports.iter();
    if service.is_headless() && ports.any(|it| it.protocol.treatment() != Treatment::Http) {
        stale.types = stale.types.and(Types::LISTENERS);
    }
    if matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    ) {
        stale.types = stale.types.and(Types::CLUSTERS);
    }
}

fn unlink(index: &mut BTreeMap<ObjectKey, BTreeSet<ObjectKey>>, from: &ObjectKey, key: &ObjectKey) {
    if let Some(keys) = index.get_mut(from) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(from);
        }
    }
}

fn key_of(object: &Value) -> ObjectKey {
    let field = |name: &str| {
        let value = object.get("metadata").and_then(|it| it.get(name));
        value.and_then(Value::as_str).unwrap_or("").to_owned()
    };
    ObjectKey::new(field("namespace"), field("name"))
}

fn read<T: DeserializeOwned>(
    kind: &'static Kind,
    key: &ObjectKey,
    value: Option<Value>,
) -> Result<Option<T>, MeshError> {
    let read = value.map(serde_json::from_value).transpose();
    read.map_err(|source| MeshError::Malformed {
        kind: kind.kind,
        key: key.to_string(),
        source,
    })
}

/// What of an object configuration is made from: changes of anything else are no changes.
trait Essence: PartialEq + Sized {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl Essence for Credential {}

impl<S: Default + PartialEq> Essence for istio::Object<S> {
    fn same(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.metadata.uid == other.metadata.uid
            && self.metadata.labels == other.metadata.labels
            && self.metadata.annotations == other.metadata.annotations
            && self.metadata.creation_timestamp == other.metadata.creation_timestamp
    }
}

/// Puts the object in or takes it out; whether that makes a difference.
fn changed<T: Essence>(objects: &mut Typed<T>, key: &ObjectKey, object: Option<T>) -> bool {
    match object {
        Some(object) => match objects.get_mut(key) {
            Some(known) => {
                let same = known.same(&object);
                *known = Arc::new(object);
                !same
            }
            None => {
                objects.insert(key.clone(), Arc::new(object));
                true
            }
        },
        None => objects.remove(key).is_some(),
    }
}
