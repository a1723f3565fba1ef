//! Names, ports, labels and visibility, in Istio's words. Each check answers the first fault.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

use regex::Regex;

use super::Report;

const LABEL_MAX_BYTES: usize = 63;
const NAME_MAX_BYTES: usize = 255;

pub type Check = Result<(), String>;

fn matches(cell: &'static OnceLock<Option<Regex>>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| Regex::new(pattern).ok())
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(text))
}

/// A label of a DNS name; letters of either case, as in Istio.
pub fn is_dns_label(text: &str) -> bool {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    text.len() <= LABEL_MAX_BYTES
        && matches(
            &PATTERN,
            r"\A[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?\z",
            text,
        )
}

/// As [`is_dns_label`], or `*`, or one that starts with `*`.
fn is_wildcard_label(text: &str) -> bool {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    text.len() <= LABEL_MAX_BYTES
        && matches(
            &PATTERN,
            r"\A(?:\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)\z",
            text,
        )
}

fn length(name: &str) -> Check {
    if name.len() > NAME_MAX_BYTES {
        return Err(format!("domain name {name:?} too long (max 255)"));
    }
    if name.is_empty() {
        return Err("empty domain name not allowed".to_owned());
    }
    Ok(())
}

fn labels(domain: &str) -> Check {
    let parts: Vec<&str> = domain.split('.').collect();
    let last = parts.last().copied().unwrap_or("");
    if last.parse::<i64>().is_ok() {
        return Err(format!(
            "domain name {domain:?} invalid (top level domain {last:?} cannot be all-numeric)"
        ));
    }
    for (index, label) in parts.iter().enumerate() {
        // A name may end with the root's dot.
        if index + 1 == parts.len() && label.is_empty() {
            return Ok(());
        }
        if !is_dns_label(label) {
            return Err(format!(
                "domain name {domain:?} invalid (label {label:?} invalid)"
            ));
        }
    }
    Ok(())
}

pub fn domain(name: &str) -> Check {
    length(name)?;
    labels(name)
}

/// A DNS name whose first label may be or begin with a wildcard.
pub fn wildcard_domain(name: &str) -> Check {
    length(name)?;
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    if !is_wildcard_label(first) {
        return Err(format!(
            "domain name {name:?} invalid (label {first:?} invalid)"
        ));
    }
    rest.map_or(Ok(()), labels)
}

fn partial_wildcard(name: &str) -> Check {
    if name.contains('*') && name.len() != 1 && !name.starts_with("*.") {
        return Err(format!("partial wildcard {name:?} not allowed"));
    }
    Ok(())
}

/// A wildcard that is not a whole label is taken by ServiceEntries with a warning only.
pub fn warn_partial_wildcard(path: &str, name: &str, report: &mut Report) {
    if let Err(detail) = partial_wildcard(name) {
        report.warn(path, detail);
    }
}

pub fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

pub fn address(text: &str) -> Check {
    if is_address(text) {
        Ok(())
    } else {
        Err(format!("{text} is not a valid IP"))
    }
}

/// An address, or a block of them.
pub fn subnet(text: &str) -> Check {
    let Some((first, bits)) = text.split_once('/') else {
        return address(text);
    };
    let most = match first.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err(format!("{text} is not a valid CIDR block")),
    };
    match bits.parse::<u8>() {
        Ok(bits) if bits <= most => Ok(()),
        _ => Err(format!("{text} is not a valid CIDR block")),
    }
}

/// What follows `unix://`.
pub fn unix_path(path: &str) -> Check {
    if path.is_empty() {
        return Err("unix address must not be empty".to_owned());
    }
    if !path.starts_with('@') && (!path.starts_with('/') || path.ends_with('/')) {
        return Err(format!("{path} is not an absolute path to a file"));
    }
    Ok(())
}

pub fn port(number: i64) -> Check {
    if (1..=65535).contains(&number) {
        Ok(())
    } else {
        Err(format!(
            "port number {number} must be in the range 1..65535"
        ))
    }
}

pub fn port_name(name: &str) -> Check {
    if is_dns_label(name) {
        Ok(())
    } else {
        Err(format!("invalid port name: {name}"))
    }
}

/// `namespace/name` as Gateways and Sidecars list hosts.
pub fn host_entry(entry: &str, is_gateway: bool, path: &str, report: &mut Report) {
    let name = match entry.split_once('/') {
        None if is_gateway => entry,
        None => {
            return report.invalid(path, entry, "host must be of form namespace/dnsName");
        }
        Some((namespace, name)) => {
            if namespace.is_empty() || name.is_empty() {
                let detail = "config namespace and dnsName in host entry cannot be empty";
                return report.invalid(path, entry, detail);
            }
            let (own, noun) = if is_gateway {
                (namespace, "gateway")
            } else {
                (namespace.strip_prefix('~').unwrap_or(namespace), "sidecar")
            };
            let known = matches!(own, "*" | ".") || own.is_empty() && !is_gateway;
            if !known && !is_dns_label(own) {
                let detail = format!("invalid namespace value {namespace:?} in {noun}");
                report.invalid(path, entry, detail);
            }
            name
        }
    };
    if name != "*" && !name.contains('.') {
        report.invalid(path, entry, "short names (non FQDN) are not allowed");
    }
    if let Err(detail) = wildcard_domain(name)
        && !(is_gateway && is_address(name))
    {
        report.invalid(path, entry, detail);
    }
    report.check(path, entry, partial_wildcard(name));
}

/// References to Gateways: `namespace/name`, a name, or `mesh`.
pub fn gateways(names: &[String], path: &str, report: &mut Report) {
    for (index, gateway) in names.iter().enumerate() {
        let path = super::at(path, "gateways", index);
        let Some((namespace, name)) = gateway.split_once('/') else {
            if let [name, namespace, ..] = gateway.split('.').collect::<Vec<_>>()[..] {
                report.warn(
                    &path,
                    format!(
                        "using legacy gatewayName format {gateway:?}; prefer the <namespace>/<name> format: \"{namespace}/{name}\""
                    ),
                );
            }
            report.check(&path, gateway.as_str(), domain(gateway));
            continue;
        };
        if namespace.is_empty() || name.is_empty() {
            let detail = "config namespace and gateway name cannot be empty";
            report.invalid(path, gateway.as_str(), detail);
        } else if !is_dns_label(namespace) {
            let detail = format!("invalid value for namespace: {namespace:?}");
            report.invalid(path, gateway.as_str(), detail);
        } else if !is_dns_label(name) {
            let detail = format!("invalid value for gateway name: {name:?}");
            report.invalid(path, gateway.as_str(), detail);
        }
    }
}

pub fn label_map(labels: &BTreeMap<String, String>, path: &str, report: &mut Report) {
    for (key, value) in labels {
        let path = format!("{path}[{key}]");
        let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
        if name.len() > LABEL_MAX_BYTES {
            let detail = format!("invalid tag key: {key:?} (name is too long)");
            report.invalid(&path, value.as_str(), detail);
        } else if !crate::validate::name::qualified(key).is_empty() {
            report.invalid(&path, value.as_str(), format!("invalid tag key: {key:?}"));
        }
        if !crate::validate::name::label_value(value).is_empty() {
            report.invalid(
                &path,
                value.as_str(),
                format!("invalid tag value: {value:?}"),
            );
        }
    }
}

/// Selectors of Sidecars, ServiceEntries, EnvoyFilters and DestinationRules.
pub fn selector(labels: &BTreeMap<String, String>, path: &str, report: &mut Report) {
    for (key, value) in labels {
        let pair = format!("{key}={value}");
        let field = format!("{path}[{key}]");
        if key.is_empty() {
            let detail = format!("empty key is not supported in selector: {pair:?}");
            report.invalid(&field, value.as_str(), detail);
        }
        if key.contains('*') || value.contains('*') {
            let detail = format!("wildcard is not supported in selector: {pair:?}");
            report.invalid(&field, value.as_str(), detail);
        }
    }
}

/// Whose `exportTo` it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exporter {
    ServiceEntry,
    RuleWithSelector,
    Other,
}

pub fn export_to(namespace: &str, entries: &[String], exporter: Exporter, report: &mut Report) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = super::at("spec", "exportTo", index);
        let key = if entry == "." { namespace } else { entry };
        if !seen.insert(key) {
            let detail = if entry == "." {
                format!("duplicate entries in exportTo: . and current namespace {namespace}")
            } else {
                format!("duplicate entries in exportTo for entry {entry}")
            };
            report.invalid(path, entry.as_str(), detail);
            continue;
        }
        let fault = match key {
            "*" => continue,
            "~" if exporter == Exporter::ServiceEntry => continue,
            "~" => "exportTo ~ (none) is not allowed for Istio configuration objects",
            key if is_dns_label(key) => continue,
            _ => "only .,*, or a valid DNS 1123 label is allowed as exportTo entry",
        };
        report.invalid(path, entry.as_str(), fault);
    }
    if exporter == Exporter::RuleWithSelector && !seen.is_empty() {
        if !seen.contains(namespace) {
            let detail = "destination rule with workload selector cannot have exportTo beyond current namespace";
            report.forbidden("spec.exportTo", detail);
        } else if seen.len() > 1 {
            let detail =
                "destination rule with workload selector cannot have multiple entries in exportTo";
            report.forbidden("spec.exportTo", detail);
        }
    }
    if entries.len() > 1 && seen.contains("*") {
        let detail = "cannot have both public (*) and non-public exportTo values for a resource";
        report.forbidden("spec.exportTo", detail);
    }
    if entries.len() > 1 && seen.contains("~") {
        let detail = "cannot export service entry to no one (~) and someone";
        report.forbidden("spec.exportTo", detail);
    }
}

/// Whether two names, each possibly with a wildcard, have names in common.
pub fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (None, None) => one == other,
    }
}

/// Whether every name that `one` stands for is one that `other` stands for.
pub fn is_within(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other),
        (Some(_), None) => false,
        (None, Some(suffix)) => one.ends_with(suffix),
        (None, None) => one == other,
    }
}

/// What Istio's names of protocols come down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Tls,
    Tcp,
    Udp,
}

impl Protocol {
    /// `None` for names that Istio does not know.
    pub fn parse(text: &str) -> Option<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => Some(Protocol::Http),
            "https" | "tls" => Some(Protocol::Tls),
            "tcp" | "mongo" | "redis" | "mysql" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        }
    }
}

/// An empty name means that the protocol is detected.
pub fn protocol(name: &str) -> Check {
    if name.is_empty() || Protocol::parse(name).is_some() {
        Ok(())
    } else {
        Err(format!("unsupported protocol: {name}"))
    }
}
