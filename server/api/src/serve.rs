//! One port for REST (HTTP/1.1, HTTP/2) and gRPC, over TLS with optional client certificates.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower_service::Service;

use crate::api::Api;
use crate::identity::Identity;
use crate::respond::{self, Body};
use crate::{authenticate, failure, grpc};

/// Pause after `accept` failed, usually for want of file descriptors: enough for some to be freed,
/// short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 pings: a client whose machine has died is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where connections come from: a TCP listener, or the simulator's.
pub trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Listener for tokio::net::TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        let (stream, peer) = tokio::net::TcpListener::accept(self).await?;
        // Small answers and watch events must not wait for acknowledgements.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}

/// Serves until `shutdown`, then lets open requests finish within the drain limit. `tls` should offer
/// ALPN `h2` and `http/1.1` and accept, not require, client certificates.
pub async fn serve<L: Listener>(
    mut listener: L,
    tls: Arc<rustls::ServerConfig>,
    api: Arc<Api>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let routes = grpc::routes(&api);
    let slots = Arc::new(Semaphore::new(api.config.limits.max_connections));
    let mut connections = JoinSet::new();
    loop {
        // At the limit new connections wait in the kernel's queue.
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(
            io,
            acceptor.clone(),
            api.clone(),
            routes.clone(),
            shutdown.clone(),
        );
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "connection ended");
            }
        });
        // Finished connections are reaped as new ones come, so that the set does not grow.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    api.closing.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(api.config.limits.drain_timeout, drained)
        .await
        .is_err()
    {
        connections.shutdown().await;
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: Io,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    let _counted = api.metrics.connection();
    let limits = &api.config.limits;
    let stream = tokio::time::timeout(limits.header_timeout, acceptor.accept(io)).await??;
    let (_, session) = stream.get_ref();
    let identity = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| authenticate::from_certificate(certificate));
    let identity = identity.transpose()?;
    let http2 = session.alpn_protocol() == Some(b"h2");

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    // hyper times heads only once it has seen a first byte. A known client may keep an HTTP/2
    // connection ready; anyone else must ask for something.
    let patient = http2 && identity.is_some();
    let asked = CancellationToken::new();
    let service = {
        let (api, asked) = (api.clone(), asked.clone());
        hyper::service::service_fn(move |request: Request<Incoming>| {
            asked.cancel();
            let (api, routes, identity) = (api.clone(), routes.clone(), identity.clone());
            async move { Ok::<_, Infallible>(request_of(api, routes, identity, request).await) }
        })
    };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let silence = async {
        let asked = tokio::time::timeout(limits.header_timeout, asked.cancelled());
        if patient || asked.await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = connection.as_mut() => return result,
        () = silence => return Err("no request came in time".into()),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn request_of(
    api: Arc<Api>,
    routes: Routes,
    identity: Option<Identity>,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return grpc_of(&api, routes, identity, request).await;
    }
    let (parts, body) = request.into_parts();
    let limit = api.config.limits.max_object_bytes;
    // A request to switch protocols has no body; what follows belongs to the new protocol.
    let bytes = if parts.headers.contains_key(header::UPGRADE) {
        Bytes::new()
    } else {
        let read = Limited::new(body, limit).collect();
        match tokio::time::timeout(api.config.limits.request_timeout, read).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return respond::failure(&failure::too_large(limit));
            }
            Ok(Err(error)) => {
                let status = trireme_model::status::Status::bad_request(format!(
                    "reading the request body: {error}"
                ));
                return respond::failure(&status);
            }
            Err(_) => {
                let status = trireme_model::status::Status::timeout(
                    "the request body did not arrive in time",
                    0,
                );
                return respond::failure(&status);
            }
        }
    };
    api.handle(identity, Request::from_parts(parts, bytes))
        .await
}

async fn grpc_of(
    api: &Arc<Api>,
    mut routes: Routes,
    identity: Option<Identity>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    let open = path.starts_with("/grpc.health.v1.Health/")
        || api
            .config
            .open_grpc_methods
            .iter()
            .any(|method| method == path);
    let identity =
        match authenticate::identify(api, identity, request.uri().path(), request.headers()) {
            Ok(identity) if identity.is_anonymous() && !open => {
                Err(trireme_model::status::Status::unauthorized())
            }
            other => other,
        };
    let response = match identity {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            match routes.call(request.map(tonic::body::Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(status) => grpc::status(&status).into_http(),
    };
    response.map(|body: tonic::body::Body| {
        body.map_err(|status| Box::new(status) as BoxError)
            .boxed_unsync()
    })
}
