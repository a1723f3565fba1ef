//! ServiceEntry and WorkloadEntry: names, ports, and endpoints as the resolution allows them.

use std::collections::BTreeSet;

use super::host::{self, Exporter, Protocol};
use super::{Report, at};
use crate::istio::{Resolution, ServiceEntrySpec, WorkloadEntrySpec};

pub fn check(spec: &ServiceEntrySpec, namespace: &str, report: &mut Report) {
    if let Some(selector) = &spec.workload_selector {
        host::selector(&selector.labels, "spec.workloadSelector.labels", report);
        if selector.labels.is_empty() {
            report.warn(
                "spec.workloadSelector",
                "service entry: workload selector specified without labels, will be applied to all services in namespace",
            );
        }
        if !spec.endpoints.is_empty() {
            let detail = "only one of WorkloadSelector or Endpoints is allowed in Service Entry";
            report.forbidden("spec.endpoints", detail);
        }
    }
    hosts(spec, report);
    addresses(spec, report);
    let ports = ports(spec, report);
    match spec.resolution {
        Resolution::None => no_resolution(spec, report),
        Resolution::Static => {
            for (index, each) in spec.endpoints.iter().enumerate() {
                let path = at("spec", "endpoints", index);
                endpoint(each, &path, Some(&ports), false, report);
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => by_dns(spec, &ports, report),
        Resolution::DynamicDns => dynamic(spec, report),
    }
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 {
        let told_apart =
            |name: &str| matches!(Protocol::parse(name), Some(Protocol::Http | Protocol::Tls));
        if let Some(index) = spec
            .ports
            .iter()
            .position(|port| !told_apart(&port.protocol))
        {
            let path = format!("{}.protocol", at("spec", "ports", index));
            let given = spec.ports[index].protocol.as_str();
            report.invalid(
                path,
                given,
                "multiple hosts provided with non-HTTP, non-TLS ports",
            );
        }
    }
    host::export_to(namespace, &spec.export_to, Exporter::ServiceEntry, report);
}

/// As Istio's messages name it.
fn name_of(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::None => "NONE",
        Resolution::Static => "STATIC",
        Resolution::Dns => "DNS",
        Resolution::DnsRoundRobin => "DNS_ROUND_ROBIN",
        Resolution::DynamicDns => "DYNAMIC_DNS",
    }
}

fn hosts(spec: &ServiceEntrySpec, report: &mut Report) {
    for (index, name) in spec.hosts.iter().enumerate() {
        let path = at("spec", "hosts", index);
        if name == "*" {
            report.invalid(path, name.as_str(), format!("invalid host {name}"));
            continue;
        }
        report.check(&path, name.as_str(), host::wildcard_domain(name));
        if spec.resolution != Resolution::DynamicDns {
            host::warn_partial_wildcard(&path, name, report);
        }
    }
}

fn addresses(spec: &ServiceEntrySpec, report: &mut Report) {
    for (index, address) in spec.addresses.iter().enumerate() {
        let path = at("spec", "addresses", index);
        report.check(&path, address.as_str(), host::subnet(address));
        if address.contains('/')
            && !matches!(spec.resolution, Resolution::None | Resolution::Static)
        {
            let detail = "CIDR addresses are allowed only for NONE/STATIC resolution types";
            report.invalid(path, address.as_str(), detail);
        }
    }
}

/// Names of the ports.
fn ports(spec: &ServiceEntrySpec, report: &mut Report) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = at("spec", "ports", index);
        let (name, number) = (port.name.as_str(), port.number);
        if !names.insert(name.to_owned()) {
            let detail = format!("service entry port name {name:?} already defined");
            report.invalid(format!("{path}.name"), name, detail);
        }
        if !numbers.insert(number) {
            let detail = format!("service entry port {number} already defined");
            report.invalid(format!("{path}.number"), number, detail);
        }
        report.check(&format!("{path}.name"), name, host::port_name(name));
        let fault = host::port(number.into());
        report.check(&format!("{path}.number"), number, fault);
        let protocol = port.protocol.as_str();
        report.check(
            &format!("{path}.protocol"),
            protocol,
            host::protocol(protocol),
        );
        if port.target_port != 0 {
            let fault = host::port(port.target_port.into());
            report.check(&format!("{path}.targetPort"), port.target_port, fault);
        }
        if spec.addresses.is_empty() && matches!(protocol, "" | "TCP") {
            report.warn(
                &path,
                "addresses are required for ports serving TCP (or unset) protocol when IP Autoallocation is not enabled",
            );
        }
    }
    names
}

fn no_resolution(spec: &ServiceEntrySpec, report: &mut Report) {
    if !spec.endpoints.is_empty() {
        let detail = "no endpoints should be provided for resolution type none";
        report.forbidden("spec.endpoints", detail);
    }
    if spec.workload_selector.is_some() {
        let detail = "workloadSelector should not be set when resolution mode is NONE";
        report.warn("spec.workloadSelector", detail);
    }
}

fn by_dns(spec: &ServiceEntrySpec, ports: &BTreeSet<String>, report: &mut Report) {
    let resolution = name_of(spec.resolution);
    if spec.endpoints.is_empty() {
        for (index, name) in spec.hosts.iter().enumerate() {
            if let Err(fault) = host::domain(name) {
                let detail = format!(
                    "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution mode {resolution}, {fault}"
                );
                report.invalid(at("spec", "hosts", index), name.as_str(), detail);
                break;
            }
        }
    }
    if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        let detail = format!("there must only be 0 or 1 endpoint for resolution mode {resolution}");
        report.forbidden("spec.endpoints", detail);
    }
    for (index, each) in spec.endpoints.iter().enumerate() {
        let path = at("spec", "endpoints", index);
        let address = each.address.as_str();
        if !host::is_address(address) && host::domain(address).is_err() {
            let detail =
                format!("endpoint address {address:?} is not a valid FQDN or an IP address");
            report.invalid(format!("{path}.address"), address, detail);
        }
        host::label_map(&each.labels, &format!("{path}.labels"), report);
        endpoint_ports(each, &path, Some(ports), report);
    }
    let by_address =
        |name: &str| matches!(Protocol::parse(name), Some(Protocol::Tcp | Protocol::Tls));
    if !spec.addresses.is_empty()
        && spec.hosts.len() > 1
        && spec.ports.iter().any(|port| by_address(&port.protocol))
    {
        report.warn(
            "spec.hosts",
            "service entry can not have more than one host specified simultaneously with address and tcp port",
        );
    }
}

fn dynamic(spec: &ServiceEntrySpec, report: &mut Report) {
    let resolution = name_of(spec.resolution);
    for (index, name) in spec.hosts.iter().enumerate() {
        if !name.starts_with('*') {
            let detail = format!("host must be wildcarded for resolution mode {resolution}");
            report.invalid(at("spec", "hosts", index), name.as_str(), detail);
        }
    }
    if !spec.addresses.is_empty() {
        let detail = format!("addresses cannot be set for resolution type {resolution}");
        report.forbidden("spec.addresses", detail);
    }
    if !spec.endpoints.is_empty() {
        let detail = format!("endpoints cannot be set for resolution type {resolution}");
        report.forbidden("spec.endpoints", detail);
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let known = ["http", "tls", "grpc", "http2"];
        if !known.contains(&port.protocol.to_ascii_lowercase().as_str()) {
            let detail = format!(
                "only HTTP, TLS, GRPC, and HTTP2 protocols are supported for resolution type {resolution}"
            );
            let path = format!("{}.protocol", at("spec", "ports", index));
            report.invalid(path, port.protocol.as_str(), detail);
        }
    }
}

/// One endpoint. `ports` are the names of its service's ports, where that is known.
pub fn endpoint(
    endpoint: &WorkloadEntrySpec,
    path: &str,
    ports: Option<&BTreeSet<String>>,
    allows_names: bool,
    report: &mut Report,
) {
    let address = endpoint.address.as_str();
    let field = format!("{path}.address");
    if address.is_empty() {
        if endpoint.network.is_empty() {
            return report.required(field, "address is required");
        }
        let detail = format!("address is unset with network {:?}", endpoint.network);
        report.warn(&field, detail);
    } else if let Some(file) = address.strip_prefix("unix://") {
        report.check(&field, address, host::unix_path(file));
        if !endpoint.ports.is_empty() {
            let detail = format!("unix endpoint {address} must not include ports");
            report.forbidden(format!("{path}.ports"), detail);
        }
        if ports.is_some_and(|ports| ports.len() != 1) {
            let detail = "exactly 1 service port required for unix endpoints";
            report.forbidden(field, detail);
        }
    } else if !host::is_address(address) {
        if !allows_names {
            let detail = format!("endpoint address {address:?} is not a valid IP address");
            report.invalid(field, address, detail);
        } else if host::domain(address).is_err() {
            let detail =
                format!("endpoint address {address:?} is not a valid FQDN or an IP address");
            report.invalid(field, address, detail);
        }
    }
    endpoint_ports(endpoint, path, ports, report);
    host::label_map(&endpoint.labels, &format!("{path}.labels"), report);
}

fn endpoint_ports(
    endpoint: &WorkloadEntrySpec,
    path: &str,
    ports: Option<&BTreeSet<String>>,
    report: &mut Report,
) {
    for (name, port) in &endpoint.ports {
        let path = format!("{path}.ports[{name}]");
        if ports.is_some_and(|ports| !ports.contains(name)) {
            let detail = format!("endpoint port {port} is not defined by the service entry");
            report.invalid(&path, *port, detail);
        }
        report.check(&path, name.as_str(), host::port_name(name));
        report.check(&path, *port, host::port((*port).into()));
    }
}
