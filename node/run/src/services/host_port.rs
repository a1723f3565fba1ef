//! Ports of the node that lead to one of its pods (`hostPort`): elements of the service map.

use super::derive::port_number;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use trireme_network::{Affinity, Endpoint, Protocol, ServiceRule};

/// Rules by the pod's uid.
pub(crate) type HostPorts = BTreeMap<String, Vec<ServiceRule>>;

/// The rules of one pod at `pod_ip`; none under hostNetwork, where the ports are the node's anyway.
pub(crate) fn rules(pod: &Pod, pod_ip: &str, node_ip: Ipv4Addr) -> Vec<ServiceRule> {
    let (Some(spec), Ok(address)) = (&pod.spec, pod_ip.parse()) else {
        return Vec::new();
    };
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let title = |port: u16| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let metadata = &pod.metadata;
        format!(
            "pod {}/{}:{port}",
            text(&metadata.namespace),
            text(&metadata.name)
        )
    };
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let rule = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let host_port = port_number(port.host_port)?;
        let only: Option<Ipv4Addr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        Some(ServiceRule {
            name: title(host_port),
            protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
            cluster_ips: Vec::new(),
            external_ips: vec![only.filter(|ip| !ip.is_unspecified()).unwrap_or(node_ip)],
            port: host_port,
            node_port: None,
            endpoints: vec![Endpoint {
                address,
                port: port_number(Some(port.container_port))?,
                local: true,
            }],
            affinity: Affinity::None,
            // Only this node's own pod: clients keep their address.
            external_local: true,
            internal_local: false,
        })
    };
    ports.filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_host_port_leads_to_its_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"containers": [{"name": "a", "ports": [
                {"containerPort": 8080, "hostPort": 80},
                {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "10.0.0.9"},
                {"containerPort": 9090}
            ]}]}
        }))
        .unwrap();
        let node = Ipv4Addr::new(10, 0, 0, 1);
        let made = rules(&pod, "10.42.0.5", node);
        assert_eq!(made.len(), 2);
        assert_eq!((made[0].external_ips[0], made[0].port), (node, 80));
        assert_eq!(made[0].endpoints[0].port, 8080);
        assert_eq!(made[1].external_ips, [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(made[1].protocol, Protocol::Udp);
        let mut own = pod.clone();
        own.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(rules(&own, "10.0.0.1", node), []);
    }
}
