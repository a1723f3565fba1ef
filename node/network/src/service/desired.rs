//! From services to map elements.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::table::{Chain, Draw, Lookup};
use super::{Affinity, Endpoint, Protocol, ServiceRule};

/// An element's key, in the map its variant names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Service(Ipv4Addr, Protocol, u16),
    Endpoint(Ipv4Addr, Protocol, u16, u32),
    NodePort(Protocol, u16),
    NodePortEndpoint(Protocol, u16, u32),
    Hairpin(Ipv4Addr),
}

impl Key {
    pub fn map(&self) -> &'static str {
        match self {
            Key::Service(..) => "services",
            Key::Endpoint(..) => "endpoints",
            Key::NodePort(..) => "node_ports",
            Key::NodePortEndpoint(..) => "node_port_endpoints",
            Key::Hairpin(..) => "hairpin",
        }
    }

    pub fn is_udp(&self) -> bool {
        matches!(
            self,
            Key::Service(_, Protocol::Udp, _)
                | Key::Endpoint(_, Protocol::Udp, ..)
                | Key::NodePort(Protocol::Udp, _)
                | Key::NodePortEndpoint(Protocol::Udp, ..)
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Goto(Chain),
    Endpoint(Ipv4Addr, u16),
    /// Of a set: being there is all.
    Member,
}

impl Value {
    pub fn chain(&self) -> Option<Chain> {
        match self {
            Value::Goto(chain) => Some(*chain),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Desired {
    pub elements: BTreeMap<Key, Value>,
    pub conflicts: Vec<String>,
}

impl Desired {
    /// Rules earlier in `rules` win where two claim one address and port.
    pub fn new(rules: &[ServiceRule]) -> Desired {
        let mut desired = Desired::default();
        for rule in rules {
            desired.add(rule);
        }
        desired
    }

    fn add(&mut self, rule: &ServiceRule) {
        let local: Vec<Endpoint> = rule
            .endpoints
            .iter()
            .copied()
            .filter(|endpoint| endpoint.local)
            .collect();
        let all = rule.endpoints.as_slice();
        let draw = match rule.affinity {
            Affinity::None => Draw::Random,
            Affinity::ClientIp => Draw::Sticky,
        };
        for address in &rule.cluster_ips {
            let chosen = if rule.internal_local { &local } else { all };
            // Nobody in the cluster is refused for where he is: no local
            // endpoint means the packet is dropped, as Kubernetes has it.
            let nobody = if rule.endpoints.is_empty() {
                Chain::Refuse
            } else {
                Chain::Discard
            };
            self.add_address(rule, *address, chosen, nobody, draw, false);
        }
        let chosen = if rule.external_local { &local } else { all };
        let nobody = if rule.endpoints.is_empty() {
            Chain::Refuse
        } else {
            Chain::Discard
        };
        for address in &rule.external_ips {
            self.add_address(rule, *address, chosen, nobody, draw, !rule.external_local);
        }
        if let Some(node_port) = rule.node_port {
            let key = Key::NodePort(rule.protocol, node_port);
            let chain = pick(
                Lookup::NodePort,
                draw,
                chosen.len(),
                !rule.external_local,
                nobody,
            );
            if self.claim(rule, key, chain) {
                for (slot, endpoint) in chosen.iter().enumerate() {
                    let key = Key::NodePortEndpoint(rule.protocol, node_port, slot as u32);
                    self.elements
                        .insert(key, Value::Endpoint(endpoint.address, endpoint.port));
                }
            }
        }
        for endpoint in &local {
            self.elements
                .insert(Key::Hairpin(endpoint.address), Value::Member);
        }
    }

    fn add_address(
        &mut self,
        rule: &ServiceRule,
        address: Ipv4Addr,
        chosen: &[Endpoint],
        nobody: Chain,
        draw: Draw,
        masquerade: bool,
    ) {
        let chain = pick(Lookup::Address, draw, chosen.len(), masquerade, nobody);
        if self.claim(rule, Key::Service(address, rule.protocol, rule.port), chain) {
            for (slot, endpoint) in chosen.iter().enumerate() {
                let key = Key::Endpoint(address, rule.protocol, rule.port, slot as u32);
                self.elements
                    .insert(key, Value::Endpoint(endpoint.address, endpoint.port));
            }
        }
    }

    fn claim(&mut self, rule: &ServiceRule, key: Key, chain: Chain) -> bool {
        if self.elements.contains_key(&key) {
            self.conflicts
                .push(format!("{}: {key:?} belongs to another service", rule.name));
            return false;
        }
        self.elements.insert(key, Value::Goto(chain));
        true
    }
}

fn pick(lookup: Lookup, draw: Draw, count: usize, masquerade: bool, nobody: Chain) -> Chain {
    match u32::try_from(count) {
        Ok(0) | Err(_) => nobody,
        Ok(count) => Chain::Pick {
            lookup,
            draw,
            masquerade,
            count,
        },
    }
}
