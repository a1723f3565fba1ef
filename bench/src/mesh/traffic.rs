//! Requests through the proxies, and what answers them.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use trireme_network::run_in;

use super::objects::{GENERATION, UPSTREAM_PORT};

/// Answers every request to any of this machine's addresses, on a thread of its own.
pub struct Upstream {
    served: Arc<AtomicU64>,
}

impl Upstream {
    pub fn start() -> anyhow::Result<Upstream> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, UPSTREAM_PORT))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let served = Arc::new(AtomicU64::new(0));
        let counter = served.clone();
        std::thread::Builder::new()
            .name("upstream".into())
            .spawn(move || runtime.block_on(accept(listener, counter)))?;
        Ok(Upstream { served })
    }

    /// Requests so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

async fn accept(listener: std::net::TcpListener, served: Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let served = served.clone();
        let answer = hyper::service::service_fn(move |_| {
            served.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"served\n")))) }
        });
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// One of a workload's connections: it goes where a service is, and is intercepted on its way.
pub struct Caller {
    namespace: PathBuf,
    service: String,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

pub struct Answer {
    pub status: u16,
    /// The number of the route's change that led it, where it has one.
    pub generation: Option<u64>,
}

impl Caller {
    pub fn new(namespace: PathBuf, service: &str) -> Caller {
        Caller {
            namespace,
            service: service.to_owned(),
            sender: None,
        }
    }

    /// One request, on the connection of the last one where that is still open.
    pub async fn call(&mut self) -> anyhow::Result<Answer> {
        let mut sender = match self.sender.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => self.connect().await?,
        };
        let request = Request::get("/")
            .header("host", &self.service)
            .body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let answer = Answer {
            status: response.status().as_u16(),
            generation: response
                .headers()
                .get(GENERATION)
                .and_then(|value| value.to_str().ok()?.parse().ok()),
        };
        response.into_body().collect().await?;
        // Its task returns the connection a moment after the last byte.
        sender.ready().await.ok();
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let address: SocketAddr = format!("{}:80", self.service).parse()?;
        let stream = run_in(&self.namespace, || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })?;
        let stream = tokio::net::TcpStream::from_std(stream.context("connecting to a service")?)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
