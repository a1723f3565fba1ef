//! A service as the mesh sees it, whether Kubernetes or a ServiceEntry speaks of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trireme_decide::ObjectKey;
use trireme_model::istio;

use crate::host;
use crate::protocol::Protocol;

/// The address of a service that has none: anything on its port.
pub const ANY_ADDRESS: &str = "0.0.0.0";
const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";

/// How a proxy finds the endpoints of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// The control plane names them.
    Endpoints,
    /// The proxy asks DNS, and uses every answer.
    Dns,
    /// The proxy asks DNS, and uses the first answer.
    DnsRoundRobin,
    /// The client has chosen the address.
    Passthrough,
    /// Another name of a service.
    Alias,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Kubernetes,
    ServiceEntry,
}

/// In which namespaces something is seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Visibility {
    #[default]
    Everywhere,
    /// `~`
    Nowhere,
    In(BTreeSet<String>),
}

impl Visibility {
    /// Reads `exportTo` of an object of `namespace`.
    pub fn read<'a>(export_to: impl IntoIterator<Item = &'a str>, namespace: &str) -> Visibility {
        let mut namespaces = BTreeSet::new();
        let mut nowhere = false;
        for entry in export_to {
            match entry.trim() {
                "" => {}
                "*" => return Visibility::Everywhere,
                "~" => nowhere = true,
                "." => drop(namespaces.insert(namespace.to_owned())),
                other => drop(namespaces.insert(other.to_owned())),
            }
        }
        match (namespaces.is_empty(), nowhere) {
            (true, false) => Visibility::Everywhere,
            (true, true) => Visibility::Nowhere,
            (false, _) => Visibility::In(namespaces),
        }
    }

    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Visibility::Everywhere => true,
            Visibility::Nowhere => false,
            Visibility::In(namespaces) => namespaces.contains(namespace),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    Number(u32),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: u32,
    pub name: String,
    pub protocol: Protocol,
    pub target: TargetPort,
}

/// See the module's page.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Lower case.
    pub host: String,
    pub namespace: String,
    pub name: String,
    pub origin: Origin,
    /// The object that it comes from.
    pub source: ObjectKey,
    pub created: Option<Timestamp>,
    pub ports: Vec<Port>,
    /// Virtual addresses, possibly ranges; empty for a service without.
    pub addresses: Vec<String>,
    pub resolution: Resolution,
    pub mesh_external: bool,
    pub visibility: Visibility,
    pub selector: BTreeMap<String, String>,
    /// What an alias stands for.
    pub external_name: String,
    pub publish_not_ready: bool,
    /// Endpoints written into the ServiceEntry itself.
    pub endpoints: Vec<istio::WorkloadEntrySpec>,
    pub subject_alt_names: Vec<String>,
}

impl Service {
    pub fn port(&self, number: u32) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Where connections to it are addressed.
    pub fn address(&self) -> &str {
        self.addresses.first().map_or(ANY_ADDRESS, String::as_str)
    }

    /// Clients choose one of its pods themselves.
    pub fn is_headless(&self) -> bool {
        self.resolution == Resolution::Passthrough && self.addresses.is_empty()
    }

    /// Endpoints go over the wire apart from the cluster.
    pub fn has_endpoint_resources(&self) -> bool {
        // Of those that clients choose among gateways and gRPC get them.
        matches!(
            self.resolution,
            Resolution::Endpoints | Resolution::Passthrough
        )
    }

    pub fn of_kubernetes(service: &core::Service) -> Option<Service> {
        let name = service.metadata.name.clone()?;
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let spec = service.spec.clone().unwrap_or_default();
        let external_name = match spec.type_.as_deref() {
            Some("ExternalName") => spec.external_name.unwrap_or_default().to_ascii_lowercase(),
            _ => String::new(),
        };
        let mut addresses: Vec<String> = spec.cluster_ips.unwrap_or_default();
        if addresses.is_empty() {
            addresses.extend(spec.cluster_ip);
        }
        let headless = addresses.iter().any(|address| address == "None");
        addresses.retain(|address| !address.is_empty() && address != "None");
        let resolution = match (external_name.is_empty(), headless) {
            (false, _) => Resolution::Alias,
            (true, true) => Resolution::Passthrough,
            (true, false) => Resolution::Endpoints,
        };
        let ports = spec.ports.unwrap_or_default().into_iter().map(|port| {
            let number = u32::try_from(port.port).unwrap_or(0);
            let name = port.name.unwrap_or_default();
            let transport = port.protocol.as_deref().unwrap_or("TCP");
            Port {
                number,
                protocol: Protocol::of_port(number, &name, transport, port.app_protocol.as_deref()),
                target: match port.target_port {
                    Some(IntOrString::Int(0)) | None => TargetPort::Number(number),
                    Some(IntOrString::Int(target)) => {
                        TargetPort::Number(u32::try_from(target).unwrap_or(0))
                    }
                    Some(IntOrString::String(name)) => TargetPort::Name(name),
                },
                name,
            }
        });
        let export_to = service
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(EXPORT_TO_ANNOTATION))
            .map_or("", String::as_str);
        Some(Service {
            host: host::service(&name, &namespace),
            visibility: Visibility::read(export_to.split(','), &namespace),
            source: ObjectKey::new(namespace.clone(), name.clone()),
            name,
            namespace,
            origin: Origin::Kubernetes,
            created: service.metadata.creation_timestamp.as_ref().map(|it| it.0),
            ports: ports.collect(),
            addresses,
            resolution,
            mesh_external: false,
            selector: spec.selector.unwrap_or_default(),
            external_name,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            endpoints: Vec::new(),
            subject_alt_names: Vec::new(),
        })
    }

    /// One service for each host.
    pub fn of_entry(entry: &istio::ServiceEntry) -> Vec<Service> {
        let spec = &entry.spec;
        let resolution = match spec.resolution {
            istio::Resolution::Static => Resolution::Endpoints,
            istio::Resolution::Dns => Resolution::Dns,
            istio::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            istio::Resolution::None | istio::Resolution::DynamicDns => Resolution::Passthrough,
        };
        let ports: Vec<Port> = spec
            .ports
            .iter()
            .map(|port| Port {
                number: port.number,
                name: port.name.clone(),
                protocol: match port.protocol.as_str() {
                    "" => Protocol::of_port(port.number, &port.name, "TCP", None),
                    text => Protocol::parse(text),
                },
                target: TargetPort::Number(match port.target_port {
                    0 => port.number,
                    target => target,
                }),
            })
            .collect();
        let hosts = spec.hosts.iter().map(|host| host.to_ascii_lowercase());
        hosts
            .map(|host| Service {
                host,
                namespace: entry.namespace().to_owned(),
                name: entry.name().to_owned(),
                origin: Origin::ServiceEntry,
                source: ObjectKey::of(&entry.metadata),
                created: entry.metadata.creation_timestamp.as_ref().map(|it| it.0),
                ports: ports.clone(),
                addresses: spec.addresses.clone(),
                resolution,
                mesh_external: spec.location == istio::Location::MeshExternal,
                visibility: Visibility::read(
                    spec.export_to.iter().map(String::as_str),
                    entry.namespace(),
                ),
                selector: spec
                    .workload_selector
                    .as_ref()
                    .map(|selector| selector.labels.clone())
                    .unwrap_or_default(),
                external_name: String::new(),
                publish_not_ready: false,
                endpoints: spec.endpoints.clone(),
                subject_alt_names: spec.subject_alt_names.clone(),
            })
            .collect()
    }
}
