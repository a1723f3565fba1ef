//! Service addresses: an nft table that replaces a service's address by one
//! of its endpoints', evenly, without a process in the path.
//!
//! Maps, so that a change costs as much as it changes:
//! - `services`: address, protocol, port → a chain that knows how many
//!   endpoints there are (`random_3`), or `refuse` where there are none;
//! - `endpoints`: address, protocol, port, number → endpoint; the chain draws
//!   the number;
//! - the same two for node ports, and `hairpin`, the pods that may reach
//!   themselves through a service.
//!
//! Chains are shared by all services with as many endpoints, and made well
//! ahead of need: nft 1.0 cannot read such maps back from the kernel, so a
//! chain that refers to one can only be made together with it.

mod desired;
mod element;
pub(crate) mod nft;
mod table;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::conntrack::{self, UdpFlow};
use crate::{Cidr, NetworkError};
use desired::{Desired, Key, Value};
use table::Chains;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From `TCP`, `UDP` or `SCTP`, as a Service's port says it.
    pub fn parse(text: &str) -> Option<Protocol> {
        match text {
            "TCP" | "" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// `sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    #[default]
    None,
    /// A client's address always meets the same endpoint while the endpoints
    /// stay the same (a hash of the address; no timeout is needed).
    ClientIp,
}

/// An endpoint that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
    /// Its pod runs on this node.
    pub local: bool,
}

/// One port of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRule {
    /// `namespace/name:port`, for messages.
    pub name: String,
    pub protocol: Protocol,
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs` and `status.loadBalancer.ingress[].ip`.
    pub external_ips: Vec<Ipv4Addr>,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<Endpoint>,
    pub affinity: Affinity,
    /// `externalTrafficPolicy: Local`: from outside only to this node's
    /// endpoints, keeping the client's address.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRulesConfig {
    /// Source of what this node sends on in its own name.
    pub node_ip: Ipv4Addr,
    /// This node's pods.
    pub pod_cidr: Cidr,
    /// All pods: reached with their own addresses.
    pub cluster_cidr: Cidr,
    /// All services: an address without a service is refused.
    pub service_cidr: Cidr,
}

/// What [`ServiceRules::sync`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    pub added: usize,
    pub removed: usize,
    /// The whole table was made anew, in one transaction.
    pub rebuilt: bool,
    /// UDP flows forgotten because their endpoint is gone.
    pub flushed_flows: usize,
    /// Flows may still go to endpoints that are gone, and why.
    pub flush_failed: Option<String>,
    /// Rules that claim an address and port which another has: they are left out.
    pub conflicts: Vec<String>,
}

/// More changed elements than this in one go are cheaper as a new table; and
/// a netlink transaction of about 90 bytes an element stays below 1 MiB.
const MAX_BATCH_ELEMENTS: usize = 8192;

/// The nft table of the current network namespace.
#[derive(Debug)]
pub struct ServiceRules {
    config: ServiceRulesConfig,
    /// What the kernel has; `None` before the first sync and after a failure.
    applied: Option<Applied>,
}

#[derive(Debug)]
struct Applied {
    elements: BTreeMap<Key, Value>,
    chains: Chains,
}

impl ServiceRules {
    /// Touches nothing yet: rules left by a previous agent serve until the
    /// first [`ServiceRules::sync`] replaces them in one transaction.
    pub fn new(config: ServiceRulesConfig) -> ServiceRules {
        ServiceRules {
            config,
            applied: None,
        }
    }

    /// Makes the kernel's rules be those of `rules`, in one transaction. On an
    /// error the kernel still has the previous rules, and the next call
    /// builds all of them.
    pub fn sync(&mut self, rules: &[ServiceRule]) -> Result<SyncReport, NetworkError> {
        let desired = Desired::new(rules);
        let mut report = SyncReport {
            conflicts: desired.conflicts,
            ..SyncReport::default()
        };
        let chains = Chains::for_all(desired.elements.values().filter_map(Value::chain));
        let Some(applied) = self.applied.take() else {
            return self.rebuild(desired.elements, chains, report);
        };
        let removed: Vec<&Key> = applied
            .elements
            .iter()
            .filter(|(key, value)| desired.elements.get(key) != Some(value))
            .map(|(key, _)| key)
            .collect();
        let added: Vec<(&Key, &Value)> = desired
            .elements
            .iter()
            .filter(|(key, value)| applied.elements.get(key) != Some(value))
            .collect();
        if removed.len() + added.len() > MAX_BATCH_ELEMENTS || !applied.chains.cover(&chains) {
            return self.rebuild(desired.elements, chains, report);
        }
        report.added = added.len();
        report.removed = removed.len();
        if (!removed.is_empty() || !added.is_empty())
            && let Err(error) = element::apply(&removed, &added)
        {
            // Somebody else changed the table, most likely.
            tracing::warn!(%error, "service rules are rebuilt: the kernel refused a change to them");
            return self.rebuild(desired.elements, chains, report);
        }
        let udp_changed = removed
            .iter()
            .copied()
            .chain(added.iter().map(|(key, _)| *key))
            .any(Key::is_udp);
        if udp_changed {
            self.forget_udp_flows(&desired.elements, &mut report);
        }
        self.applied = Some(Applied {
            elements: desired.elements,
            chains: applied.chains,
        });
        Ok(report)
    }

    fn rebuild(
        &mut self,
        elements: BTreeMap<Key, Value>,
        chains: Chains,
        mut report: SyncReport,
    ) -> Result<SyncReport, NetworkError> {
        nft::apply(
            "the service rules",
            &table::script(&self.config, &chains, &elements),
        )?;
        report.rebuilt = true;
        report.added = elements.len();
        report.removed = 0;
        if elements.keys().any(Key::is_udp) {
            self.forget_udp_flows(&elements, &mut report);
        }
        self.applied = Some(Applied { elements, chains });
        Ok(report)
    }

    /// UDP has no handshake: a client that goes on from the same port would
    /// be sent to its old endpoint for as long as it keeps sending.
    fn forget_udp_flows(&self, elements: &BTreeMap<Key, Value>, report: &mut SyncReport) {
        let stale = |flow: &UdpFlow| {
            let service = Key::Service(flow.destination, Protocol::Udp, flow.destination_port);
            let node_port = Key::NodePort(Protocol::Udp, flow.destination_port);
            let is_service = elements.contains_key(&service)
                || self.config.service_cidr.contains(flow.destination);
            let is_node_port = !is_service
                && flow.destination == self.config.node_ip
                && elements.contains_key(&node_port);
            if !is_service && !is_node_port {
                return false;
            }
            let answering = Value::Endpoint(flow.answering, flow.answering_port);
            let slots = if is_service {
                elements.range(
                    Key::Endpoint(flow.destination, Protocol::Udp, flow.destination_port, 0)
                        ..=Key::Endpoint(
                            flow.destination,
                            Protocol::Udp,
                            flow.destination_port,
                            u32::MAX,
                        ),
                )
            } else {
                elements.range(
                    Key::NodePortEndpoint(Protocol::Udp, flow.destination_port, 0)
                        ..=Key::NodePortEndpoint(Protocol::Udp, flow.destination_port, u32::MAX),
                )
            };
            slots
                .into_iter()
                .all(|(_, endpoint)| *endpoint != answering)
        };
        match conntrack::forget_udp(stale) {
            Ok(count) => report.flushed_flows = count,
            Err(error) => {
                tracing::warn!(%error, "UDP clients may keep talking to endpoints that are gone");
                report.flush_failed = Some(error.to_string());
            }
        }
    }

    /// Removes the table; established connections go on.
    pub fn clear() -> Result<(), NetworkError> {
        nft::apply("the removal of the service rules", table::REMOVE)
    }
}
