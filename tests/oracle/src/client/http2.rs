//! Requests over HTTP/2, and over TLS: by hyper, since bytes are not what these cases are about.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{PATIENCE, Request, Response};

/// A connection that takes several requests at once.
#[derive(Clone)]
pub struct Connection(http2::SendRequest<Full<Bytes>>);

impl Connection {
    /// In the clear, by prior knowledge.
    pub async fn open(to: SocketAddr) -> Result<Connection> {
        Connection::over(TcpStream::connect(to).await?).await
    }

    pub async fn over<Io>(io: Io) -> Result<Connection>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(io));
        let (sender, connection) = handshake.await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// A stream that is reset has status 0, as a connection that ends without an answer.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        let begin = Instant::now();
        let sent = self.0.clone().send_request(built(request, true)?);
        exchange(sent, begin).await
    }
}

/// One HTTP/1.1 request over anything.
pub async fn send_http1<Io>(io: Io, request: &Request) -> Result<Response>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begin = Instant::now();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    exchange(sender.send_request(built(request, false)?), begin).await
}

fn built(request: &Request, http2: bool) -> Result<http::Request<Full<Bytes>>> {
    let named = |name: &str| {
        let mut named = request.headers.iter().filter(|(own, _)| own == name);
        named.next().map(|(_, value)| value.as_str())
    };
    let host = named("host").context("a host")?;
    let target = match http2 {
        true => format!("http://{host}{}", request.target),
        false => request.target.clone(),
    };
    let mut built = http::Request::builder()
        .method(request.method.as_str())
        .uri(target);
    for (name, value) in &request.headers {
        // HTTP/2 says it as the authority.
        if !(http2 && name == "host") {
            built = built.header(name, value);
        }
    }
    Ok(built.body(Full::new(Bytes::from(request.body.clone())))?)
}

async fn exchange(
    sent: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
    begin: Instant,
) -> Result<Response> {
    let mut response = Response {
        status: 0,
        headers: Vec::new(),
        body: String::new(),
        whole: false,
        took: Duration::ZERO,
    };
    let received = async {
        let Ok(answer) = sent.await else { return };
        response.status = answer.status().as_u16();
        let listed = |headers: &http::HeaderMap, before: &str| -> Vec<(String, String)> {
            let pairs = headers.iter().map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (format!("{before}{name}"), value)
            });
            pairs.collect()
        };
        response.headers = listed(answer.headers(), "");
        if let Ok(body) = answer.into_body().collect().await {
            if let Some(trailers) = body.trailers() {
                response.headers.extend(listed(trailers, "trailer "));
            }
            response.body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            response.whole = true;
        }
    };
    tokio::time::timeout(PATIENCE, received)
        .await
        .context("no answer in time")?;
    response.took = begin.elapsed();
    Ok(response)
}
