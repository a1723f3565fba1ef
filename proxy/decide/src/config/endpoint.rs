//! Endpoints, compact: 10,000 of them in about 1 MB, so a proxy can know a whole cluster.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

/// Labels of an endpoint for subsets, transport sockets and telemetry, shared among endpoints of
/// the same workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// `envoy.lb` metadata: keys and values by which subsets are made, sorted by key.
    pub subset: Vec<(Arc<str>, Arc<str>)>,
    /// `envoy.transport_socket_match` metadata, sorted by key.
    pub transport: Vec<(Arc<str>, Arc<str>)>,
    /// `istio.workload` metadata: `name;namespace;canonical;revision;cluster`.
    pub workload: Option<Arc<str>>,
}

impl Labels {
    /// The value of a subset key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.subset
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| &**value)
    }

    /// Whether every one of `wanted` is among the subset labels.
    #[must_use]
    pub fn contain(&self, wanted: &[(Arc<str>, Arc<str>)]) -> bool {
        wanted
            .iter()
            .all(|(key, value)| self.get(key) == Some(value))
    }
}

/// What the control plane says about an endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Unknown counts as healthy.
    #[default]
    Healthy,
    /// Gets less traffic.
    Degraded,
    /// Gets none but in panic.
    Unhealthy,
    /// Is going away: gets no new requests but in panic.
    Draining,
    /// Timed out: as unhealthy.
    Timeout,
}

/// Where an endpoint is: an IPv4 address and port in six bytes, the rare others boxed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// IPv4.
    V4([u8; 4], u16),
    /// IPv6.
    V6(Box<([u8; 16], u16)>),
    /// A name to be resolved (DNS clusters), and a port.
    Name(Box<(Arc<str>, u16)>),
}

impl Address {
    /// The socket address; none for a name.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Address::V4(octets, port) => Some(SocketAddr::V4(SocketAddrV4::new(
                Ipv4Addr::from(*octets),
                *port,
            ))),
            Address::V6(inner) => Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(inner.0),
                inner.1,
                0,
                0,
            ))),
            Address::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        match address {
            SocketAddr::V4(v4) => Address::V4(v4.ip().octets(), v4.port()),
            SocketAddr::V6(v6) => Address::V6(Box::new((v6.ip().octets(), v6.port()))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.socket()) {
            (_, Some(socket)) => write!(out, "{socket}"),
            (Address::Name(inner), None) => write!(out, "{}:{}", inner.0, inner.1),
            (_, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its weight among its locality's; 1 where not said.
    pub weight: u32,
    /// What the control plane says about its health.
    pub health: EndpointHealth,
    /// Its name, for automatic host rewriting; none where it has none.
    pub hostname: Option<Arc<str>>,
    /// Its labels, shared.
    pub labels: Arc<Labels>,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 without labels.
    #[must_use]
    pub fn new(address: SocketAddr, labels: Arc<Labels>) -> Endpoint {
        Endpoint {
            address: Address::from(address),
            weight: 1,
            health: EndpointHealth::Healthy,
            hostname: None,
            labels,
        }
    }
}

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    /// The region.
    pub region: Arc<str>,
    /// The zone.
    pub zone: Arc<str>,
    /// The part of the zone.
    pub sub_zone: Arc<str>,
}

/// Endpoints of one place and priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityEndpoints {
    /// The place.
    pub locality: Locality,
    /// 0 is tried first.
    pub priority: u32,
    /// The place's weight; none takes no traffic where localities are weighted.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A cluster's endpoints (`ClusterLoadAssignment`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The name asked for.
    pub name: Arc<str>,
    /// The endpoints by place.
    pub localities: Vec<LocalityEndpoints>,
    /// How many hosts count for one, percent; Envoy's default is 140.
    pub overprovisioning_factor: u32,
    /// Whether healthy localities' weights are kept whatever their health.
    pub weighted_priority_health: bool,
    /// Shares of requests dropped before balancing, with their category.
    pub drop_overloads: Vec<(Arc<str>, super::Fraction)>,
}

impl Endpoints {
    /// No endpoints yet.
    #[must_use]
    pub fn new(name: &str) -> Endpoints {
        Endpoints {
            name: Arc::from(name),
            localities: Vec::new(),
            overprovisioning_factor: 140,
            weighted_priority_health: false,
            drop_overloads: Vec::new(),
        }
    }
}
