//! The table's text, for `nft -f`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::ServiceRulesConfig;
use super::desired::{Key, Value};
use crate::intercept::PROBE_MARK;
use crate::pod::POD_GATEWAY;

/// The table's name; its family is `ip`.
pub(super) const TABLE: &str = "trireme";

/// Declares the table so that deleting it succeeds where there is none.
pub(super) const REMOVE: &str = "table ip trireme\ndelete table ip trireme\n";

/// The bit of the packet mark that asks for this node's address as source,
/// so that the answer comes back the same way.
const MASQUERADE_MARK: &str = "0x4000";

/// Where a drawn number is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lookup {
    Address,
    NodePort,
}

/// How a number is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draw {
    Random,
    /// From the client's address; the same on every node.
    Sticky,
}

/// A chain that map elements lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chain {
    Refuse,
    Discard,
    Pick {
        lookup: Lookup,
        draw: Draw,
        masquerade: bool,
        count: u32,
    },
}

impl fmt::Display for Chain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Refuse => formatter.write_str("refuse"),
            Chain::Discard => formatter.write_str("discard"),
            Chain::Pick {
                lookup,
                draw,
                masquerade,
                count,
            } => {
                if *lookup == Lookup::NodePort {
                    formatter.write_str("node_port_")?;
                }
                if *masquerade {
                    formatter.write_str("masquerade_")?;
                }
                let draw = match draw {
                    Draw::Random => "random",
                    Draw::Sticky => "sticky",
                };
                write!(formatter, "{draw}_{count}")
            }
        }
    }
}

impl Chain {
    fn body(&self) -> String {
        match self {
            Chain::Refuse => "meta l4proto tcp reject with tcp reset\n\t\treject".to_owned(),
            Chain::Discard => "drop".to_owned(),
            Chain::Pick {
                lookup,
                draw,
                masquerade,
                count,
            } => {
                let mark = if *masquerade {
                    format!("meta mark set meta mark | {MASQUERADE_MARK} ")
                } else {
                    String::new()
                };
                let number = match draw {
                    Draw::Random => format!("numgen random mod {count}"),
                    // The seed is fixed: nft would draw one per chain.
                    Draw::Sticky => format!("jhash ip saddr mod {count} seed 0x54"),
                };
                let (key, map) = match lookup {
                    Lookup::Address => ("ip daddr . meta l4proto . th dport", "endpoints"),
                    Lookup::NodePort => ("meta l4proto . th dport", "node_port_endpoints"),
                };
                format!("{mark}dnat ip to {key} . {number} map @{map}")
            }
        }
    }
}

/// Up to how many endpoints there are chains, by what else tells chains apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chains {
    ceilings: BTreeMap<(Lookup, Draw, bool), u32>,
}

/// Chains made for a start: few services have more endpoints, and sixteen
/// chains of each kind take the kernel no measurable time.
const LEAST_CEILING: u32 = 16;

impl Chains {
    /// Chains for `needed` and for growth: a new table each time the number
    /// of a service's endpoints doubles.
    pub fn for_all(needed: impl IntoIterator<Item = Chain>) -> Chains {
        let mut ceilings = BTreeMap::new();
        for lookup in [Lookup::Address, Lookup::NodePort] {
            for draw in [Draw::Random, Draw::Sticky] {
                for masquerade in [false, true] {
                    ceilings.insert((lookup, draw, masquerade), LEAST_CEILING);
                }
            }
        }
        for chain in needed {
            if let Chain::Pick {
                lookup,
                draw,
                masquerade,
                count,
            } = chain
            {
                let ceiling = ceilings
                    .entry((lookup, draw, masquerade))
                    .or_insert(LEAST_CEILING);
                *ceiling = (*ceiling).max(count.checked_next_power_of_two().unwrap_or(count));
            }
        }
        Chains { ceilings }
    }

    /// Whether every chain of `other` is among these.
    pub fn cover(&self, other: &Chains) -> bool {
        other
            .ceilings
            .iter()
            .all(|(kind, ceiling)| self.ceilings.get(kind).is_some_and(|own| own >= ceiling))
    }

    fn iter(&self) -> impl Iterator<Item = Chain> {
        self.ceilings
            .iter()
            .flat_map(|((lookup, draw, masquerade), ceiling)| {
                (1..=*ceiling).map(|count| Chain::Pick {
                    lookup: *lookup,
                    draw: *draw,
                    masquerade: *masquerade,
                    count,
                })
            })
    }
}

/// The whole table in place of the one that is there.
pub(super) fn script(
    config: &ServiceRulesConfig,
    chains: &Chains,
    elements: &BTreeMap<Key, Value>,
) -> String {
    let ServiceRulesConfig {
        node_ip,
        pod_cidr,
        cluster_cidr,
        service_cidr,
    } = config;
    let (pod_cidr, cluster_cidr, service_cidr) = (
        pod_cidr.subnet(),
        cluster_cidr.subnet(),
        service_cidr.subnet(),
    );
    let mut script = format!("{REMOVE}table ip {TABLE} {{\n");
    for (name, kind, types) in [
        (
            "services",
            "map",
            "type ipv4_addr . inet_proto . inet_service : verdict",
        ),
        (
            "endpoints",
            "map",
            "typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport",
        ),
        (
            "node_ports",
            "map",
            "type inet_proto . inet_service : verdict",
        ),
        (
            "node_port_endpoints",
            "map",
            "typeof meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport",
        ),
        ("hairpin", "set", "type ipv4_addr . ipv4_addr"),
    ] {
        let _ = write!(script, "\t{kind} {name} {{\n\t\t{types}\n");
        let mut of_map = elements
            .iter()
            .filter(|(key, _)| key.map() == name)
            .peekable();
        if of_map.peek().is_some() {
            script.push_str("\t\telements = {");
            for (key, value) in of_map {
                let _ = write!(script, " {},", ElementText(key, value));
            }
            script.push_str(" }\n");
        }
        script.push_str("\t}\n");
    }
    write_chain(&mut script, &Chain::Refuse);
    write_chain(&mut script, &Chain::Discard);
    for chain in chains.iter() {
        write_chain(&mut script, &chain);
    }
    let _ = write!(
        script,
        "\tchain dispatch {{
\t\tip daddr . meta l4proto . th dport vmap @services
\t\tfib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @node_ports
\t}}
\tchain prerouting {{
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tjump dispatch
\t}}
\tchain output {{
\t\ttype nat hook output priority -100; policy accept;
\t\tjump dispatch
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority 100; policy accept;
\t\tmeta mark & {PROBE_MARK} == {PROBE_MARK} snat to {POD_GATEWAY}
\t\tmeta mark & {MASQUERADE_MARK} == {MASQUERADE_MARK} snat to {node_ip}
\t\tct status dnat ip saddr . ip daddr @hairpin snat to {node_ip}
\t\tip saddr {pod_cidr} ip daddr != {cluster_cidr} masquerade
\t}}
\tchain unknown_forward {{
\t\ttype filter hook forward priority 0; policy accept;
\t\tip daddr {service_cidr} goto refuse
\t}}
\tchain unknown_output {{
\t\ttype filter hook output priority 0; policy accept;
\t\tip daddr {service_cidr} goto refuse
\t}}
}}
"
    );
    script
}

fn write_chain(script: &mut String, chain: &Chain) {
    let _ = write!(script, "\tchain {chain} {{\n\t\t{}\n\t}}\n", chain.body());
}

struct ElementText<'a>(&'a Key, &'a Value);

impl fmt::Display for ElementText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Key::Service(address, protocol, port) => {
                write!(formatter, "{address} . {} . {port}", protocol.name())
            }
            Key::Endpoint(address, protocol, port, slot) => {
                write!(
                    formatter,
                    "{address} . {} . {port} . {slot}",
                    protocol.name()
                )
            }
            Key::NodePort(protocol, port) => write!(formatter, "{} . {port}", protocol.name()),
            Key::NodePortEndpoint(protocol, port, slot) => {
                write!(formatter, "{} . {port} . {slot}", protocol.name())
            }
            Key::Hairpin(address) => write!(formatter, "{address} . {address}"),
        }?;
        match self.1 {
            Value::Goto(chain) => write!(formatter, " : goto {chain}"),
            Value::Endpoint(address, port) => write!(formatter, " : {address} . {port}"),
            Value::Member => Ok(()),
        }
    }
}
