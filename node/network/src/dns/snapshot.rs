use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::service::Protocol;

/// Everything the server knows, at one moment. Making one costs time in
/// proportion to the services; looking up does not.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Labels of the cluster's domain, lower case: `["cluster", "local"]`.
    domain: Vec<String>,
    /// Namespace → name → service.
    services: BTreeMap<String, BTreeMap<String, ServiceRecord>>,
    /// Address → labels below the domain, for reverse lookups.
    names: BTreeMap<Ipv4Addr, Vec<String>>,
}

/// A Service as DNS shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    pub namespace: String,
    pub name: String,
    pub address: ServiceAddress,
    /// `spec.ports`.
    pub ports: Vec<PortRecord>,
    /// The endpoints that are ready (all of them with
    /// `publishNotReadyAddresses`); used for headless services only.
    pub endpoints: Vec<EndpointRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAddress {
    Cluster(Vec<Ipv4Addr>),
    Headless,
    ExternalName(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRecord {
    /// Empty for the one unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    pub address: Ipv4Addr,
    /// The endpoint's hostname in its EndpointSlice (the pod's
    /// `spec.hostname` where `spec.subdomain` names the service).
    pub hostname: Option<String>,
    /// The endpoint slice's ports.
    pub ports: Vec<PortRecord>,
}

impl EndpointRecord {
    /// The label below the service's name.
    pub fn label(&self) -> String {
        self.hostname
            .as_ref()
            .map_or_else(|| dashed(self.address), |name| name.to_ascii_lowercase())
    }
}

pub(super) fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

impl Snapshot {
    /// `domain` is the cluster's, such as `cluster.local`.
    pub fn new(domain: &str, services: impl IntoIterator<Item = ServiceRecord>) -> Snapshot {
        let mut snapshot = Snapshot {
            domain: domain
                .split('.')
                .filter(|label| !label.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
            ..Snapshot::default()
        };
        for service in services {
            let below = vec![
                service.name.clone(),
                service.namespace.clone(),
                "svc".to_owned(),
            ];
            match &service.address {
                ServiceAddress::Cluster(addresses) => {
                    for address in addresses {
                        snapshot.names.insert(*address, below.clone());
                    }
                }
                ServiceAddress::Headless => {
                    for endpoint in &service.endpoints {
                        let mut name = vec![endpoint.label()];
                        name.extend(below.iter().cloned());
                        // A pod may be in several headless services: the one
                        // that gives it a hostname names it.
                        if endpoint.hostname.is_some()
                            || !snapshot.names.contains_key(&endpoint.address)
                        {
                            snapshot.names.insert(endpoint.address, name);
                        }
                    }
                }
                ServiceAddress::ExternalName(_) => {}
            }
            let in_namespace = snapshot
                .services
                .entry(service.namespace.clone())
                .or_default();
            in_namespace.insert(service.name.clone(), service);
        }
        snapshot
    }

    pub fn domain(&self) -> &[String] {
        &self.domain
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceRecord> {
        self.services.get(namespace)?.get(name)
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.services.contains_key(namespace)
    }

    pub(super) fn name_of(&self, address: Ipv4Addr) -> Option<&[String]> {
        self.names.get(&address).map(Vec::as_slice)
    }
}
