//! Looks at a connection's first bytes, when a choice depends on them, and only then: a protocol in which the server
//! speaks first must not wait for bytes that never come.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use trireme_proxy_decide::config::Listener;

use crate::client_hello::{self, ClientHello, Peeked};
use crate::detect::{self, Detected};
use crate::h1::Transport;

/// Envoy's default for listener filters.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The connection is TLS.
    pub tls: bool,
    /// The server name.
    pub server_name: Option<String>,
    /// The protocols that TLS offers, or the one detected.
    pub protocols: Vec<String>,
}

/// What has to be looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// TLS.
    pub tls: bool,
    /// HTTP in the clear.
    pub http: bool,
}

/// What has to be looked for on a connection to this destination: what the listener inspects, as far as the chains
/// that are left differ by it.
#[must_use]
pub fn wanted(listener: &Listener, destination: SocketAddr) -> Wanted {
    let filters = &listener.listener_filters;
    let mut wanted = Wanted {
        tls: filters.tls_inspector && !filters.tls_inspector_disabled.contains(destination.port()),
        http: filters.http_inspector
            && !filters.http_inspector_disabled.contains(destination.port()),
    };
    if !wanted.tls && !wanted.http {
        return wanted;
    }
    let exact = listener
        .filter_chains
        .iter()
        .any(|chain| chain.matches.destination_port == Some(destination.port()));
    let mut left =
        listener
            .filter_chains
            .iter()
            .filter(|chain| match chain.matches.destination_port {
                Some(port) => port == destination.port(),
                None => !exact,
            });
    let (mut tls, mut http) = (false, false);
    for chain in &mut left {
        let matches = &chain.matches;
        let by_protocol = !matches.application_protocols.is_empty();
        tls |= by_protocol
            || !matches.server_names.is_empty()
            || !matches.transport_protocol.is_empty();
        http |= by_protocol;
    }
    wanted.tls &= tls;
    wanted.http &= http;
    wanted
}

/// What the bytes say so far; none asks for more.
fn judge(bytes: &[u8], wanted: Wanted) -> Option<Found> {
    if wanted.tls {
        match detect::is_tls(bytes) {
            Detected::Undecided => return None,
            Detected::Tls => {
                return match client_hello::peek(bytes) {
                    Peeked::Incomplete => None,
                    Peeked::NotTls => Some(Found::default()),
                    Peeked::Hello(ClientHello {
                        server_name,
                        protocols,
                    }) => Some(Found {
                        tls: true,
                        server_name,
                        protocols,
                    }),
                };
            }
            _ => {}
        }
    }
    if wanted.http {
        let protocol = match detect::http(bytes) {
            Detected::Undecided => return None,
            Detected::Http1 => {
                let line = bytes
                    .split(|byte| *byte == b'\n')
                    .next()
                    .unwrap_or_default();
                if line.strip_suffix(b"\r").unwrap_or(line).ends_with(b"1.0") {
                    "http/1.0"
                } else {
                    "http/1.1"
                }
            }
            Detected::Http2 => "h2c",
            _ => return Some(Found::default()),
        };
        return Some(Found {
            protocols: vec![protocol.into()],
            ..Found::default()
        });
    }
    Some(Found::default())
}

/// Reads until the bytes say what was asked, or no more come.
///
/// # Errors
/// When the connection fails, ends without a byte, or is silent for longer than the listener allows.
pub async fn inspect(
    transport: &mut Transport,
    listener: &Listener,
    wanted: Wanted,
) -> io::Result<Found> {
    if !wanted.tls && !wanted.http {
        return Ok(Found::default());
    }
    let reading = async {
        loop {
            if let Some(found) = judge(&transport.input, wanted) {
                return Ok(found);
            }
            if fill(transport).await? == 0 {
                if transport.input.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(Found::default());
            }
        }
    };
    let filters = &listener.listener_filters;
    let timeout = filters.timeout.unwrap_or(TIMEOUT);
    if timeout.is_zero() {
        return reading.await;
    }
    match tokio::time::timeout(timeout, reading).await {
        Ok(found) => found,
        Err(_) if filters.continue_on_timeout => Ok(Found::default()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn fill(transport: &mut Transport) -> io::Result<usize> {
    std::future::poll_fn(|context| transport.poll_fill(context)).await
}

/// Whether the client starts HTTP/2 with prior knowledge. Reads no more than it takes to tell.
///
/// # Errors
/// The connection's.
pub async fn is_http2(transport: &mut Transport) -> io::Result<bool> {
    loop {
        let there = transport.input.len().min(detect::PREFACE.len());
        if transport.input[..there] != detect::PREFACE[..there] {
            return Ok(false);
        }
        if there == detect::PREFACE.len() {
            return Ok(true);
        }
        if fill(transport).await? == 0 {
            return Ok(false);
        }
    }
}
