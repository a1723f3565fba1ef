//! Filter chains while a listener is put together.

use crate::proto::{cidr, core, listener as pb, uint};

use super::{PLAIN_HTTP, http_inspector, tls_inspector};

/// Which connections, and what is done with them.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    pub name: String,
    pub server_names: Vec<String>,
    pub destinations: Vec<String>,
    pub destination_port: Option<u32>,
    /// Only what the inspector takes for HTTP without TLS.
    pub plain_http: bool,
    pub filters: Vec<pb::Filter>,
    pub metadata: Option<core::Metadata>,
    pub transport_socket: Option<core::TransportSocket>,
}

impl Chain {
    pub fn is_match_all(&self) -> bool {
        (self.server_names.is_empty() || self.server_names.iter().any(|it| it == "*"))
            && self.destinations.is_empty()
            && self.destination_port.is_none()
            && !self.plain_http
    }

    /// Envoy refuses two chains with one match.
    pub fn conflicts(&self, other: &Chain) -> bool {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        self.plain_http == other.plain_http
            && self.destination_port == other.destination_port
            && sorted(&self.server_names) == sorted(&other.server_names)
            && sorted(&self.destinations) == sorted(&other.destinations)
    }

    pub fn build(self) -> pb::FilterChain {
        let all_names = self.server_names.iter().any(|it| it == "*");
        let has_match = !self.is_match_all();
        let matched = pb::FilterChainMatch {
            server_names: match all_names {
                true => Vec::new(),
                false => self.server_names,
            },
            prefix_ranges: self.destinations.iter().filter_map(|it| cidr(it)).collect(),
            destination_port: self.destination_port.and_then(uint),
            application_protocols: match self.plain_http {
                true => PLAIN_HTTP.map(str::to_owned).to_vec(),
                false => Vec::new(),
            },
            transport_protocol: match self.plain_http {
                true => "raw_buffer".to_owned(),
                false => String::new(),
            },
            ..pb::FilterChainMatch::default()
        };
        pb::FilterChain {
            filter_chain_match: has_match.then_some(matched),
            filters: self.filters,
            metadata: self.metadata,
            transport_socket: self.transport_socket,
            name: self.name,
            ..pb::FilterChain::default()
        }
    }
}

/// The inspectors that chains need to be told apart.
pub fn listener_filters(chains: &[Chain]) -> Vec<pb::ListenerFilter> {
    let mut filters = Vec::new();
    if chains.iter().any(|it| !it.server_names.is_empty()) {
        filters.push(tls_inspector());
    }
    if chains.iter().any(|it| it.plain_http) {
        filters.push(http_inspector());
    }
    filters
}
