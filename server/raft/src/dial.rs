//! How connections between servers are made: passed in, so that a simulator can bring its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::member::Member;

/// A connection to or from another server.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> PeerStream for T {}

pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn PeerStream>>> + Send>>;

pub trait Dial: Send + Sync + 'static {
    /// Connects to the server's peer address. Runs in a task of its own, with a deadline.
    fn dial(&self, id: u64, member: &Member) -> Dialing;
}

/// TCP and mutual TLS.
pub struct TlsDial {
    connector: tokio_rustls::TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl TlsDial {
    /// The certificate of the other side must be valid, by `config`, for `server_name`; where that
    /// is `None`, for the host of its peer address.
    pub fn new(
        config: Arc<rustls::ClientConfig>,
        server_name: Option<ServerName<'static>>,
    ) -> Self {
        TlsDial {
            connector: config.into(),
            server_name,
        }
    }
}

impl Dial for TlsDial {
    fn dial(&self, _id: u64, member: &Member) -> Dialing {
        let connector = self.connector.clone();
        let address = member.peer_address.clone();
        let server_name = self.server_name.clone();
        Box::pin(async move {
            let name = match server_name {
                Some(name) => name,
                None => host(&address)?,
            };
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            let stream = connector.connect(name, tcp).await?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    }
}

fn host(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Plain TCP, for tests on loopback and for measuring what TLS costs.
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, _id: u64, member: &Member) -> Dialing {
        let address = member.peer_address.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            Ok(Box::new(tcp) as Box<dyn PeerStream>)
        })
    }
}

/// For a server that has no peers: every dial fails.
pub struct NoDial;

impl Dial for NoDial {
    fn dial(&self, id: u64, _member: &Member) -> Dialing {
        Box::pin(async move {
            let message = format!("this server was not told how to reach server {id}");
            Err(io::Error::new(io::ErrorKind::NotConnected, message))
        })
    }
}
