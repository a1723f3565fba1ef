//! The agent's HTTPS server: what the API servers ask of a node.
//!
//! Only API servers and administrators get in: their certificates are of the cluster's authority.

pub(crate) mod logs;
mod metrics;
mod streams;

use crate::agent::Agent;
use crate::config::AgentConfig;
use crate::error::AgentError;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_stream::Sessions;

/// Connections at once; the three API servers keep one per log, exec and forward.
const CONNECTIONS_MAX: usize = 1024;
/// A peer that has not finished its handshake or its request's head by then never will.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the listener failed, which happens when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may ask: administrators, and API servers by the names that their certificates carry.
const GROUPS: &[&str] = &["system:masters"];
const USERS: &[&str] = &[
    "system:kube-apiserver",
    "kube-apiserver",
    "kube-apiserver-kubelet-client",
];

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    let value = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, value);
    response
}

pub(crate) fn document(value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    let kind = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// An error as a Kubernetes Status, which API servers pass on as it is.
pub(crate) fn refusal(code: StatusCode, reason: &str, message: String) -> Response<Body> {
    let mut response = document(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    }));
    *response.status_mut() = code;
    response
}

/// The server's TLS configuration: certificates of the cluster's authority are asked for.
pub(crate) fn tls(config: &AgentConfig) -> Result<Arc<rustls::ServerConfig>, AgentError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| AgentError::Tls(format!("{what}: {error}"));
    let certificates =
        |what: &str, pem: &str| -> Result<Vec<CertificateDer<'static>>, AgentError> {
            let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            match list {
                Ok(list) if list.is_empty() => Err(failed(what, &"no certificate in it")),
                Ok(list) => Ok(list),
                Err(error) => Err(failed(what, &error)),
            }
        };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("CA certificate", &config.ca_pem)? {
        roots
            .add(certificate)
            .map_err(|error| failed("CA certificate", &error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed("client verification", &error))?;
    let key = PrivateKeyDer::from_pem_slice(config.serving_key_pem.as_bytes())
        .map_err(|error| failed("serving key", &error))?;
    let mut made = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("protocol versions", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates("serving certificate", &config.serving_cert_pem)?,
            key,
        )
        .map_err(|error| failed("serving certificate", &error))?;
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(made))
}

/// Whether the certificate is one of those that may ask.
fn may_ask(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let subject = parsed.subject();
    let user = subject
        .iter_common_name()
        .any(|name| name.as_str().is_ok_and(|name| USERS.contains(&name)));
    let group = subject
        .iter_organization()
        .any(|name| name.as_str().is_ok_and(|name| GROUPS.contains(&name)));
    user || group
}

/// What every request may need.
pub(crate) struct Server {
    pub agent: Arc<Agent>,
    pub sessions: Sessions,
    pub usage: metrics::Usage,
    pub shutdown: CancellationToken,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let server = Arc::new(Server {
        agent,
        sessions: Sessions::new(),
        usage: metrics::Usage::default(),
        shutdown: shutdown.clone(),
    });
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(
                limit = CONNECTIONS_MAX,
                "too many connections, one is refused"
            );
            continue;
        };
        let (server, acceptor, stop) = (server.clone(), acceptor.clone(), shutdown.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(server, acceptor, stream) => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Small frames of terminals must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|list| list.first());
    let allowed = peer.is_some_and(may_ask);
    let named = peer.is_some();
    let service = hyper::service::service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(server, request, named, allowed).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
    named: bool,
    allowed: bool,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return text(StatusCode::OK, "ok");
    }
    if !named {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    if !allowed {
        return text(
            StatusCode::FORBIDDEN,
            "Forbidden: this client certificate may not ask nodes",
        );
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let get = request.method() == Method::GET;
    match parts[..] {
        ["containerLogs", namespace, pod, container] if get => {
            let query = request.uri().query().unwrap_or_default().to_owned();
            logs::serve(&server, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] => {
            streams::exec(&server, request, namespace, pod, container)
        }
        ["attach", namespace, pod, container] => {
            streams::attach(&server, request, namespace, pod, container)
        }
        ["portForward", namespace, pod] => streams::port_forward(&server, request, namespace, pod),
        ["pods"] if get => document(&pods(&server)),
        ["stats", "summary"] if get => document(&server.usage.summary(&server.agent)),
        ["metrics"] if get => text(StatusCode::OK, server.usage.metrics(&server.agent)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn pods(server: &Server) -> Value {
    let items: Vec<Value> = server
        .agent
        .pods
        .all()
        .into_iter()
        .map(|handle| {
            let seen = handle.seen.borrow().clone();
            let mut pod = seen.pod.as_ref().clone();
            pod.status = Some(seen.status.as_ref().clone());
            serde_json::to_value(pod).unwrap_or_default()
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}
