//! Loopback addresses, so that no two cases and no two runs meet.

use std::net::{Ipv4Addr, SocketAddr};

/// Where the proxies listen for a case.
const LISTENER_PORT: u16 = 8000;
/// The first of the scripted servers.
const HOST_PORT: u16 = 9001;
/// Nothing listens here.
const DEAD_PORT: u16 = 9900;

/// The addresses of one case for one proxy. The servers are the same for both proxies, as what a hash
/// picks depends on addresses.
#[derive(Clone, Debug)]
pub struct Place {
    /// Begins the names of all its resources.
    pub name: String,
    /// `envoy` or `trireme`.
    pub side: &'static str,
    pub listener: SocketAddr,
    pub hosts: Vec<SocketAddr>,
    pub dead: SocketAddr,
    /// What the proxy writes its access log to.
    pub access_log: String,
}

/// An octet of its own for each run: 127/8 is all this machine's.
fn network() -> u8 {
    let pid = std::process::id() % 120;
    64 + u8::try_from(pid).unwrap_or(0)
}

fn address(block: u8, number: usize, port: u16) -> SocketAddr {
    let (high, low) = (number / 250, number % 250);
    let octet = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    // The last octet is never 0 or 255.
    let ip = Ipv4Addr::new(127, network(), block + octet(high), octet(low) + 1);
    SocketAddr::from((ip, port))
}

/// The address of a service of the run itself, such as a proxy's admin page.
pub fn service(number: usize, port: u16) -> SocketAddr {
    address(0, number, port)
}

impl Place {
    pub fn new(
        name: &str,
        number: usize,
        hosts: usize,
        side: &'static str,
        access_log: String,
    ) -> Place {
        let block = if side == "envoy" { 10 } else { 20 };
        let ports = (HOST_PORT..).take(hosts);
        Place {
            name: name.to_owned(),
            side,
            listener: address(block, number, LISTENER_PORT),
            hosts: ports.map(|port| address(30, number, port)).collect(),
            dead: address(30, number, DEAD_PORT),
            access_log,
        }
    }

    /// The full name of one of the case's clusters.
    pub fn cluster(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }
}
