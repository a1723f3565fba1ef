//! Connections to servers: dialling (replaceable, for simulated networks), TLS, HTTP/2.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A dial and its TLS handshake must be done by then: a server that is gone without a trace must
/// not use up a call's deadline while two others would answer.
const CONNECT_DEADLINE: Duration = Duration::from_millis(1500);

/// HTTP/2 pings find a peer that vanished: after this much silence one is sent,
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// and without an answer for this long the connection is given up.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// Windows for large lists: ten times the default stream window, so that a page of objects does
/// not wait for window updates, and room for several streams at once.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A connection to a server before TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connects to `host:port`.
pub type Dialer = Arc<dyn Fn(String) -> BoxFuture<io::Result<Box<dyn Stream>>> + Send + Sync>;

/// Dials over TCP.
pub fn tcp_dialer() -> Dialer {
    Arc::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    })
}

/// A connection could not be made, so nothing was sent on it.
#[derive(Debug)]
pub(crate) struct DialError(String);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DialError {}

/// Whether an error's chain says that no connection could be made.
pub(crate) fn was_not_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(error) = current {
        if error.downcast_ref::<DialError>().is_some()
            // The connection closed before the request was put on it.
            || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        current = error.source();
    }
    false
}

#[derive(Clone)]
pub(crate) struct Connector {
    dialer: Dialer,
    tls: TlsConnector,
    address: String,
}

/// The host part of `host:port`, also for `[v6]:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Connector {
    async fn connect(
        self,
    ) -> Result<TokioIo<tokio_rustls::client::TlsStream<Box<dyn Stream>>>, DialError> {
        let address = &self.address;
        let failed = |what: &str| DialError(format!("{address}: {what}"));
        let name = ServerName::try_from(host(address).to_string())
            .map_err(|error| failed(&error.to_string()))?;
        let connecting = async {
            let stream = (self.dialer)(address.clone()).await?;
            self.tls.connect(name, stream).await
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => Err(failed(&format!(
                "no connection within {} ms",
                CONNECT_DEADLINE.as_millis()
            ))),
        }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<tokio_rustls::client::TlsStream<Box<dyn Stream>>>;
    type Error = DialError;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A channel to one server: it connects when first used, and again when its connection broke.
pub(crate) fn channel(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    dialer: Dialer,
) -> Result<Channel, tonic::transport::Error> {
    // TLS is the connector's business; only the request's scheme says https.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let origin = format!("https://{address}").parse().ok();
    let endpoint = match origin {
        Some(origin) => endpoint.origin(origin),
        None => endpoint,
    };
    let endpoint = endpoint
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(endpoint.connect_with_connector_lazy(Connector {
        dialer,
        tls: TlsConnector::from(tls),
        address: address.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        assert_eq!(host("10.0.0.1:6443"), "10.0.0.1");
        assert_eq!(host("[fd00::1]:6443"), "fd00::1");
        assert_eq!(host("server.example:1"), "server.example");
    }
}
