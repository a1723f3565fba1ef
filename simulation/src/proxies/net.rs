//! A proxy's network: turmoil's, shared by its workers as the kernel shares a port among sockets.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use trireme_proxy::net::{
    Accepted, ConnectOptions, ListenOptions, Listener, Local, Net, Resolved, Stream,
};
use turmoil::net::{TcpListener, TcpStream};

/// The ports of one proxy.
pub struct Ports {
    open: RefCell<BTreeMap<SocketAddr, Weak<Port>>>,
    random: RefCell<ChaCha8Rng>,
    /// Where redirected connections were meant to go.
    original: SocketAddr,
}

impl Ports {
    pub fn new(seed: u64, original: SocketAddr) -> Rc<Ports> {
        Rc::new(Ports {
            open: RefCell::default(),
            random: RefCell::new(ChaCha8Rng::seed_from_u64(seed)),
            original,
        })
    }
}

/// One port, and the connections that arrived for each worker that listens.
struct Port {
    local: SocketAddr,
    queues: RefCell<BTreeMap<usize, VecDeque<Accepted>>>,
    arrived: Notify,
    _open: DropGuard,
}

impl Port {
    fn take(&self, worker: usize) -> Option<Accepted> {
        self.queues.borrow_mut().get_mut(&worker)?.pop_front()
    }
}

/// The network of one worker.
pub struct SimulatedNet {
    pub ports: Rc<Ports>,
    pub worker: usize,
}

struct Bound {
    port: Rc<Port>,
    worker: usize,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.port.queues.borrow_mut().remove(&self.worker);
    }
}

impl Listener for Bound {
    fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.port.local)
    }

    fn accept(&self) -> Local<'_, io::Result<Accepted>> {
        Box::pin(async {
            loop {
                let arrived = self.port.arrived.notified();
                if let Some(accepted) = self.port.take(self.worker) {
                    return Ok(accepted);
                }
                arrived.await;
            }
        })
    }
}

async fn share(
    ports: Rc<Ports>,
    port: Weak<Port>,
    listener: TcpListener,
    redirected: bool,
    closed: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (Ok((stream, peer)), Some(port)) = (accepted, port.upgrade()) else {
            return;
        };
        let mut queues = port.queues.borrow_mut();
        if queues.is_empty() {
            continue;
        }
        let chosen = ports.random.borrow_mut().random_range(0..queues.len());
        if let Some(queue) = queues.values_mut().nth(chosen) {
            queue.push_back(Accepted {
                peer,
                local: port.local,
                original: redirected.then_some(ports.original),
                stream: Box::new(stream),
            });
        }
        port.arrived.notify_waiters();
    }
}

impl SimulatedNet {
    async fn open(&self, address: SocketAddr, redirected: bool) -> io::Result<Bound> {
        let known = self.ports.open.borrow().get(&address).cloned();
        let port = match known.and_then(|known| known.upgrade()) {
            Some(port) => port,
            None => {
                let listener = TcpListener::bind(address).await?;
                let closed = CancellationToken::new();
                let port = Rc::new(Port {
                    local: address,
                    queues: RefCell::default(),
                    arrived: Notify::new(),
                    _open: closed.clone().drop_guard(),
                });
                let weak = Rc::downgrade(&port);
                self.ports.open.borrow_mut().insert(address, weak.clone());
                let ports = self.ports.clone();
                tokio::task::spawn_local(share(ports, weak, listener, redirected, closed));
                port
            }
        };
        port.queues
            .borrow_mut()
            .insert(self.worker, VecDeque::new());
        Ok(Bound {
            port,
            worker: self.worker,
        })
    }
}

impl Net for SimulatedNet {
    fn listen(
        &self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Local<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let bound = self.open(address, options.original_destination).await?;
            Ok(Box::new(bound) as Box<dyn Listener>)
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
        Box::pin(async move {
            let address: IpAddr = turmoil::lookup(name);
            Ok(Resolved {
                addresses: vec![address],
                ttl: None,
            })
        })
    }
}
