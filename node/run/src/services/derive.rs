//! What follows from the services: rules, names, variables, ports.

use super::{Key, Services};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use trireme_network::dns::{EndpointRecord, PortRecord, ServiceAddress, ServiceRecord, Snapshot};
use trireme_network::{Affinity, Endpoint, Protocol, ServiceRule};

pub(super) fn port_number(value: Option<i32>) -> Option<u16> {
    value
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

fn addresses(service: &Service) -> Vec<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let all = spec.and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let one = spec.and_then(|s| s.cluster_ip.clone());
    for text in all.iter().chain(one.iter()) {
        if let Ok(address) = text.parse()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        .is_some_and(|ip| ip == "None")
}

/// Endpoints of one service port: the ready ones or, where none is, those that still serve while
/// they end.
fn endpoints(services: &Services, key: &Key, port: &ServicePort, node: &str) -> Vec<Endpoint> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let matches = |p: &&EndpointPort| {
        p.name.as_deref().unwrap_or_default() == wanted
            && p.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    let mut ready = BTreeSet::new();
    let mut ending = BTreeSet::new();
    for slice in services.slices_of(key) {
        let Some(target) = slice
            .ports
            .iter()
            .flatten()
            .find(matches)
            .and_then(|p| port_number(p.port))
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let local = endpoint.node_name.as_deref() == Some(node);
            for address in endpoint.addresses.iter() {
                let Ok(address) = address.parse::<Ipv4Addr>() else {
                    continue;
                };
                let found = Endpoint {
                    address,
                    port: target,
                    local,
                };
                if conditions.ready.unwrap_or(true) {
                    ready.insert(found);
                } else if conditions.serving.unwrap_or(false)
                    && conditions.terminating.unwrap_or(false)
                {
                    ending.insert(found);
                }
            }
        }
    }
    let chosen = if ready.is_empty() { ending } else { ready };
    chosen.into_iter().collect()
}

/// The kernel's rules for all services.
pub(crate) fn rules(services: &Services, node: &str) -> Vec<ServiceRule> {
    let mut rules = Vec::new();
    for (key, service) in &services.services {
        let Some(spec) = &service.spec else { continue };
        if spec.type_.as_deref() == Some("ExternalName") || is_headless(service) {
            continue;
        }
        let cluster_ips = addresses(service);
        let mut external_ips: Vec<Ipv4Addr> = spec
            .external_ips
            .iter()
            .flatten()
            .filter_map(|ip| ip.parse().ok())
            .collect();
        let ingress = service
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref())
            .and_then(|b| b.ingress.as_ref());
        for entry in ingress.into_iter().flatten() {
            external_ips.extend(entry.ip.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
        }
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let (Some(protocol), Some(number)) =
                (Protocol::parse(protocol), port_number(Some(port.port)))
            else {
                continue;
            };
            let label = port.name.clone().unwrap_or_else(|| number.to_string());
            rules.push(ServiceRule {
                name: format!("{}/{}:{label}", key.0, key.1),
                protocol,
                cluster_ips: cluster_ips.clone(),
                external_ips: external_ips.clone(),
                port: number,
                node_port: port_number(port.node_port),
                endpoints: endpoints(services, key, port, node),
                affinity: match spec.session_affinity.as_deref() {
                    Some("ClientIP") => Affinity::ClientIp,
                    _ => Affinity::None,
                },
                external_local: local(&spec.external_traffic_policy),
                internal_local: local(&spec.internal_traffic_policy),
            });
        }
    }
    rules
}

/// What the DNS server answers from.
pub(crate) fn snapshot(services: &Services, domain: &str) -> Snapshot {
    let mut records = Vec::new();
    for (key, service) in &services.services {
        let Some(spec) = &service.spec else { continue };
        let address = if spec.type_.as_deref() == Some("ExternalName") {
            ServiceAddress::ExternalName(spec.external_name.clone().unwrap_or_default())
        } else if is_headless(service) {
            ServiceAddress::Headless
        } else {
            ServiceAddress::Cluster(addresses(service))
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(PortRecord {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
                port: port_number(Some(port.port))?,
            })
        });
        let everything = spec.publish_not_ready_addresses.unwrap_or(false);
        records.push(ServiceRecord {
            namespace: key.0.clone(),
            name: key.1.clone(),
            ports: ports.collect(),
            endpoints: if address == ServiceAddress::Headless {
                headless(services, key, everything)
            } else {
                Vec::new()
            },
            address,
        });
    }
    Snapshot::new(domain, records)
}

fn headless(services: &Services, key: &Key, everything: bool) -> Vec<EndpointRecord> {
    let mut found = Vec::new();
    for slice in services.slices_of(key) {
        let ports: Vec<PortRecord> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(PortRecord {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
                    port: port_number(port.port)?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|c| c.ready)
                .unwrap_or(true);
            if !ready && !everything {
                continue;
            }
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok())
            {
                found.push(EndpointRecord {
                    address,
                    hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
                    ports: ports.clone(),
                });
            }
        }
    }
    found
}

/// `{SVCNAME}_SERVICE_HOST` and its companions: the services of a namespace, and the API's own.
pub(crate) fn environment(
    services: &Services,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let api = ("default".to_owned(), "kubernetes".to_owned());
    for (key, service) in &services.services {
        if *key != api && !(links && key.0 == namespace) {
            continue;
        }
        if is_headless(service) {
            continue;
        }
        let Some(address) = addresses(service).first().copied() else {
            continue;
        };
        let ports: Vec<&ServicePort> = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .collect();
        let Some(first) = ports.first() else { continue };
        let name = key.1.to_uppercase().replace('-', "_");
        found.insert(format!("{name}_SERVICE_HOST"), address.to_string());
        found.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for port in &ports {
            if let Some(label) = port.name.as_deref().filter(|label| !label.is_empty()) {
                let label = label.to_uppercase().replace('-', "_");
                found.insert(
                    format!("{name}_SERVICE_PORT_{label}"),
                    port.port.to_string(),
                );
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{address}:{}", protocol.to_lowercase(), port.port);
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            if index == 0 {
                found.insert(format!("{name}_PORT"), url.clone());
            }
            found.insert(prefix.clone(), url);
            found.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            found.insert(format!("{prefix}_PORT"), port.port.to_string());
            found.insert(format!("{prefix}_ADDR"), address.to_string());
        }
    }
    found
}

/// The port that a name or number in a probe or hook means.
pub(crate) fn target_port(
    port: &IntOrString,
    container: &k8s_openapi::api::core::v1::Container,
) -> Result<u16, String> {
    let refuse = |text: &str| {
        format!(
            "couldn't find port: {text:?} in container {}",
            container.name
        )
    };
    match port {
        IntOrString::Int(number) => {
            port_number(Some(*number)).ok_or_else(|| format!("invalid port number: {number}"))
        }
        IntOrString::String(text) => match text.parse::<u16>() {
            Ok(number) if number > 0 => Ok(number),
            _ => container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(text))
                .and_then(|p| port_number(Some(p.container_port)))
                .ok_or_else(|| refuse(text)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use trireme_client::Change;

    fn cluster() -> Services {
        let mut services = Services::default();
        services.take_service(Change::Upsert(json!({
            "metadata": {"namespace": "default", "name": "my-web"},
            "spec": {"clusterIP": "10.43.0.7", "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"}
            ]}
        })));
        services.take_slice(Change::Upsert(json!({
            "metadata": {"namespace": "default", "name": "my-web-1",
                         "labels": {"kubernetes.io/service-name": "my-web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.42.0.5"], "conditions": {"ready": true}, "nodeName": "n1"},
                {"addresses": ["10.42.1.6"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.42.1.7"], "conditions": {"ready": false}}
            ]
        })));
        services
    }

    #[test]
    fn rules_lead_to_ready_endpoints() {
        let mut services = cluster();
        let made = rules(&services, "n1");
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].node_port, Some(30080));
        let only = Endpoint {
            address: "10.42.0.5".parse().unwrap(),
            port: 8080,
            local: true,
        };
        assert_eq!(made[0].endpoints, [only]);
        assert_eq!(made[1].endpoints, []);
        // With no ready endpoint, those that end still serve.
        services.take_slice(Change::Upsert(json!({
            "metadata": {"namespace": "default", "name": "my-web-1",
                         "labels": {"kubernetes.io/service-name": "my-web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.42.1.6"], "conditions": {"ready": false, "serving": true, "terminating": true}}
            ]
        })));
        assert_eq!(rules(&services, "n1")[0].endpoints.len(), 1);
        services.take_slice(Change::Delete(
            json!({"metadata": {"namespace": "default", "name": "my-web-1"}}),
        ));
        assert_eq!(rules(&services, "n1")[0].endpoints, []);
    }

    #[test]
    fn services_become_variables() {
        let variables = environment(&cluster(), "default", true);
        let lines: Vec<String> = variables.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            lines,
            [
                "MY_WEB_PORT=tcp://10.43.0.7:80",
                "MY_WEB_PORT_53_UDP=udp://10.43.0.7:53",
                "MY_WEB_PORT_53_UDP_ADDR=10.43.0.7",
                "MY_WEB_PORT_53_UDP_PORT=53",
                "MY_WEB_PORT_53_UDP_PROTO=udp",
                "MY_WEB_PORT_80_TCP=tcp://10.43.0.7:80",
                "MY_WEB_PORT_80_TCP_ADDR=10.43.0.7",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_SERVICE_HOST=10.43.0.7",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_DNS=53",
                "MY_WEB_SERVICE_PORT_HTTP=80",
            ]
        );
        assert!(environment(&cluster(), "other", true).is_empty());
        assert!(environment(&cluster(), "default", false).is_empty());
    }

    #[test]
    fn named_ports_are_looked_up() {
        let container = serde_json::from_value(json!({
            "name": "a", "ports": [{"name": "http", "containerPort": 8080}]
        }))
        .unwrap();
        assert_eq!(target_port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(
            target_port(&IntOrString::String("http".into()), &container),
            Ok(8080)
        );
        assert!(target_port(&IntOrString::String("web".into()), &container).is_err());
    }
}
