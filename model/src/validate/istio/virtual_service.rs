//! VirtualService: hosts, gateways, TLS and TCP routes. HTTP routes are in `http_route`.

use serde_json::Value;

use super::host::{self, Exporter};
use super::{Report, at, header, http_route, unreachable};
use crate::istio::{
    Destination, L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualServiceSpec,
};

/// All sidecars.
const MESH: &str = "mesh";

pub fn check(spec: &VirtualServiceSpec, namespace: &str, report: &mut Report) {
    let is_delegate = spec.hosts.is_empty();
    if is_delegate {
        for (field, given, what) in [
            ("gateways", spec.gateways.len(), "gateways"),
            ("tls", spec.tls.len(), "tls route"),
            ("tcp", spec.tcp.len(), "tcp route"),
        ] {
            if given > 0 {
                let detail = format!("delegate virtual service must have no {what} specified");
                report.forbidden(format!("spec.{field}"), detail);
            }
        }
    }
    host::gateways(&spec.gateways, "spec", report);
    let for_gateway = !spec.gateways.is_empty() && !spec.gateways.iter().any(|name| name == MESH);
    hosts(spec, for_gateway, report);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        report.required(
            "spec",
            "http, tcp or tls must be provided in virtual service",
        );
    }
    for (index, route) in spec.http.iter().enumerate() {
        let path = at("spec", "http", index);
        http_route::check(route, is_delegate, &path, report);
        if !for_gateway {
            claims(route, &path, &spec.gateways, report);
        }
    }
    for (index, route) in spec.tls.iter().enumerate() {
        let path = at("spec", "tls", index);
        for (index, matched) in route.r#match.iter().enumerate() {
            tls_match(matched, spec, &at(&path, "match", index), report);
        }
        if route.route.is_empty() {
            report.required(format!("{path}.route"), "TLS route is required");
        }
        destinations(&route.route, &path, report);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        let path = at("spec", "tcp", index);
        for (index, matched) in route.r#match.iter().enumerate() {
            tcp_match(matched, &at(&path, "match", index), report);
        }
        if route.route.is_empty() {
            report.required(format!("{path}.route"), "TCP route is required");
        }
        destinations(&route.route, &path, report);
    }
    host::export_to(namespace, &spec.export_to, Exporter::Other, report);
    unreachable::check(spec, report);
}

fn hosts(spec: &VirtualServiceSpec, for_gateway: bool, report: &mut Report) {
    let mut all_valid = true;
    for (index, name) in spec.hosts.iter().enumerate() {
        let path = at("spec", "hosts", index);
        let fault = match host::wildcard_domain(name) {
            Err(_) if host::is_address(name) => continue,
            Ok(()) if name == "*" && !for_gateway => {
                "wildcard host * is not allowed for virtual services bound to the mesh gateway"
                    .to_owned()
            }
            Ok(()) => continue,
            Err(fault) => fault,
        };
        all_valid = false;
        report.invalid(path, name.as_str(), fault);
    }
    if !all_valid {
        return;
    }
    for (index, one) in spec.hosts.iter().enumerate() {
        for other in &spec.hosts[index + 1..] {
            if host::overlap(one, other) {
                let detail = format!("duplicate hosts in virtual service: {one} & {other}");
                report.invalid(at("spec", "hosts", index), one.as_str(), detail);
            }
        }
    }
}

/// Claims of tokens are known only where requests enter the mesh.
fn claims(route: &crate::istio::HttpRoute, path: &str, gateways: &[String], report: &mut Report) {
    for (index, matched) in route.r#match.iter().enumerate() {
        for (field, headers) in [
            ("headers", &matched.headers),
            ("withoutHeaders", &matched.without_headers),
        ] {
            for key in headers.keys().filter(|key| header::is_claim(key)) {
                let detail = format!(
                    "JWT claim based routing (key: {key}) is only supported for gateway, found no gateways: [{}]",
                    gateways.join(" ")
                );
                report.forbidden(
                    format!("{}.{field}[{key}]", at(path, "match", index)),
                    detail,
                );
            }
        }
    }
}

fn tls_match(
    matched: &TlsMatchAttributes,
    spec: &VirtualServiceSpec,
    path: &str,
    report: &mut Report,
) {
    for (index, name) in matched.sni_hosts.iter().enumerate() {
        let path = at(path, "sniHosts", index);
        match host::wildcard_domain(name) {
            Err(_) if host::is_address(name) => {
                let detail = format!(
                    "using an IP address ({name:?}) goes against SNI spec and most clients do not support this"
                );
                report.warn(&path, detail);
            }
            Err(detail) => report.invalid(path, name.as_str(), detail),
            Ok(()) if spec.hosts.iter().any(|host| host::is_within(name, host)) => {}
            Ok(()) => {
                let detail = format!(
                    "SNI host {name:?} is not a compatible subset of any of the virtual service hosts: [{}]",
                    spec.hosts.join(", ")
                );
                report.invalid(path, name.as_str(), detail);
            }
        }
    }
    layer4(&matched.destination_subnets, matched.port, path, report);
    host::label_map(
        &matched.source_labels,
        &format!("{path}.sourceLabels"),
        report,
    );
    host::gateways(&matched.gateways, path, report);
}

fn tcp_match(matched: &L4MatchAttributes, path: &str, report: &mut Report) {
    layer4(&matched.destination_subnets, matched.port, path, report);
    if !matched.source_subnet.is_empty() {
        let source = matched.source_subnet.as_str();
        report.check(
            &format!("{path}.sourceSubnet"),
            source,
            host::subnet(source),
        );
    }
    host::label_map(
        &matched.source_labels,
        &format!("{path}.sourceLabels"),
        report,
    );
    host::gateways(&matched.gateways, path, report);
}

fn layer4(subnets: &[String], port: u32, path: &str, report: &mut Report) {
    for (index, subnet) in subnets.iter().enumerate() {
        let path = at(path, "destinationSubnets", index);
        report.check(&path, subnet.as_str(), host::subnet(subnet));
    }
    if port != 0 {
        report.check(&format!("{path}.port"), port, host::port(port.into()));
    }
}

fn destinations(route: &[RouteDestination], path: &str, report: &mut Report) {
    let weights = route.iter().map(|each| each.weight);
    weighted(weights, path, report);
    for (index, each) in route.iter().enumerate() {
        let path = format!("{}.destination", at(path, "route", index));
        destination(&each.destination, &path, report);
    }
}

/// Shares of a route's destinations.
pub fn weighted(
    weights: impl ExactSizeIterator<Item = i32> + Clone,
    path: &str,
    report: &mut Report,
) {
    for (index, weight) in weights.clone().enumerate() {
        if weight < 0 {
            let path = format!("{}.weight", at(path, "route", index));
            report.invalid(path, weight, format!("weight {weight} < 0"));
        }
    }
    let count = weights.len();
    let total: i64 = weights.map(i64::from).sum();
    if count > 1 && total == 0 {
        report.invalid(
            format!("{path}.route"),
            Value::Null,
            "total destination weight = 0",
        );
    }
    if total > i64::from(u32::MAX) {
        report.invalid(
            format!("{path}.route"),
            total,
            "total destination weight must not exceed 4294967295",
        );
    }
}

pub fn destination(destination: &Destination, path: &str, report: &mut Report) {
    let name = destination.host.as_str();
    let field = format!("{path}.host");
    if name == "*" {
        report.invalid(field, name, format!("invalid destination host {name}"));
    } else {
        report.check(&field, name, host::wildcard_domain(name));
    }
    if !destination.subset.is_empty() {
        let subset = destination.subset.as_str();
        report.check(&format!("{path}.subset"), subset, subset_name(subset));
    }
    if let Some(port) = &destination.port {
        let number = port.number;
        report.check(
            &format!("{path}.port.number"),
            number,
            host::port(number.into()),
        );
    }
}

pub fn subset_name(name: &str) -> host::Check {
    if name.is_empty() {
        return Err("subset name cannot be empty".to_owned());
    }
    if !host::is_dns_label(name) {
        return Err(format!("subset name is invalid: {name}"));
    }
    Ok(())
}
