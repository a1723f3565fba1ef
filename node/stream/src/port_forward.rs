//! Port-forward: pairs of SPDY streams, one for data and one for an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::sessions::Sessions;
use crate::upgrade::{
    self, Transport, accept_spdy, accept_websocket, negotiate, refuse_protocol, words,
};
use crate::{Body, PortForwardBackend, spdy, websocket};

const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
const TUNNEL_PROTOCOLS: &[&str] = &["SPDY/3.1+portforward.k8s.io"];

/// How long one stream of a pair waits for the other, as in the kubelet.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs half made at once; a client makes its pairs one after another.
const MAX_UNPAIRED: usize = 64;
const CHUNK_BYTES: usize = 32 * 1024;

/// What error messages name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortForwardOptions {
    /// The pod's name and namespace, as `name_namespace`.
    pub pod: String,
    pub uid: String,
}

/// Answers a port-forward request: the upgrade's response, and a session owned
/// by `sessions` in which the client opens as many connections as it likes.
pub fn serve_port_forward<B, P: PortForwardBackend>(
    mut request: Request<B>,
    options: PortForwardOptions,
    backend: P,
    sessions: &Sessions,
) -> Response<Body> {
    let transport = match upgrade::transport(request.headers()) {
        Ok(transport) => transport,
        Err(refusal) => return refusal,
    };
    if !sessions.has_room() {
        return upgrade::too_many();
    }
    let (header, known) = match transport {
        Transport::WebSocket => (SEC_WEBSOCKET_PROTOCOL, TUNNEL_PROTOCOLS),
        Transport::Spdy => (upgrade::STREAM_PROTOCOL, SPDY_PROTOCOLS),
    };
    let offered: Vec<&str> = words(request.headers(), &header).collect();
    // Clients of SPDY may leave the version out.
    let negotiated = match (transport, offered.is_empty()) {
        (Transport::Spdy, true) => Some(SPDY_PROTOCOLS[0]),
        _ => negotiate(&offered, known),
    };
    let Some(protocol) = negotiated else {
        return refuse_protocol(transport, &offered, known);
    };
    let response = match transport {
        Transport::WebSocket => match accept_websocket(request.headers(), protocol) {
            Ok(response) => response,
            Err(refusal) => return refusal,
        },
        Transport::Spdy => accept_spdy(protocol),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    sessions.spawn(async move {
        let io = match upgraded.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                tracing::debug!(%error, "a port-forward connection was not upgraded");
                return;
            }
        };
        match transport {
            Transport::Spdy => serve(io, options, backend).await,
            Transport::WebSocket => {
                let (inner, carry) = websocket::tunnel(io);
                tokio::join!(serve(inner, options, backend), carry);
            }
        }
    });
    response
}

async fn serve<Io, P>(io: Io, options: PortForwardOptions, backend: P)
where
    Io: AsyncRead + AsyncWrite + Send + 'static,
    P: PortForwardBackend,
{
    let (mut connection, driver) = spdy::Connection::serve(io);
    let session = async move {
        let backend = Arc::new(backend);
        let options = Arc::new(options);
        // Owns the forwarded connections: they end with the session.
        let mut forwards = JoinSet::new();
        let mut unpaired = Unpaired::default();
        loop {
            let next = async {
                match unpaired.deadline() {
                    Some(deadline) => timeout_at(deadline, connection.accept()).await,
                    None => Ok(connection.accept().await),
                }
            };
            let stream = match next.await {
                Ok(Some(stream)) => stream,
                Ok(None) => break,
                Err(_) => {
                    for stream in unpaired.expire() {
                        stream.sender.reset().await;
                    }
                    continue;
                }
            };
            while forwards.try_join_next().is_some() {}
            let sender = stream.sender.clone();
            match unpaired.add(stream) {
                Added::Waiting => sender.reply().await,
                Added::Pair(pair) => {
                    sender.reply().await;
                    let (backend, options) = (backend.clone(), options.clone());
                    forwards.spawn(async move { forward(pair, &*backend, &options).await });
                }
                Added::Refused(why) => {
                    tracing::debug!(why, "a port-forward stream was refused");
                    sender.reset().await;
                }
            }
        }
        forwards.shutdown().await;
        connection.close().await;
    };
    tokio::join!(session, driver);
}

struct Pair {
    port: u16,
    data: spdy::Stream,
    error: spdy::Stream,
}

#[derive(Default)]
struct Unpaired {
    /// Request → port, since when, data stream, error stream.
    waiting: BTreeMap<String, (u16, Instant, Option<spdy::Stream>, Option<spdy::Stream>)>,
}

enum Added {
    Waiting,
    Pair(Pair),
    Refused(&'static str),
}

impl Unpaired {
    fn add(&mut self, stream: spdy::Stream) -> Added {
        let kind = stream.header("streamType").unwrap_or_default().to_owned();
        if kind != "data" && kind != "error" {
            return Added::Refused("the header streamType is neither data nor error");
        }
        let Some(port) = stream
            .header("port")
            .and_then(|port| port.parse::<u16>().ok())
            .filter(|port| *port > 0)
        else {
            return Added::Refused("the header port is missing or no port");
        };
        // Old clients send no identifier: their data stream follows its error
        // stream, two numbers later.
        let request = match stream.header("requestID") {
            Some(request) => request.to_owned(),
            None if kind == "error" => stream.id().to_string(),
            None => stream.id().saturating_sub(2).to_string(),
        };
        if !self.waiting.contains_key(&request) && self.waiting.len() >= MAX_UNPAIRED {
            return Added::Refused("too many streams wait for their pair");
        }
        let (_, _, data, error) = self
            .waiting
            .entry(request.clone())
            .or_insert_with(|| (port, Instant::now(), None, None));
        let slot = if kind == "data" { data } else { error };
        if slot.is_some() {
            return Added::Refused("the request has a stream of that type already");
        }
        *slot = Some(stream);
        match self.waiting.remove(&request) {
            Some((port, _, Some(data), Some(error))) => Added::Pair(Pair { port, data, error }),
            Some(half) => {
                self.waiting.insert(request, half);
                Added::Waiting
            }
            None => Added::Waiting,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting
            .values()
            .map(|(_, since, ..)| *since + PAIR_TIMEOUT)
            .min()
    }

    fn expire(&mut self) -> Vec<spdy::Stream> {
        let now = Instant::now();
        let late: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, (_, since, ..))| *since + PAIR_TIMEOUT <= now)
            .map(|(request, _)| request.clone())
            .collect();
        late.into_iter()
            .filter_map(|request| self.waiting.remove(&request))
            .flat_map(|(_, _, data, error)| [data, error])
            .flatten()
            .collect()
    }
}

async fn forward<P: PortForwardBackend>(pair: Pair, backend: &P, options: &PortForwardOptions) {
    let Pair {
        port,
        mut data,
        error,
    } = pair;
    let failed = match backend.connect(port).await {
        Ok(stream) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(stream);
            let inward = async {
                while let Some(bytes) = data.data.recv().await {
                    to_pod.write_all(&bytes).await?;
                }
                to_pod.shutdown().await
            };
            let sender = data.sender.clone();
            let outward = async {
                let mut buffer = BytesMut::new();
                loop {
                    buffer.reserve(CHUNK_BYTES);
                    if (&mut from_pod)
                        .take(CHUNK_BYTES as u64)
                        .read_buf(&mut buffer)
                        .await?
                        == 0
                    {
                        break;
                    }
                    if sender.send(buffer.split().freeze()).await.is_err() {
                        break;
                    }
                }
                sender.finish().await;
                std::io::Result::Ok(())
            };
            tokio::pin!(inward, outward);
            // The pod's end ends it; the client's half close does not.
            let result = tokio::select! {
                result = &mut outward => result,
                result = &mut inward => match result {
                    Ok(()) => outward.await,
                    Err(error) => Err(error),
                },
            };
            result.err().map(|error| error.to_string())
        }
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = failed {
        let message = format!(
            "error forwarding port {port} to pod {}, uid {}: {why}",
            options.pod, options.uid
        );
        let _ = error.sender.send(Bytes::from(message)).await;
    }
    error.sender.finish().await;
    data.sender.finish().await;
}
