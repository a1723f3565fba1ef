//! Listeners and their filter chains.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::http::HttpConnectionManager;
use super::origin::Origin;
use super::policy::HashPolicy;
use super::route::WeightedCluster;
use super::tls::DownstreamTls;

/// Which way traffic of a listener flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// Envoy's listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens, or what original destinations it takes where `bind_to_port` is false;
    /// an unspecified address takes every destination of that port.
    pub address: SocketAddr,
    /// More such addresses.
    pub additional_addresses: Vec<SocketAddr>,
    /// Whether it has a socket of its own.
    pub bind_to_port: bool,
    /// Whether connections are handed to the listener of their original destination.
    pub use_original_dst: bool,
    /// Whether the socket is transparent (TPROXY).
    pub transparent: bool,
    /// Which way traffic flows.
    pub direction: TrafficDirection,
    /// What is looked at before a chain is chosen.
    pub listener_filters: ListenerFilters,
    /// Filter chains.
    pub filter_chains: Vec<FilterChain>,
    /// The chain where none matches; none closes the connection.
    pub default_filter_chain: Option<FilterChain>,
    /// Soft limit of buffers, bytes; Envoy's default is 1 MiB.
    pub buffer_limit_bytes: u32,
    /// Connections at a time; none is unlimited.
    pub connection_limit: Option<u64>,
    /// Access logs of connections without a chain.
    pub access_logs: Vec<AccessLog>,
    /// The object that caused it.
    pub origin: Option<Origin>,
}

/// What is looked at before a chain is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerFilters {
    /// The destination before interception.
    pub original_dst: bool,
    /// SNI and ALPN of a TLS hello.
    pub tls_inspector: bool,
    /// Whether the first bytes are HTTP.
    pub http_inspector: bool,
    /// The PROXY protocol's header.
    pub proxy_protocol: bool,
    /// How long to wait for the first bytes; zero is for ever, Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// Whether the connection goes on when they did not come.
    pub continue_on_timeout: bool,
    /// Ports whose connections are not inspected (server-first protocols), sorted.
    /// Empty inspects all.
    pub tls_inspector_disabled: PortRanges,
    /// The same of the HTTP inspector.
    pub http_inspector_disabled: PortRanges,
}

/// At most a few port ranges `[start, end)`: enough for Envoy's filter-disabling predicates that
/// the control plane makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRanges {
    ranges: [(u16, u16); PORT_RANGES_MAX],
    count: u8,
}

/// Ports a listener may exempt from inspection; a pod with more server-first ports than this has
/// the rest inspected with a timeout.
const PORT_RANGES_MAX: usize = 16;

impl PortRanges {
    /// Adds `[start, end)`; false where there is no room left.
    pub fn add(&mut self, start: u16, end: u16) -> bool {
        let Some(slot) = self.ranges.get_mut(usize::from(self.count)) else {
            return false;
        };
        *slot = (start, end);
        self.count += 1;
        true
    }

    /// Whether `port` is in one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.ranges[..usize::from(self.count)]
            .iter()
            .any(|(start, end)| (*start..*end).contains(&port))
    }
}

/// A network prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits that count.
    pub bits: u8,
}

impl Cidr {
    /// Whether `address` is within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                shift == 32 || (network.to_bits() ^ address.to_bits()) >> shift == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                shift == 128 || (network.to_bits() ^ address.to_bits()) >> shift == 0
            }
            _ => false,
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// This machine.
    SameIpOrLoopback,
    /// Another.
    External,
}

/// Which connections a chain takes. Envoy narrows in the order of these fields, each time to
/// the most specific.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterChainMatch {
    /// The destination's port.
    pub destination_port: Option<u16>,
    /// The destination's address; empty is any.
    pub prefix_ranges: Vec<Cidr>,
    /// SNI: exact or `*.suffix`; empty is any.
    pub server_names: Vec<Arc<str>>,
    /// `tls`, `raw_buffer`; empty is any.
    pub transport_protocol: Arc<str>,
    /// ALPN or detected protocols (`http/1.1`, `h2c`, `istio-…`); empty is any.
    pub application_protocols: Vec<Arc<str>>,
    /// The directly connected peer's address; empty is any.
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// Where it comes from.
    pub source_type: SourceType,
    /// The source's address; empty is any.
    pub source_prefix_ranges: Vec<Cidr>,
    /// The source's port; empty is any.
    pub source_ports: Vec<u16>,
}

/// A filter chain.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// Its name.
    pub name: Arc<str>,
    /// Which connections.
    pub matches: FilterChainMatch,
    /// TLS towards the client.
    pub tls: Option<Arc<DownstreamTls>>,
    /// How long the TLS handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// What happens to them.
    pub filter: Filter,
    /// The object that caused it.
    pub origin: Option<Origin>,
}

/// What a filter chain does.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
    /// Closes the connection at once (a chain without filters).
    Close,
}

/// Envoy's TCP proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    /// The name in statistics.
    pub stat_prefix: Arc<str>,
    /// The cluster; used where `weighted` is empty.
    pub cluster: Arc<str>,
    /// Clusters by weight.
    pub weighted: Vec<WeightedCluster>,
    /// Subset labels that hosts must have, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Arc<str>)>,
    /// Silence in both directions; Envoy's default is 1 h, zero is unlimited.
    pub idle_timeout: Duration,
    /// The longest a connection lasts.
    pub max_connection_duration: Option<Duration>,
    /// How often connecting is tried; Envoy's default is 1.
    pub max_connect_attempts: u32,
    /// What is hashed (the source address).
    pub hash_policy: Vec<HashPolicy>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
}
