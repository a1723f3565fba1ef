//! The kernel's network.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{
    Accepted, ConnectOptions, ListenOptions, Listener, Local, Net, Resolved, Stream, resolve,
};

/// Connections that wait for a worker. The kernel caps it at net.core.somaxconn (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

/// The kernel's network: tokio's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

struct SystemListener {
    inner: TcpListener,
    original_destination: bool,
}

/// An IPv4 address that a dual-stack socket shows as IPv6.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(six) => match six.ip().to_ipv4_mapped() {
            Some(four) => SocketAddr::new(IpAddr::V4(four), six.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

fn bound(address: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let domain = if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Every worker listens by itself; the kernel spreads connections.
    socket.set_reuse_port(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    if options.transparent {
        let four = socket.set_ip_transparent_v4(true);
        let six = if address.is_ipv6() {
            socket.set_ip_transparent_v6(true)
        } else {
            Ok(())
        };
        if let Err(error) = four.and(six) {
            // Without the capability a redirected connection still tells its destination.
            tracing::debug!(%error, %address, "not transparent");
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<SystemListener> {
    // Redirected connections of both families arrive at one port.
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    let socket =
        if options.original_destination && address.is_ipv4() && address.ip().is_unspecified() {
            bound(both, options).or_else(|_| bound(address, options))?
        } else {
            bound(address, options)?
        };
    Ok(SystemListener {
        inner: TcpListener::from_std(socket.into())?,
        original_destination: options.original_destination,
    })
}

fn original_destination(stream: &TcpStream, local: SocketAddr) -> SocketAddr {
    let socket = SockRef::from(stream);
    let found = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    // A connection that TPROXY delivered has no translation: its local address is the destination.
    found
        .ok()
        .and_then(|address| address.as_socket())
        .map_or(local, unmapped)
}

impl Listener for SystemListener {
    fn local(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr().map(unmapped)
    }

    fn accept(&self) -> Local<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let (stream, peer) = self.inner.accept().await?;
            let _ = stream.set_nodelay(true);
            let local = unmapped(stream.local_addr()?);
            let original = self
                .original_destination
                .then(|| original_destination(&stream, local));
            Ok(Accepted {
                stream: Box::new(stream),
                peer: unmapped(peer),
                local,
                original,
            })
        })
    }
}

async fn connect(address: SocketAddr, options: ConnectOptions) -> io::Result<Stream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    if let Some(source) = options
        .source
        .filter(|source| source.is_ipv4() == address.is_ipv4())
    {
        let descriptor = socket.as_fd();
        let raw = SockRef::from(&descriptor);
        // An address that is not ours needs the capability; one that is (127.0.0.6) does not.
        let transparent = if source.is_ipv4() {
            raw.set_ip_transparent_v4(true)
        } else {
            raw.set_ip_transparent_v6(true)
        };
        if let Err(error) = socket.bind(source) {
            tracing::debug!(%error, ?transparent, %source, "cannot keep the source address");
        }
    }
    let stream = socket.connect(address).await?;
    Ok(Box::new(stream))
}

impl Net for System {
    fn listen(
        &self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Local<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            listen(address, options).map(|listener| Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        address: SocketAddr,
        options: ConnectOptions,
    ) -> Local<'_, io::Result<Stream>> {
        Box::pin(connect(address, options))
    }

    fn resolve<'a>(&'a self, name: &'a str) -> Local<'a, io::Result<Resolved>> {
        Box::pin(resolve::resolve(name))
    }
}
