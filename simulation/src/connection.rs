//! HTTP/1.1 from a client's host to a server, over the simulated network.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use turmoil::net::TcpStream;

use crate::machine::name;
use crate::server::API_PORT;

/// Making a connection.
const DIAL: Duration = Duration::from_millis(300);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request never left.
    NotSent,
    /// It may have arrived.
    Lost,
}

#[derive(Default)]
pub struct Connection {
    open: Option<(u64, SendRequest<Full<Bytes>>)>,
}

async fn dial(server: u64) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect((name(server), API_PORT)).await.ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::task::spawn_local(async move { connection.await.ok() });
    Some(sender)
}

impl Connection {
    pub fn close(&mut self) {
        self.open = None;
    }

    async fn sender(&mut self, server: u64) -> Option<&mut SendRequest<Full<Bytes>>> {
        if let Some((to, sender)) = &self.open
            && (*to != server || sender.is_closed())
        {
            self.open = None;
        }
        if self.open.is_none() {
            let sender = tokio::time::timeout(DIAL, dial(server)).await.ok()??;
            self.open = Some((server, sender));
        }
        let (_, sender) = self.open.as_mut()?;
        sender.ready().await.ok()?;
        Some(sender)
    }

    /// The head of the answer; its body is still to come.
    pub async fn open(
        &mut self,
        server: u64,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let Some(sender) = self.sender(server).await else {
            self.close();
            return Err(Failure::NotSent);
        };
        match tokio::time::timeout(limit, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            _ => {
                self.close();
                Err(Failure::Lost)
            }
        }
    }

    /// The whole answer.
    pub async fn ask(
        &mut self,
        server: u64,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<(u16, Bytes), Failure> {
        let response = self.open(server, request, limit).await?;
        let code = response.status().as_u16();
        match tokio::time::timeout(limit, response.into_body().collect()).await {
            Ok(Ok(body)) => Ok((code, body.to_bytes())),
            _ => {
                self.close();
                Err(Failure::Lost)
            }
        }
    }
}

pub fn request(method: &str, path: &str, body: Option<&serde_json::Value>) -> Request<Full<Bytes>> {
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let mut request = Request::new(Full::new(body));
    // Methods and paths are ours; a malformed one would be answered as such.
    *request.method_mut() = method.parse().unwrap_or_default();
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert("host", http::HeaderValue::from_static("trireme"));
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert("accept", http::HeaderValue::from_static("application/json"));
    request
}
