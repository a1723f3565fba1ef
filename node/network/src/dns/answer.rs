//! From a question to what is known about it; no network here.

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::snapshot::{
    EndpointRecord, PortRecord, ServiceAddress, ServiceRecord, Snapshot, dashed,
};
use crate::service::Protocol;

/// How long answers may be kept: services change.
const TTL_SECONDS: u32 = 5;

/// ExternalName services may name one another.
const MAX_ALIASES: usize = 8;

/// The specification's version, which `dns-version.<domain>` tells.
const SPECIFICATION: &str = "1.1.0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Ours to answer.
    Known(Reply),
    /// An ExternalName outside: the aliases so far, and the name to resolve.
    Alias { aliases: Vec<Record>, target: Name },
    /// Somebody else's name.
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    /// For an answer without records: how long that may be believed.
    pub authority: Option<Record>,
}

/// What was found at a name.
enum Found<'a> {
    Nothing,
    /// The name exists, with records of no or another type.
    Empty,
    Addresses(Vec<Ipv4Addr>),
    Service(&'a ServiceRecord),
    Ports {
        service: &'a ServiceRecord,
        port: &'a str,
        protocol: Protocol,
    },
    Version,
}

/// `turn` rotates the addresses of headless services, so that clients which
/// take the first one spread over all.
pub(super) fn resolve(
    snapshot: &Snapshot,
    name: &Name,
    kind: RecordType,
    turn: usize,
) -> Resolution {
    let mut aliases: Vec<Record> = Vec::new();
    let mut name = name.clone();
    loop {
        let labels = labels(&name);
        if let Some(address) = reverse_address(&labels) {
            return match snapshot.name_of(address) {
                Some(below) => known(snapshot, aliases, pointer(snapshot, &name, kind, below)),
                None if aliases.is_empty() => Resolution::Elsewhere,
                None => Resolution::Alias {
                    aliases,
                    target: name,
                },
            };
        }
        let Some(below) = below_domain(snapshot, &labels) else {
            return if aliases.is_empty() {
                Resolution::Elsewhere
            } else {
                Resolution::Alias {
                    aliases,
                    target: name,
                }
            };
        };
        let found = find(snapshot, below);
        if let Found::Service(ServiceRecord {
            address: ServiceAddress::ExternalName(target),
            ..
        }) = &found
        {
            let mut target_name = match Name::from_ascii(target) {
                Ok(target) if aliases.len() < MAX_ALIASES => target,
                _ => {
                    return known(
                        snapshot,
                        aliases,
                        (ResponseCode::ServFail, Vec::new(), Vec::new()),
                    );
                }
            };
            target_name.set_fqdn(true);
            aliases.push(record(&name, RData::CNAME(CNAME(target_name.clone()))));
            if kind == RecordType::CNAME {
                return known(
                    snapshot,
                    aliases,
                    (ResponseCode::NoError, Vec::new(), Vec::new()),
                );
            }
            name = target_name;
            continue;
        }
        let records = records(snapshot, &name, kind, found, turn);
        return known(snapshot, aliases, records);
    }
}

fn known(
    snapshot: &Snapshot,
    mut answers: Vec<Record>,
    (code, records, additionals): (ResponseCode, Vec<Record>, Vec<Record>),
) -> Resolution {
    let authority = records
        .is_empty()
        .then(|| authority(snapshot))
        .flatten()
        .filter(|_| {
            code != ResponseCode::ServFail && (answers.is_empty() || code == ResponseCode::NXDomain)
        });
    answers.extend(records);
    Resolution::Known(Reply {
        code,
        answers,
        additionals,
        authority,
    })
}

fn find<'a>(snapshot: &'a Snapshot, below: &'a [String]) -> Found<'a> {
    let words: Vec<&str> = below.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["svc"] | ["pod"] => Found::Empty,
        ["dns-version"] => Found::Version,
        [namespace, "svc" | "pod"] if snapshot.has_namespace(namespace) => Found::Empty,
        [address, _, "pod"] => match undashed(address) {
            Some(address) => Found::Addresses(vec![address]),
            None => Found::Nothing,
        },
        [name, namespace, "svc"] => snapshot
            .service(namespace, name)
            .map_or(Found::Nothing, Found::Service),
        [port, protocol, name, namespace, "svc"]
            if port.starts_with('_') && protocol.starts_with('_') =>
        {
            let protocol = match *protocol {
                "_tcp" => Protocol::Tcp,
                "_udp" => Protocol::Udp,
                "_sctp" => Protocol::Sctp,
                _ => return Found::Nothing,
            };
            let Some(service) = snapshot.service(namespace, name) else {
                return Found::Nothing;
            };
            let port = &port[1..];
            let of_endpoints = service
                .endpoints
                .iter()
                .flat_map(|endpoint| &endpoint.ports);
            if service
                .ports
                .iter()
                .chain(of_endpoints)
                .any(|known| named(known, port, protocol))
            {
                Found::Ports {
                    service,
                    port,
                    protocol,
                }
            } else {
                Found::Nothing
            }
        }
        [host, name, namespace, "svc"] => {
            let Some(service) = snapshot.service(namespace, name) else {
                return Found::Nothing;
            };
            // `_tcp.service`: a node on the way to the port's name.
            if matches!(*host, "_tcp" | "_udp" | "_sctp") {
                return Found::Empty;
            }
            if service.address != ServiceAddress::Headless {
                return Found::Nothing;
            }
            let addresses: Vec<Ipv4Addr> = service
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.label() == *host || dashed(endpoint.address) == *host)
                .map(|endpoint| endpoint.address)
                .collect();
            if addresses.is_empty() {
                Found::Nothing
            } else {
                Found::Addresses(addresses)
            }
        }
        _ => Found::Nothing,
    }
}

fn named(port: &PortRecord, name: &str, protocol: Protocol) -> bool {
    !port.name.is_empty() && port.name.eq_ignore_ascii_case(name) && port.protocol == protocol
}

fn records(
    snapshot: &Snapshot,
    name: &Name,
    kind: RecordType,
    found: Found<'_>,
    turn: usize,
) -> (ResponseCode, Vec<Record>, Vec<Record>) {
    let wants = |of: RecordType| kind == of || kind == RecordType::ANY;
    let mut answers = Vec::new();
    let mut additionals = Vec::new();
    match found {
        Found::Nothing => return (ResponseCode::NXDomain, answers, additionals),
        Found::Empty => {
            if below_domain(snapshot, &labels(name)).is_some_and(<[String]>::is_empty)
                && wants(RecordType::SOA)
            {
                answers.extend(authority(snapshot));
            }
        }
        Found::Version => {
            if wants(RecordType::TXT) {
                answers.push(record(
                    name,
                    RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()])),
                ));
            }
        }
        Found::Addresses(addresses) => {
            if wants(RecordType::A) {
                answers.extend(
                    addresses
                        .into_iter()
                        .map(|address| record(name, RData::A(A(address)))),
                );
            }
        }
        Found::Service(service) => {
            // A headless service without a ready endpoint has no name, as
            // CoreDNS has it: resolvers then go on searching.
            if service.address == ServiceAddress::Headless && service.endpoints.is_empty() {
                return (ResponseCode::NXDomain, answers, additionals);
            }
            if wants(RecordType::A) {
                let mut addresses: Vec<Ipv4Addr> = match &service.address {
                    ServiceAddress::Cluster(addresses) => addresses.clone(),
                    _ => service
                        .endpoints
                        .iter()
                        .map(|endpoint| endpoint.address)
                        .collect(),
                };
                addresses.sort_unstable();
                addresses.dedup();
                let count = addresses.len().max(1);
                addresses.rotate_left(turn % count);
                answers.extend(
                    addresses
                        .into_iter()
                        .map(|address| record(name, RData::A(A(address)))),
                );
            }
            if kind == RecordType::SRV {
                service_ports(
                    snapshot,
                    name,
                    service,
                    |_| true,
                    &mut answers,
                    &mut additionals,
                );
            }
        }
        Found::Ports {
            service,
            port,
            protocol,
        } => {
            if wants(RecordType::SRV) {
                let wanted = |known: &PortRecord| named(known, port, protocol);
                service_ports(
                    snapshot,
                    name,
                    service,
                    wanted,
                    &mut answers,
                    &mut additionals,
                );
            }
        }
    }
    (ResponseCode::NoError, answers, additionals)
}

fn service_ports(
    snapshot: &Snapshot,
    name: &Name,
    service: &ServiceRecord,
    wanted: impl Fn(&PortRecord) -> bool,
    answers: &mut Vec<Record>,
    additionals: &mut Vec<Record>,
) {
    let below = [service.name.as_str(), service.namespace.as_str(), "svc"];
    let mut add =
        |target: Option<Name>, ports: &[PortRecord], addresses: &[Ipv4Addr], weight: u16| {
            let Some(target) = target else { return };
            let before = answers.len();
            for port in ports.iter().filter(|port| wanted(port)) {
                answers.push(record(
                    name,
                    RData::SRV(SRV::new(0, weight, port.port, target.clone())),
                ));
            }
            if answers.len() > before {
                additionals.extend(
                    addresses
                        .iter()
                        .map(|address| record(&target, RData::A(A(*address)))),
                );
            }
        };
    match &service.address {
        ServiceAddress::Cluster(addresses) => {
            add(
                name_below(snapshot, below.iter().copied()),
                &service.ports,
                addresses,
                100,
            );
        }
        ServiceAddress::Headless => {
            let weight = (100 / service.endpoints.len().max(1)).max(1) as u16;
            for endpoint in &service.endpoints {
                let label = endpoint.label();
                let target = name_below(snapshot, std::iter::once(label.as_str()).chain(below));
                add(
                    target,
                    endpoint_ports(service, endpoint),
                    &[endpoint.address],
                    weight,
                );
            }
        }
        ServiceAddress::ExternalName(_) => {}
    }
}

fn endpoint_ports<'a>(
    service: &'a ServiceRecord,
    endpoint: &'a EndpointRecord,
) -> &'a [PortRecord] {
    if endpoint.ports.is_empty() {
        &service.ports
    } else {
        &endpoint.ports
    }
}

fn pointer(
    snapshot: &Snapshot,
    name: &Name,
    kind: RecordType,
    below: &[String],
) -> (ResponseCode, Vec<Record>, Vec<Record>) {
    let mut answers = Vec::new();
    if (kind == RecordType::PTR || kind == RecordType::ANY)
        && let Some(target) = name_below(snapshot, below.iter().map(String::as_str))
    {
        answers.push(record(name, RData::PTR(PTR(target))));
    }
    (ResponseCode::NoError, answers, Vec::new())
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

fn name_below<'a>(snapshot: &'a Snapshot, labels: impl Iterator<Item = &'a str>) -> Option<Name> {
    let mut name = Name::root();
    for label in labels.chain(snapshot.domain().iter().map(String::as_str)) {
        name = name.append_label(label.as_bytes()).ok()?;
    }
    name.set_fqdn(true);
    Some(name)
}

fn authority(snapshot: &Snapshot) -> Option<Record> {
    let domain = name_below(snapshot, std::iter::empty())?;
    let server = name_below(snapshot, ["ns", "dns"].into_iter())?;
    let owner = name_below(snapshot, std::iter::once("hostmaster"))?;
    // The serial says nothing: nobody transfers this zone.
    let start = SOA::new(server, owner, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(domain, TTL_SECONDS, RData::SOA(start)))
}

fn labels(name: &Name) -> Vec<String> {
    name.iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect()
}

fn below_domain<'a>(snapshot: &Snapshot, labels: &'a [String]) -> Option<&'a [String]> {
    let domain = snapshot.domain();
    if domain.is_empty() {
        None
    } else {
        labels.strip_suffix(domain)
    }
}

fn undashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

fn reverse_address(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, in_addr, arpa] = labels else {
        return None;
    };
    if in_addr != "in-addr" || arpa != "arpa" {
        return None;
    }
    format!("{a}.{b}.{c}.{d}").parse().ok()
}

#[cfg(test)]
mod tests;
