//! The proxies' network: turmoil's.

use std::io;
use std::net::SocketAddr;

use trireme_proxy::net::{
    Accepted, ConnectOptions, ListenOptions, Listener, Local, Net, Resolved, Stream,
};
use turmoil::net::{TcpListener, TcpStream};

pub struct SimulatedNet;

struct Bound(TcpListener);

impl Listener for Bound {
    fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> Local<'_, io::Result<Accepted>> {
        Box::pin(async {
            let (stream, peer) = self.0.accept().await?;
            let local = stream.local_addr()?;
            Ok(Accepted {
                stream: Box::new(stream),
                peer,
                local,
                original: None,
            })
        })
    }
}

impl Net for SimulatedNet {
    fn listen(
        &self,
        address: SocketAddr,
        _options: ListenOptions,
    ) -> Local<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(Bound(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        address: SocketAddr,
        _options: ConnectOptions,
    ) -> Local<'_, io::Result<Stream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn resolve<'a>(&'a self, name: &'a str) -> Local<'a, io::Result<Resolved>> {
        // No cluster of these worlds has names for hosts.
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::NotFound, name.to_owned())) })
    }
}
