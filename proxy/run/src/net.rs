//! What the proxy asks of the network: listening, connecting, resolving. The real one is [`System`];
//! the simulator brings its own, so nothing beyond this trait may touch a socket.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

mod prefixed;
mod resolve;
mod system;

pub use prefixed::Prefixed;
pub use system::System;

/// A connection, whatever carries it.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// An erased connection. The dynamic call costs nothing beside the system call it makes.
pub type Stream = Box<dyn Io>;
/// A future of this worker.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// How to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections are addressed to others and were redirected here: find out to whom.
    pub original_destination: bool,
    /// Accept for addresses that are not ours (TPROXY).
    pub transparent: bool,
}

/// How to connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions {
    /// The source address to keep: with one that is not ours the socket is made transparent.
    pub source: Option<SocketAddr>,
}

/// A connection that arrived.
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// Where it was meant to go, when it was redirected.
    pub original: Option<SocketAddr>,
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long the answer holds, when the resolver says so.
    pub ttl: Option<Duration>,
}

/// A listening socket.
pub trait Listener {
    /// The address it listens on.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn local(&self) -> io::Result<SocketAddr>;
    /// The next connection. Cancelling loses none.
    fn accept(&self) -> Local<'_, io::Result<Accepted>>;
}

/// The network of one worker.
pub trait Net {
    /// Listens on an address.
    fn listen(
        &self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Local<'_, io::Result<Box<dyn Listener>>>;
    /// Connects to an address. The caller limits the time.
    fn connect(
        &self,
        address: SocketAddr,
        options: ConnectOptions,
    ) -> Local<'_, io::Result<Stream>>;
    /// Resolves a name.
    fn resolve<'a>(&'a self, name: &'a str) -> Local<'a, io::Result<Resolved>>;
}
