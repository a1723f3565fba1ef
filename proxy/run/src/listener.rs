//! Listeners: sockets are kept as long as some listener of the snapshot wants their address, so that a changed listener
//! loses no connection; connections keep the listener they began with until it has drained.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio_util::sync::CancellationToken;
use trireme_proxy_decide::config::{Filter, FilterChain, Listener, Snapshot};

use crate::chain;
use crate::drain::Drain;
use crate::h1::Transport;
use crate::inspect;
use crate::net::{Accepted, ListenOptions, Prefixed, Stream};
use crate::worker::Worker;
use crate::{http, tcp};

/// How long connections of a listener that changed or went away may finish (Istio gives Envoy 45 s).
pub const DRAIN_TIME: Duration = Duration::from_secs(45);
/// A pause after accept fails: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A pause before another attempt to listen.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// Envoy's default for TLS handshakes of clients.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// A listener in force, with the connections that it drains.
pub struct Served {
    /// Its configuration.
    pub listener: Arc<Listener>,
    /// For its connections.
    pub drain: Drain,
}

#[derive(Default)]
struct Tables {
    by_name: BTreeMap<Arc<str>, Rc<Served>>,
    /// By the address of the socket.
    bound: BTreeMap<SocketAddr, Rc<Served>>,
    /// By original destination.
    matching: BTreeMap<SocketAddr, Rc<Served>>,
    sockets: BTreeMap<SocketAddr, CancellationToken>,
}

/// A worker's listeners.
#[derive(Default)]
pub struct Listeners(RefCell<Tables>);

fn addresses(listener: &Listener) -> impl Iterator<Item = SocketAddr> + '_ {
    std::iter::once(listener.address).chain(listener.additional_addresses.iter().copied())
}

impl Listeners {
    /// Takes the listeners of a snapshot. Returns the sockets that are to be opened.
    fn swap(
        &self,
        snapshot: &Snapshot,
        drain: &Drain,
    ) -> Vec<(SocketAddr, ListenOptions, CancellationToken)> {
        let mut tables = self.0.borrow_mut();
        let mut next = Tables::default();
        let mut opening = Vec::new();
        for (name, listener) in snapshot.listeners.iter() {
            let served = match tables.by_name.remove(name) {
                Some(old)
                    if Arc::ptr_eq(&old.listener, listener) || *old.listener == **listener =>
                {
                    old
                }
                old => {
                    if let Some(old) = old {
                        retire(&old);
                    }
                    Rc::new(Served {
                        listener: listener.clone(),
                        drain: drain.child(),
                    })
                }
            };
            for address in addresses(listener) {
                if listener.bind_to_port {
                    let token = match tables.sockets.remove(&address) {
                        Some(open) => open,
                        None => {
                            let token = CancellationToken::new();
                            let options = ListenOptions {
                                original_destination: listener.use_original_dst
                                    || listener.listener_filters.original_dst,
                                transparent: listener.transparent,
                            };
                            opening.push((address, options, token.clone()));
                            token
                        }
                    };
                    next.sockets.insert(address, token);
                    next.bound.insert(address, served.clone());
                } else {
                    next.matching.insert(address, served.clone());
                }
            }
            next.by_name.insert(name.clone(), served);
        }
        for gone in tables.by_name.values() {
            retire(gone);
        }
        for socket in tables.sockets.values() {
            socket.cancel();
        }
        *tables = next;
        opening
    }

    fn at_socket(&self, address: SocketAddr) -> Option<Rc<Served>> {
        self.0.borrow().bound.get(&address).cloned()
    }

    /// The listener of an original destination: that address, or any address of that port.
    fn at_destination(&self, destination: SocketAddr) -> Option<Rc<Served>> {
        let tables = self.0.borrow();
        let any = match destination {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let any = SocketAddr::new(any, destination.port());
        tables
            .matching
            .get(&destination)
            .or_else(|| tables.matching.get(&any))
            .cloned()
    }

    /// Stops accepting.
    pub fn close(&self) {
        for socket in self.0.borrow().sockets.values() {
            socket.cancel();
        }
    }
}

fn retire(served: &Rc<Served>) {
    served.drain.ask();
    let drain = served.drain.clone();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(DRAIN_TIME).await;
        drain.close();
    });
}

/// Puts a snapshot's listeners in force. Completes when each socket listens or has failed once; those that failed are
/// tried again.
pub async fn apply(worker: &Rc<Worker>, snapshot: &Snapshot) {
    for (address, options, token) in worker.listeners.swap(snapshot, &worker.drain) {
        match worker.net.listen(address, options).await {
            Ok(listener) => {
                worker.listening(address, true);
                tokio::task::spawn_local(accept(worker.clone(), address, listener, token));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen");
                worker.listening(address, false);
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    while !token.is_cancelled() {
                        tokio::time::sleep(LISTEN_PAUSE).await;
                        if let Ok(listener) = worker.net.listen(address, options).await {
                            worker.listening(address, true);
                            return accept(worker, address, listener, token).await;
                        }
                    }
                });
            }
        }
    }
}

async fn accept(
    worker: Rc<Worker>,
    address: SocketAddr,
    listener: Box<dyn crate::net::Listener>,
    token: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let Some(served) = worker.listeners.at_socket(address) else {
                    continue;
                };
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    let _counted = worker.connections.count();
                    connection(&worker, served, accepted).await;
                });
            }
            Err(error) => {
                tracing::debug!(%address, %error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What is known of a client's connection.
pub struct Downstream {
    /// The listener it came by.
    pub served: Rc<Served>,
    /// The peer.
    pub peer: SocketAddr,
    /// Where it was meant to go.
    pub destination: SocketAddr,
    /// Whether it is TLS that ends here.
    pub tls: bool,
    /// The server name it asked for.
    pub server_name: Option<String>,
    /// The filter chain's name.
    pub chain: Arc<str>,
    /// A number of the connection.
    pub id: u64,
}

async fn connection(worker: &Rc<Worker>, bound: Rc<Served>, accepted: Accepted) {
    let destination = accepted.original.unwrap_or(accepted.local);
    let served = if bound.listener.use_original_dst {
        worker
            .listeners
            .at_destination(destination)
            .unwrap_or(bound)
    } else {
        bound
    };
    let mut transport = Transport::new(accepted.stream, BytesMut::new());
    let wanted = inspect::wanted(&served.listener, destination);
    let found = match inspect::inspect(&mut transport, &served.listener, wanted).await {
        Ok(found) => found,
        Err(error) => {
            tracing::trace!(peer = %accepted.peer, %error, "before the filter chain");
            return;
        }
    };
    let facts = chain::Connection {
        destination,
        source: accepted.peer,
        server_name: found.server_name.as_deref(),
        tls: found.tls,
        protocols: &found.protocols,
    };
    let Some(chosen) = chain::choose(&served.listener, &facts) else {
        worker.no_filter_chain(&served, accepted.peer, destination, &found);
        return;
    };
    let (mut transport, protocol) = match secure(worker, chosen, transport).await {
        Some(secured) => secured,
        None => return,
    };
    let downstream = Downstream {
        served: served.clone(),
        peer: accepted.peer,
        destination,
        tls: chosen.tls.is_some(),
        server_name: found.server_name,
        chain: chosen.name.clone(),
        id: worker.next_connection(),
    };
    match &chosen.filter {
        Filter::Http(manager) => {
            http::serve(worker, downstream, manager, transport, protocol).await
        }
        Filter::Tcp(proxy) => tcp::serve(worker, downstream, proxy, transport).await,
        Filter::Close => {
            let _ = std::future::poll_fn(|context| transport.poll_shutdown(context)).await;
        }
    }
}

/// Ends TLS, if the chain does. Returns the protocol that was agreed on.
async fn secure(
    worker: &Rc<Worker>,
    chain: &FilterChain,
    transport: Transport,
) -> Option<(Transport, Option<Vec<u8>>)> {
    let Some(tls) = &chain.tls else {
        return Some((transport, None));
    };
    let config = match worker.server_tls(tls) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(chain = %chain.name, %error, "TLS");
            return None;
        }
    };
    let (io, input, _) = transport.into_parts();
    let accepting = tokio_rustls::TlsAcceptor::from(config).accept(Prefixed::new(io, input));
    let timeout = chain.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT);
    match tokio::time::timeout(timeout, accepting).await {
        Ok(Ok(stream)) => {
            let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            Some((
                Transport::new(Box::new(stream) as Stream, BytesMut::new()),
                protocol,
            ))
        }
        Ok(Err(error)) => {
            tracing::debug!(chain = %chain.name, %error, "TLS handshake");
            None
        }
        Err(_) => None,
    }
}
