//! Which filter chain takes a connection: Envoy's matching, which narrows criterion by criterion to the most specific
//! and never goes back.

use std::net::SocketAddr;

use trireme_proxy_decide::config::{Cidr, FilterChain, Listener, SourceType};

/// What is known of a connection before a chain is chosen.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// Where it was meant to go.
    pub destination: SocketAddr,
    /// Where it comes from.
    pub source: SocketAddr,
    /// The server name of a TLS client.
    pub server_name: Option<&'a str>,
    /// Whether it is TLS.
    pub tls: bool,
    /// What a TLS client offers, or what was detected.
    pub protocols: &'a [String],
}

/// Keeps the chains with the highest rank; those without are out.
fn narrow<R: Ord + Copy>(
    chains: Vec<&FilterChain>,
    rank: impl Fn(&FilterChain) -> Option<R>,
) -> Vec<&FilterChain> {
    let best = chains.iter().filter_map(|chain| rank(chain)).max();
    match best {
        Some(best) => chains
            .into_iter()
            .filter(|chain| rank(chain) == Some(best))
            .collect(),
        None => Vec::new(),
    }
}

/// Longest prefix first; any address last.
fn prefix(ranges: &[Cidr], address: std::net::IpAddr) -> Option<i32> {
    if ranges.is_empty() {
        return Some(-1);
    }
    ranges
        .iter()
        .filter(|range| range.contains(address))
        .map(|range| i32::from(range.bits))
        .max()
}

/// The exact name first, then the longest suffix, any last.
fn name(patterns: &[std::sync::Arc<str>], name: Option<&str>) -> Option<usize> {
    if patterns.is_empty() {
        return Some(0);
    }
    let name = name?;
    patterns
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            Some("") => Some(1),
            Some(suffix) => {
                (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len() + 1)
            }
            None => (**pattern == *name).then_some(usize::MAX),
        })
        .max()
}

/// The chain that takes the connection, the default one where none matches.
#[must_use]
pub fn choose<'a>(listener: &'a Listener, connection: &Connection<'_>) -> Option<&'a FilterChain> {
    let found: Vec<&FilterChain> = listener.filter_chains.iter().collect();
    let found = narrow(found, |chain| match chain.matches.destination_port {
        None => Some(0),
        Some(port) => (port == connection.destination.port()).then_some(1),
    });
    let found = narrow(found, |chain| {
        prefix(&chain.matches.prefix_ranges, connection.destination.ip())
    });
    let found = narrow(found, |chain| {
        name(&chain.matches.server_names, connection.server_name)
    });
    let transport = if connection.tls { "tls" } else { "raw_buffer" };
    let found = narrow(found, |chain| match &*chain.matches.transport_protocol {
        "" => Some(0),
        wanted => (wanted == transport).then_some(1),
    });
    let found = narrow(found, |chain| {
        let wanted = &chain.matches.application_protocols;
        if wanted.is_empty() {
            return Some(0);
        }
        // The client's first choice counts most.
        connection
            .protocols
            .iter()
            .position(|offered| wanted.iter().any(|wanted| **wanted == **offered))
            .map(|at| connection.protocols.len() - at)
    });
    let source = connection.source.ip();
    let found = narrow(found, |chain| {
        prefix(&chain.matches.direct_source_prefix_ranges, source)
    });
    let local = source.is_loopback() || source == connection.destination.ip();
    let found = narrow(found, |chain| match chain.matches.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => local.then_some(1),
        SourceType::External => (!local).then_some(1),
    });
    let found = narrow(found, |chain| {
        prefix(&chain.matches.source_prefix_ranges, source)
    });
    let found = narrow(found, |chain| {
        let ports = &chain.matches.source_ports;
        if ports.is_empty() {
            Some(0)
        } else {
            ports.contains(&connection.source.port()).then_some(1)
        }
    });
    found
        .first()
        .copied()
        .or(listener.default_filter_chain.as_ref())
}
