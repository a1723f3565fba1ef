//! A proxy in this process, upstreams of every temper, and a client that sees bytes.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener as Reserved};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;
use trireme_proxy::net::{Net, System};
use trireme_proxy::telemetry::istio::Peer;
use trireme_proxy::{Drain, Shared, Worker, spawn_background};
use trireme_proxy_decide::config::{
    Cluster, ClusterKind, ClusterSpecifier, Endpoint, Endpoints, Filter, FilterChain,
    FilterChainMatch, HttpConnectionManager, Labels, Listener, ListenerFilters, LocalityEndpoints,
    PathMatch, Route, RouteAction, RouteConfiguration, RouteForward, RouteMatch, RouteParts,
    RouteSource, Snapshot, TrafficDirection, VirtualHost,
};

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run<F: Future>(test: F) -> F::Output {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// An address nobody listens on.
pub fn free() -> SocketAddr {
    let reserved = Reserved::bind("127.0.0.1:0").expect("bind");
    reserved.local_addr().expect("address")
}

pub fn endpoints(name: &str, addresses: &[SocketAddr]) -> Endpoints {
    let labels = Arc::new(Labels::default());
    let mut endpoints = Endpoints::new(name);
    endpoints.localities.push(LocalityEndpoints {
        endpoints: addresses
            .iter()
            .map(|address| Endpoint::new(*address, labels.clone()))
            .collect(),
        ..LocalityEndpoints::default()
    });
    endpoints
}

pub fn cluster(name: &str, addresses: &[SocketAddr]) -> Cluster {
    let mut cluster = Cluster::new(name, ClusterKind::Static);
    cluster.endpoints = Some(Arc::new(endpoints(name, addresses)));
    cluster
}

pub fn forward(cluster: &str) -> RouteForward {
    RouteForward::new(ClusterSpecifier::Cluster(Arc::from(cluster)))
}

pub fn route(prefix: &str, action: RouteAction) -> Route {
    Route {
        name: Arc::from(prefix),
        matches: RouteMatch::path(PathMatch::Prefix(Arc::from(prefix))),
        action,
        headers: Default::default(),
        filters: Default::default(),
        request_body_buffer_limit: None,
        origin: None,
    }
}

pub fn routes(name: &str, list: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration::new(RouteParts {
        name: Arc::from(name),
        virtual_hosts: vec![VirtualHost {
            name: Arc::from("all"),
            domains: vec![Arc::from("*")],
            routes: list.into_iter().map(Arc::new).collect(),
            ..VirtualHost::default()
        }],
        ..RouteParts::default()
    })
    .expect("routes")
}

pub fn manager(list: Vec<Route>) -> HttpConnectionManager {
    let mut manager = HttpConnectionManager::new(
        "test",
        RouteSource::Inline(Arc::new(routes("inline", list))),
    );
    manager.server_name = Arc::from("istio-envoy");
    manager
}

pub fn chain(filter: Filter) -> FilterChain {
    FilterChain {
        name: Arc::from("chain"),
        matches: FilterChainMatch::default(),
        tls: None,
        handshake_timeout: None,
        filter,
        origin: None,
    }
}

pub fn listener(name: &str, address: SocketAddr, chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: Arc::from(name),
        address,
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        transparent: false,
        direction: TrafficDirection::Outbound,
        listener_filters: ListenerFilters::default(),
        filter_chains: chains,
        default_filter_chain: None,
        buffer_limit_bytes: 1 << 20,
        connection_limit: None,
        access_logs: Vec::new(),
        origin: None,
    }
}

pub struct Proxy {
    pub shared: Arc<Shared>,
    pub drain: Drain,
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A proxy with this configuration; `address` is where it serves.
pub async fn proxy(snapshot: Snapshot, address: SocketAddr) -> Proxy {
    let shared = Shared::new(Peer::default(), 42, 1_700_000_000_000_000_000);
    shared.replace(snapshot);
    shared.configured();
    let net: Rc<dyn Net> = Rc::new(System);
    let (drain, stop) = (Drain::new(), CancellationToken::new());
    let worker = Worker::new(shared.clone(), net.clone(), drain.clone());
    spawn_background(&shared, &net);
    let (running, stopped) = (worker.clone(), stop.clone());
    tokio::task::spawn_local(async move { running.run(stopped.cancelled()).await });
    while !shared.is_ready() {
        tokio::task::yield_now().await;
    }
    Proxy {
        shared,
        drain,
        address,
        stop,
    }
}

/// A proxy that serves these routes to these clusters by HTTP.
pub async fn http(list: Vec<Route>, clusters: Vec<Cluster>) -> Proxy {
    managed(manager(list), clusters).await
}

pub async fn managed(manager: HttpConnectionManager, clusters: Vec<Cluster>) -> Proxy {
    let address = free();
    let mut snapshot = Snapshot::default().with_listener(listener(
        "http",
        address,
        vec![chain(Filter::Http(Arc::new(manager)))],
    ));
    for cluster in clusters {
        snapshot = snapshot.with_cluster(cluster);
    }
    proxy(snapshot, address).await
}

/// What an upstream does with a connection.
pub struct Upstream {
    pub address: SocketAddr,
    /// Requests that it saw, whole.
    pub seen: Rc<RefCell<Vec<String>>>,
    pub connections: Rc<Cell<u32>>,
}

/// An upstream that runs `serve` for each connection.
pub async fn upstream<S, F>(serve: S) -> Upstream
where
    S: Fn(TcpStream, Rc<RefCell<Vec<String>>>) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let connections: Rc<Cell<u32>> = Rc::default();
    let (log, count) = (seen.clone(), connections.clone());
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            tokio::task::spawn_local(serve(stream, log.clone()));
        }
    });
    Upstream {
        address,
        seen,
        connections,
    }
}

/// Reads one request: head, and body by Content-Length or chunks.
pub async fn read_request(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<String> {
    let mut buffer = [0_u8; 64 * 1024];
    loop {
        let text = String::from_utf8_lossy(rest).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = &text[..end + 4];
            let body = &text[end + 4..];
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let whole = if let Some(length) = length {
                let length: usize = length.parse().expect("length");
                (body.len() >= length).then_some(end + 4 + length)
            } else if head.contains("transfer-encoding: chunked") {
                body.find("0\r\n\r\n").map(|at| end + 4 + at + 5)
            } else {
                Some(end + 4)
            };
            if let Some(whole) = whole {
                let request = text[..whole].to_owned();
                rest.drain(..whole);
                return Some(request);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => rest.extend_from_slice(&buffer[..read]),
        }
    }
}

/// An upstream that answers each request by what `answer` makes of it.
pub async fn answering(answer: impl Fn(&str) -> String + 'static) -> Upstream {
    let answer = Rc::new(answer);
    upstream(move |mut stream, seen| {
        let answer = answer.clone();
        async move {
            let mut rest = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut rest).await {
                let response = answer(&request);
                seen.borrow_mut().push(request);
                if response.is_empty() || stream.write_all(response.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A response of so much text.
pub fn ok(body: &str) -> String {
    status("200 OK", body)
}

pub fn status(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A client's connection.
pub struct Client {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.expect("connect"),
            rest: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.expect("send");
    }

    /// The next response; none when the connection ends before it is whole.
    pub async fn receive(&mut self) -> Option<Answer> {
        let mut buffer = [0_u8; 64 * 1024];
        loop {
            let text = String::from_utf8_lossy(&self.rest).into_owned();
            if let Some(end) = text.find("\r\n\r\n") {
                let head = text[..end + 2].to_owned();
                let after = &text[end + 4..];
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let whole = if let Some(length) = length {
                    let length: usize = length.parse().expect("length");
                    (after.len() >= length).then(|| (length, after[..length].to_owned()))
                } else if head.contains("transfer-encoding: chunked") {
                    after
                        .find("0\r\n\r\n")
                        .map(|at| (at + 5, after[..at].to_owned()))
                } else {
                    Some((0, String::new()))
                };
                if let Some((taken, body)) = whole {
                    self.rest.drain(..end + 4 + taken);
                    let status = head[9..12].parse().expect("status");
                    return Some(Answer { status, head, body });
                }
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.rest.extend_from_slice(&buffer[..read]),
            }
        }
    }

    pub async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.receive().await.expect("an answer")
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut client = Client::connect(address).await;
    client
        .ask(&format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n"))
        .await
}

/// A statistic by Envoy's name, as the administration shows it.
pub fn stat(proxy: &Proxy, name: &str) -> u64 {
    let mut out = String::new();
    trireme_proxy::telemetry::stats::write(&proxy.shared, &mut out);
    let line = out
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.map_or(0, |value| value.parse().expect("number"))
}
