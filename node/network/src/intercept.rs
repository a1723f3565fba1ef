//! Interception: a pod's TCP connections led through the proxy that runs beside it.
//!
//! The rules live in the pod's own network namespace and end with it. They are Istio's, as its
//! `istio-iptables` writes them for the mode REDIRECT, in nft's words: the proxy needs no capability
//! and learns where a connection was going by `SO_ORIGINAL_DST`.
//!
//! - Out of the pod: to 15001, unless the proxy itself (user or group 1337) is the sender.
//! - Into the pod: to 15006. The proxy passes on from 127.0.0.6, which is how its own connections to
//!   the application are told from those that are still to be intercepted.
//! - Over loopback: the application calling its own address is left alone, but what the proxy sends to
//!   the pod's own address goes to 15006, so that an application that calls itself through its service
//!   meets the same inbound policies as anybody else.
//! - The node's own probes, recognised by their source [`POD_GATEWAY`], are let through: they ask the
//!   application, not the proxy.

use std::fmt::Write;
use std::path::Path;

use crate::namespace::run_in;
use crate::pod::POD_GATEWAY;
use crate::service::nft;
use crate::{Cidr, CidrError, NetworkError};

/// The user and group that the proxy runs as.
pub const PROXY_USER: u32 = 1337;
/// Where the proxy takes connections that leave the pod.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy takes connections that enter the pod.
pub const INBOUND_PORT: u16 = 15006;
/// The source of the proxy's own connections to the application.
pub const PASS_THROUGH_SOURCE: &str = "127.0.0.6";
/// Ports of the proxy's own, never intercepted: merged statistics, health, metrics.
const OWN_PORTS: [u16; 3] = [15020, 15021, 15090];
/// Names are looked up without the proxy.
const DNS_PORT: u16 = 53;
/// The mark of the node's probe connections, which leave with [`POD_GATEWAY`] as their source.
pub const PROBE_MARK: u32 = 0x8000;

const TABLE: &str = "trireme_mesh";
const PREFIX: &str = "traffic.sidecar.istio.io/";

/// Which connections of a pod are intercepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interception {
    /// Destinations whose connections are intercepted; `None`: all.
    pub outbound_ranges: Option<Vec<Cidr>>,
    /// Destinations that are left alone, whatever the above says.
    pub excluded_outbound_ranges: Vec<Cidr>,
    /// Destination ports intercepted wherever they lead to (but for the excluded ones).
    pub outbound_ports: Vec<u16>,
    /// Destination ports that are left alone.
    pub excluded_outbound_ports: Vec<u16>,
    /// Ports of the pod that are intercepted; `None`: all.
    pub inbound_ports: Option<Vec<u16>>,
    /// Ports of the pod that are left alone, whatever the above says.
    pub excluded_inbound_ports: Vec<u16>,
}

/// An annotation that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?}: {cause}")]
pub struct AnnotationError {
    /// Its whole name.
    pub annotation: String,
    /// What it says.
    pub value: String,
    /// Why that cannot be.
    pub cause: String,
}

impl Interception {
    /// Reads Istio's annotations `traffic.sidecar.istio.io/*`; without any, everything is
    /// intercepted.
    ///
    /// # Errors
    /// Names the annotation that is not a list of ranges or ports.
    pub fn from_annotations<'a>(
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Interception, AnnotationError> {
        let of = |name: &str| get(&format!("{PREFIX}{name}"));
        let ranges = |name: &str| list(name, of(name).unwrap_or_default(), range);
        let ports = |name: &str| list(name, of(name).unwrap_or_default(), port);
        let outbound_ranges = match of("includeOutboundIPRanges") {
            None | Some("*") => None,
            Some(_) => Some(ranges("includeOutboundIPRanges")?),
        };
        let inbound_ports = match of("includeInboundPorts") {
            None | Some("*") => None,
            Some(_) => Some(ports("includeInboundPorts")?),
        };
        Ok(Interception {
            outbound_ranges,
            excluded_outbound_ranges: ranges("excludeOutboundIPRanges")?,
            outbound_ports: ports("includeOutboundPorts")?,
            excluded_outbound_ports: ports("excludeOutboundPorts")?,
            inbound_ports,
            excluded_inbound_ports: ports("excludeInboundPorts")?,
        })
    }

    /// Puts the rules into a pod's network namespace, in one transaction; rules that are there are
    /// replaced.
    ///
    /// # Errors
    /// The namespace cannot be entered, or nft refused.
    pub fn apply(&self, namespace: &Path) -> Result<(), NetworkError> {
        let script = self.script();
        run_in(namespace, || nft::apply("a pod's interception", &script))?
    }

    fn script(&self) -> String {
        let mut script = format!(
            "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\tchain inbound {{\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tmeta l4proto != tcp return\n\
             \t\tip saddr {POD_GATEWAY} return\n"
        );
        let mut rule = |line: String| {
            let _ = writeln!(script, "\t\t{line}");
        };
        rule(format!("tcp dport {} return", set(&OWN_PORTS)));
        if !self.excluded_inbound_ports.is_empty() {
            rule(format!(
                "tcp dport {} return",
                set(&self.excluded_inbound_ports)
            ));
        }
        match &self.inbound_ports {
            None => rule(format!("meta l4proto tcp redirect to :{INBOUND_PORT}")),
            Some(ports) if ports.is_empty() => {}
            Some(ports) => rule(format!(
                "tcp dport {} redirect to :{INBOUND_PORT}",
                set(ports)
            )),
        }
        script.push_str(
            "\t}\n\tchain outbound {\n\t\ttype nat hook output priority -100; policy accept;\n",
        );
        let mut rule = |line: String| {
            let _ = writeln!(script, "\t\t{line}");
        };
        rule("meta l4proto != tcp return".to_owned());
        rule(format!(
            "oifname \"lo\" ip saddr {PASS_THROUGH_SOURCE} return"
        ));
        for owner in ["skuid", "skgid"] {
            rule(format!(
                "oifname \"lo\" ip daddr != 127.0.0.1 meta {owner} {PROXY_USER} meta l4proto tcp redirect to :{INBOUND_PORT}"
            ));
        }
        rule("oifname \"lo\" return".to_owned());
        for owner in ["skuid", "skgid"] {
            rule(format!("meta {owner} {PROXY_USER} return"));
        }
        rule("ip daddr 127.0.0.0/8 return".to_owned());
        rule(format!("tcp dport {DNS_PORT} return"));
        if !self.excluded_outbound_ports.is_empty() {
            rule(format!(
                "tcp dport {} return",
                set(&self.excluded_outbound_ports)
            ));
        }
        // One rule a range: a set would refuse ranges that overlap.
        for range in &self.excluded_outbound_ranges {
            rule(format!("ip daddr {} return", range.subnet()));
        }
        if !self.outbound_ports.is_empty() {
            let ports = set(&self.outbound_ports);
            rule(format!("tcp dport {ports} redirect to :{OUTBOUND_PORT}"));
        }
        match &self.outbound_ranges {
            None => rule(format!("meta l4proto tcp redirect to :{OUTBOUND_PORT}")),
            Some(ranges) => {
                for range in ranges {
                    let range = range.subnet();
                    rule(format!(
                        "ip daddr {range} meta l4proto tcp redirect to :{OUTBOUND_PORT}"
                    ));
                }
            }
        }
        script.push_str("\t}\n}\n");
        script
    }
}

/// The items of a comma-separated list; an empty text has none.
fn list<T>(
    name: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, AnnotationError> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| {
            read(item).map_err(|cause| AnnotationError {
                annotation: format!("{PREFIX}{name}"),
                value: text.to_owned(),
                cause,
            })
        })
        .collect()
}

/// A range, or an address that stands for itself. `*` is every address.
fn range(text: &str) -> Result<Cidr, String> {
    let whole = match text {
        "*" => "0.0.0.0/0".to_owned(),
        _ if text.contains('/') => text.to_owned(),
        _ => format!("{text}/32"),
    };
    whole.parse().map_err(|error: CidrError| error.to_string())
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port (1 to 65535)")),
    }
}

/// Ports as an anonymous set, each once.
fn set(ports: &[u16]) -> String {
    let ports: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{{ {} }}", ports.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Interception, AnnotationError> {
        Interception::from_annotations(|name| {
            let found = pairs
                .iter()
                .find(|(key, _)| format!("{PREFIX}{key}") == name);
            found.map(|(_, value)| *value)
        })
    }

    #[test]
    fn annotations_are_lists_of_ranges_and_ports() {
        assert_eq!(read(&[]).unwrap(), Interception::default());
        let all = [
            ("includeOutboundIPRanges", "*"),
            ("includeInboundPorts", "*"),
        ];
        assert_eq!(read(&all).unwrap(), Interception::default());
        let some = read(&[
            ("includeOutboundIPRanges", "10.43.0.0/16, 10.1.2.3"),
            ("excludeOutboundIPRanges", "10.43.0.1/32"),
            ("includeInboundPorts", ""),
            ("excludeInboundPorts", "9090,9091"),
            ("excludeOutboundPorts", "5432"),
            ("includeOutboundPorts", "8443"),
        ])
        .unwrap();
        assert_eq!(some.outbound_ranges.map(|ranges| ranges.len()), Some(2));
        assert_eq!(some.inbound_ports, Some(Vec::new()));
        assert_eq!(some.excluded_inbound_ports, [9090, 9091]);
        for bad in [
            ("excludeOutboundIPRanges", "10.43.0.0/33"),
            ("excludeInboundPorts", "http"),
            ("excludeOutboundPorts", "0"),
        ] {
            let error = read(&[bad]).unwrap_err();
            assert_eq!(error.annotation, format!("{PREFIX}{}", bad.0));
        }
    }

    #[test]
    fn the_proxy_and_the_probes_are_exempt_before_anything_is_redirected() {
        let script = Interception::default().script();
        let (inbound, outbound) = script.split_once("chain outbound").unwrap();
        let redirect = inbound.find("redirect").unwrap();
        assert!(inbound.find("ip saddr 169.254.1.1 return").unwrap() < redirect);
        assert!(inbound.find("{ 15020, 15021, 15090 } return").unwrap() < redirect);
        let redirect = outbound.find("redirect to :15001").unwrap();
        assert!(outbound.find("\t\tmeta skuid 1337 return").unwrap() < redirect);
        assert!(
            outbound.find("ip saddr 127.0.0.6 return").unwrap()
                < outbound.find("redirect to :15006").unwrap()
        );
    }
}
