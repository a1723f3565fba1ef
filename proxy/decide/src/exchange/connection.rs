//! What an exchange is told of its surroundings.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use rand_core::RngCore;

use crate::config::HttpConnectionManager;
use crate::fault::ActiveFaults;
use crate::ratelimit::LimitState;
use crate::time::Nanos;
use crate::upstream::Live;

/// The HTTP of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Envoy's spelling.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// A client's connection: what its requests have in common.
#[derive(Debug)]
pub struct Connection {
    /// The connection manager of its filter chain.
    pub hcm: Arc<HttpConnectionManager>,
    /// The directly connected peer.
    pub remote: SocketAddr,
    /// The local end; of an intercepted connection the destination it wanted.
    pub local: SocketAddr,
    /// The destination before interception, for original destination clusters.
    pub original_destination: Option<SocketAddr>,
    /// Its HTTP.
    pub protocol: Protocol,
    /// Whether it is over TLS.
    pub tls: bool,
    /// Whether the client showed a certificate.
    pub peer_certificate: bool,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// The filter chain's name.
    pub filter_chain: Arc<str>,
    /// This machine's address, by which clients on it are known to others; none is the local end.
    pub node_address: Option<IpAddr>,
    /// A number of its own.
    pub id: u64,
    /// Local rate limits that count by connection.
    pub limits: Mutex<Vec<(usize, LimitState)>>,
}

impl Connection {
    /// A plain connection.
    #[must_use]
    pub fn new(
        hcm: Arc<HttpConnectionManager>,
        remote: SocketAddr,
        local: SocketAddr,
        protocol: Protocol,
    ) -> Connection {
        Connection {
            hcm,
            remote,
            local,
            original_destination: None,
            protocol,
            tls: false,
            peer_certificate: false,
            server_name: None,
            filter_chain: Arc::from(""),
            node_address: None,
            id: 0,
            limits: Mutex::new(Vec::new()),
        }
    }

    /// This machine's address.
    pub(super) fn own_address(&self) -> IpAddr {
        self.node_address.unwrap_or(self.local.ip())
    }
}

/// What is the case when an event happens.
pub struct Context<'a> {
    /// The configuration in force now; a retry sees a newer one than the request's beginning.
    pub live: &'a Live,
    /// The time.
    pub now: Nanos,
    /// The time of day, nanoseconds since 1970.
    pub unix_nanos: u64,
    /// Randomness.
    pub rng: &'a mut dyn RngCore,
    /// The cluster this proxy's workload belongs to (`--service-cluster`), for rate limits.
    pub service_cluster: &'a str,
    /// Faults under way in this proxy.
    pub faults: &'a Arc<ActiveFaults>,
}
