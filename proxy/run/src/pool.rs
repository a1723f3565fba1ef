//! Connections to one host: idle ones, those being made, and requests that wait for one. As Envoy has it: the newest
//! idle connection first; a request that finds none waits, in turn, and a connection is made for it if the cluster's
//! limit allows, or if this host has none at all; a failure to connect fails all that wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;
use trireme_proxy_decide::config::{Http2Options, Priority};
use trireme_proxy_decide::upstream::{
    self, Admission, ClusterState, Connection, Host, Lease as Place, PoolView,
    Waiting as WaitingLimit,
};

use crate::deadline::Deadline;
use crate::h1;
use crate::h2;
use crate::net::{ConnectOptions, Net, Stream};
use crate::telemetry::stats::{ClusterStat, ClusterStats};

/// Envoy's default for connections to upstreams.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Streams on one HTTP/2 connection where the upstream names no limit (RFC 9113 recommends at least 100).
const MAX_STREAMS: u32 = 1024;

/// Why there is no connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// A limit refused.
    #[error("overflow")]
    Overflow,
    /// Connecting failed.
    #[error("{0}")]
    Connect(String),
    /// Connecting took too long.
    #[error("connection timeout")]
    Timeout,
}

/// What a pool connects with.
pub struct Dialer {
    /// The network.
    pub net: Rc<dyn Net>,
    /// Where to.
    pub address: SocketAddr,
    /// The local end to keep.
    pub source: Option<SocketAddr>,
    /// TLS and the name to send.
    pub tls: Option<(
        tokio_rustls::TlsConnector,
        rustls::pki_types::ServerName<'static>,
    )>,
    /// How long all of it may take.
    pub timeout: Duration,
}

impl Dialer {
    /// Connects. Tells whether ALPN chose HTTP/2.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn dial(&self) -> Result<(Stream, Option<bool>), PoolError> {
        let dialing = async {
            let stream = self
                .net
                .connect(
                    self.address,
                    ConnectOptions {
                        source: self.source,
                    },
                )
                .await?;
            match &self.tls {
                None => Ok((stream, None)),
                Some((connector, name)) => {
                    let stream = connector.connect(name.clone(), stream).await?;
                    let chosen = stream
                        .get_ref()
                        .1
                        .alpn_protocol()
                        .map(|protocol| protocol == b"h2");
                    Ok((Box::new(stream) as Stream, chosen))
                }
            }
        };
        match tokio::time::timeout(self.timeout, dialing).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(PoolError::Connect(failure(&error, self.tls.is_some()))),
            Err(_) => Err(PoolError::Timeout),
        }
    }
}

/// The reason in Envoy's words.
fn failure(error: &io::Error, tls: bool) -> String {
    let word = match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused",
        io::ErrorKind::ConnectionReset => "Connection reset by peer",
        io::ErrorKind::HostUnreachable => "No route to host",
        io::ErrorKind::NetworkUnreachable => "Network is unreachable",
        _ if tls => return format!("TLS_error:|{error}"),
        _ => return format!("delayed connect error: {error}"),
    };
    format!("delayed connect error: {word}")
}

/// A connection to use for one request.
pub enum Lease {
    /// HTTP/1.1: exclusively. The response gives it back.
    Http1(Box<h1::client::Connection>),
    /// HTTP/2: a stream on it.
    Http2(h2::Sender, StreamSlot),
}

/// A stream's place on an HTTP/2 connection.
pub struct StreamSlot(Rc<Load>);

impl StreamSlot {
    fn new(load: &Rc<Load>) -> Self {
        load.streams.set(load.streams.get() + 1);
        load.requests.set(load.requests.get() + 1);
        Self(load.clone())
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

struct Multiplexed {
    sender: h2::Sender,
    load: Rc<Load>,
}

/// What an HTTP/2 connection carries.
struct Load {
    streams: Cell<u32>,
    requests: Cell<u64>,
    since: Cell<Instant>,
    closed: Cell<bool>,
}

struct Idle {
    connection: Box<h1::client::Connection>,
    since: Instant,
}

/// What a connection occupies while it lives.
struct Occupies {
    pool: Weak<HostPool>,
    stats: Arc<ClusterStats>,
    opened: bool,
    limits: Option<Connection>,
}

impl Drop for Occupies {
    fn drop(&mut self) {
        self.stats.remove(ClusterStat::ConnectionActive);
        self.stats.add(ClusterStat::ConnectionDestroy);
        if let Some(pool) = self.pool.upgrade() {
            if self.opened {
                pool.open.set(pool.open.get().saturating_sub(1));
            }
            // Its limit is free from here on: who waits may get a connection of his own.
            self.limits = None;
            pool.connect_for_waiting();
        }
    }
}

struct Waiting {
    give: oneshot::Sender<Result<(Lease, Place), PoolError>>,
    limit: WaitingLimit,
}

/// The connections to one host.
pub struct HostPool {
    /// How to connect.
    pub dialer: Dialer,
    /// The host.
    pub host: Arc<Host>,
    stats: Arc<ClusterStats>,
    /// The newest state of the cluster that a request came with.
    cluster: RefCell<Arc<ClusterState>>,
    priority: Priority,
    http2: Option<bool>,
    http2_options: Http2Options,
    idle_timeout: Option<Duration>,
    max_requests: Option<u64>,
    this: Weak<HostPool>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Multiplexed>>,
    waiting: RefCell<VecDeque<Waiting>>,
    connecting: Cell<u32>,
    open: Cell<u32>,
    retired: Cell<bool>,
    watcher: RefCell<Option<Waker>>,
}

impl HostPool {
    /// A pool without connections. `http2` says which HTTP; none lets ALPN choose.
    #[must_use]
    pub fn new(
        cluster: Arc<ClusterState>,
        host: Arc<Host>,
        priority: Priority,
        dialer: Dialer,
        stats: Arc<ClusterStats>,
        http2: Option<bool>,
    ) -> Rc<Self> {
        let http = cluster.config.http;
        let pool = Rc::new_cyclic(|this| Self {
            dialer,
            host,
            stats,
            cluster: RefCell::new(cluster),
            priority,
            http2,
            http2_options: http.http2,
            idle_timeout: Some(http.idle_timeout.unwrap_or(IDLE_TIMEOUT))
                .filter(|time| !time.is_zero()),
            max_requests: http
                .max_requests_per_connection
                .filter(|most| *most > 0)
                .map(u64::from),
            this: this.clone(),
            idle: RefCell::new(Vec::new()),
            shared: RefCell::new(Vec::new()),
            waiting: RefCell::new(VecDeque::new()),
            connecting: Cell::new(0),
            open: Cell::new(0),
            retired: Cell::new(false),
            watcher: RefCell::new(None),
        });
        tokio::task::spawn_local(watch(Rc::downgrade(&pool)));
        pool
    }

    /// The newest state of the cluster that a request came with.
    #[must_use]
    pub fn cluster(&self) -> Arc<ClusterState> {
        self.cluster.borrow().clone()
    }

    /// Closes what is idle, and everything else when it is done: the host is gone, or the cluster changed.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        if let Some(waker) = self.watcher.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether nothing is open and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.get() == 0 && self.connecting.get() == 0 && self.waiting.borrow().is_empty()
    }

    /// A connection for one request, with the request's own place under the cluster's limits.
    ///
    /// # Errors
    /// When a limit refuses or connecting fails.
    pub async fn acquire(
        self: &Rc<Self>,
        cluster: &Arc<ClusterState>,
    ) -> Result<(Lease, Place), PoolError> {
        if let Some(given) = self.acquire_ready(cluster) {
            return given;
        }
        let Admission::Wait(limit, connection) =
            upstream::admit(cluster, &self.host, self.priority, self.view())
        else {
            return Err(PoolError::Overflow);
        };
        let (give, take) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiting { give, limit });
        let mut place = WaitingPlace { pool: self, take };
        if let Some(connection) = connection {
            self.open_one(connection);
        }
        let given = (&mut place.take).await;
        drop(place);
        match given {
            Ok(given) => given,
            Err(_) => Err(PoolError::Connect("the pool is gone".into())),
        }
    }

    /// The same without waiting: none where no connection is ready.
    pub fn acquire_ready(
        &self,
        cluster: &Arc<ClusterState>,
    ) -> Option<Result<(Lease, Place), PoolError>> {
        if !Arc::ptr_eq(&self.cluster.borrow(), cluster) {
            *self.cluster.borrow_mut() = cluster.clone();
        }
        let lease = self.ready()?;
        Some(match upstream::attach(cluster, &self.host, self.priority) {
            Some(place) => Ok((lease, place)),
            None => {
                if let Lease::Http1(connection) = lease {
                    self.put_back(connection);
                }
                Err(PoolError::Overflow)
            }
        })
    }

    fn view(&self) -> PoolView {
        let connecting = self.connecting.get();
        // One HTTP/2 connection serves all that wait.
        let capacity = if self.http2 == Some(true) {
            connecting.saturating_mul(MAX_STREAMS)
        } else {
            connecting
        };
        PoolView {
            ready: false,
            connecting_capacity: capacity,
            pending: u32::try_from(self.waiting.borrow().len()).unwrap_or(u32::MAX),
            connections: self.open.get() + connecting,
        }
    }

    /// A connection that is ready now.
    fn ready(&self) -> Option<Lease> {
        if self.http2 != Some(true)
            && let Some(idle) = self.idle.borrow_mut().pop()
        {
            return Some(Lease::Http1(idle.connection));
        }
        if self.http2 != Some(false) {
            return self.stream();
        }
        None
    }

    fn stream(&self) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| one.sender.is_open() && !one.load.closed.get());
        let one = shared.iter().find(|one| {
            one.load.streams.get() < one.sender.max_streams().min(MAX_STREAMS)
                && self
                    .max_requests
                    .is_none_or(|most| one.load.requests.get() < most)
        })?;
        Some(Lease::Http2(one.sender.clone(), StreamSlot::new(&one.load)))
    }

    fn open_one(&self, limits: Connection) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        self.connecting.set(self.connecting.get() + 1);
        self.stats.add(ClusterStat::ConnectionActive);
        let occupies = Occupies {
            pool: self.this.clone(),
            stats: self.stats.clone(),
            opened: false,
            limits: Some(limits),
        };
        tokio::task::spawn_local(connect(this, occupies));
    }

    /// Starts connections for those that wait, as the limits allow.
    fn connect_for_waiting(&self) {
        while !self.waiting.borrow().is_empty() {
            let cluster = self.cluster();
            let Some(limits) = upstream::connect(&cluster, &self.host, self.priority, self.view())
            else {
                return;
            };
            self.open_one(limits);
        }
    }

    fn failed(&self, error: &PoolError) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        let cluster = self.cluster();
        for one in waiting {
            upstream::ClusterStats::inc(&cluster.stats.upstream_rq_pending_failure_eject);
            let _ = one.give.send(Err(error.clone()));
        }
    }

    /// Gives a connection to whoever waits longest, or keeps it.
    fn put_back(&self, mut connection: Box<h1::client::Connection>) {
        if self
            .max_requests
            .is_some_and(|most| connection.requests >= most)
        {
            self.stats.add(ClusterStat::ConnectionMaxRequests);
            return;
        }
        loop {
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            drop(next.limit);
            if next.give.is_closed() {
                continue;
            }
            let Some(place) = upstream::attach(&self.cluster(), &self.host, self.priority) else {
                let _ = next.give.send(Err(PoolError::Overflow));
                continue;
            };
            match next.give.send(Ok((Lease::Http1(connection), place))) {
                Ok(()) => {
                    // As Envoy does: those that still wait may have a connection of their own by now.
                    self.connect_for_waiting();
                    return;
                }
                Err(Ok((Lease::Http1(back), _))) => connection = back,
                Err(_) => return,
            }
        }
        // Who waited when the pool was retired is served still; nobody comes any more.
        if self.retired.get() {
            return;
        }
        // Whoever watches is woken by what the upstream does.
        let watcher = self.watcher.borrow();
        let waker = watcher.as_ref().unwrap_or(Waker::noop());
        if connection
            .poll_idle(&mut Context::from_waker(waker))
            .is_pending()
        {
            self.idle.borrow_mut().push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Gives streams to those that wait.
    fn offer_streams(&self) {
        loop {
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(lease) = self.stream() else { return };
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            drop(next.limit);
            let given = match upstream::attach(&self.cluster(), &self.host, self.priority) {
                Some(place) => Ok((lease, place)),
                None => Err(PoolError::Overflow),
            };
            let _ = next.give.send(given);
        }
    }
}

impl h1::client::Home for HostPool {
    fn give_back(&self, connection: Box<h1::client::Connection>) {
        self.put_back(connection);
    }
}

/// Takes a request that gave up out of the queue, and its place in the limit with it.
struct WaitingPlace<'a> {
    pool: &'a HostPool,
    take: oneshot::Receiver<Result<(Lease, Place), PoolError>>,
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.take.close();
        // Given, but not taken any more.
        if let Ok(Ok((Lease::Http1(connection), _))) = self.take.try_recv() {
            self.pool.put_back(connection);
        }
        let mut waiting = self.pool.waiting.borrow_mut();
        let mut at = 0;
        while at < waiting.len() {
            if waiting[at].give.is_closed() {
                if let Some(gone) = waiting.remove(at) {
                    gone.limit.cancel(&self.pool.cluster());
                }
            } else {
                at += 1;
            }
        }
    }
}

async fn connect(pool: Rc<HostPool>, mut occupies: Occupies) {
    let dialed = pool.dialer.dial().await;
    pool.connecting.set(pool.connecting.get().saturating_sub(1));
    let (stream, chosen) = match dialed {
        Ok(connected) => connected,
        Err(error) => {
            let stats = &pool.cluster().stats;
            upstream::ClusterStats::inc(&stats.upstream_cx_connect_fail);
            if error == PoolError::Timeout {
                upstream::ClusterStats::inc(&stats.upstream_cx_connect_timeout);
            }
            // Those that wait are told before the freed limit makes another attempt for them.
            pool.failed(&error);
            drop(occupies);
            return;
        }
    };
    pool.open.set(pool.open.get() + 1);
    occupies.opened = true;
    if !pool.http2.or(chosen).unwrap_or(false) {
        pool.stats.add(ClusterStat::ConnectionHttp1Total);
        pool.put_back(Box::new(h1::client::Connection::new(
            stream,
            Some(Box::new(occupies)),
        )));
        return;
    }
    pool.stats.add(ClusterStat::ConnectionHttp2Total);
    let (sender, connection) = h2::connect(stream, &pool.http2_options);
    let load = Rc::new(Load {
        streams: Cell::new(0),
        requests: Cell::new(0),
        since: Cell::new(Instant::now()),
        closed: Cell::new(false),
    });
    pool.shared.borrow_mut().push(Multiplexed {
        sender,
        load: load.clone(),
    });
    pool.offer_streams();
    let weak = Rc::downgrade(&pool);
    let idle_timeout = pool.idle_timeout;
    drop(pool);
    drive(connection, load, idle_timeout).await;
    if let Some(pool) = weak.upgrade() {
        pool.shared
            .borrow_mut()
            .retain(|one| !one.load.closed.get());
    }
    drop(occupies);
}

/// Drives an HTTP/2 connection until it ends or was idle for too long.
async fn drive(mut connection: h2::Driver, load: Rc<Load>, idle_timeout: Option<Duration>) {
    let mut deadline = Deadline::new();
    std::future::poll_fn(|context| {
        if Pin::new(&mut connection).poll(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            deadline.set(idle_timeout.map(|timeout| {
                let since = if load.streams.get() > 0 {
                    Instant::now()
                } else {
                    load.since.get()
                };
                since + timeout
            }));
            match deadline.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if load.streams.get() == 0 => return Poll::Ready(()),
                Poll::Ready(()) => {}
            }
        }
    })
    .await;
    load.closed.set(true);
}

/// Watches the idle connections of a pool: those that the upstream closes and those that are idle for too long go.
async fn watch(pool: Weak<HostPool>) {
    let mut deadline = Deadline::new();
    std::future::poll_fn(move |context| {
        let Some(pool) = pool.upgrade().filter(|pool| !pool.retired.get()) else {
            return Poll::Ready(());
        };
        *pool.watcher.borrow_mut() = Some(context.waker().clone());
        loop {
            let mut gone = Vec::new();
            {
                let mut idle = pool.idle.borrow_mut();
                let now = Instant::now();
                let mut at = 0;
                while at < idle.len() {
                    let late = pool
                        .idle_timeout
                        .is_some_and(|timeout| now >= idle[at].since + timeout);
                    if late {
                        pool.stats.add(ClusterStat::ConnectionIdleTimeout);
                    }
                    if late || idle[at].connection.poll_idle(context).is_ready() {
                        gone.push(idle.remove(at));
                    } else {
                        at += 1;
                    }
                }
                let oldest = idle.iter().map(|one| one.since).min();
                deadline.set(
                    oldest
                        .and_then(|since| pool.idle_timeout.map(|timeout| since + timeout))
                        .or_else(|| {
                            // Nothing is idle: look again when something may be.
                            pool.idle_timeout.map(|timeout| now + timeout)
                        }),
                );
            }
            // Dropped without the borrow: a connection's end may start another.
            drop(gone);
            if deadline.poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}
