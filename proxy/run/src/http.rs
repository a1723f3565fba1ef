//! A client's HTTP connection: which HTTP it speaks, its requests, and what is counted and logged of each.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tokio::time::Instant;
use trireme_proxy_decide::config::{Codec, HttpConnectionManager, TrafficDirection};
use trireme_proxy_decide::exchange::{Connection, Exchange, Protocol as Spoken};
use trireme_proxy_decide::flags::Flags;
use trireme_proxy_decide::head::RequestHead;

use crate::body::Body;
use crate::deadline::Deadline;
use crate::exchange::{PEER_METADATA, handle, head_of};
use crate::h1::server::{self, Ended};
use crate::h1::{Transport, head};
use crate::h2;
use crate::inspect;
use crate::listener::Downstream;
use crate::telemetry::istio::{Labels, Peer, Protocol, Reporter};
use crate::telemetry::stats::{HttpStat, HttpStats};
use crate::worker::Worker;

/// Timers that a connection keeps; more requests at a time than this are seldom on one.
const MAX_DEADLINES: usize = 16;

/// A client's connection, as its requests see it.
pub struct HttpConnection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Where it came from and where it was meant to go.
    pub downstream: Downstream,
    /// The same, as decisions see it.
    pub connection: Arc<Connection>,
    /// The most of a request's body that is kept.
    pub buffer_limit: usize,
    stats: Arc<HttpStats>,
    inbound: bool,
    /// Each request needs one; those of requests that are over serve the next.
    deadlines: RefCell<Vec<Deadline>>,
}

impl HttpConnection {
    pub(crate) fn take_deadline(&self) -> Deadline {
        self.deadlines.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn put_deadline(&self, deadline: Deadline) {
        let mut deadlines = self.deadlines.borrow_mut();
        if deadlines.len() < MAX_DEADLINES {
            deadlines.push(deadline);
        }
    }

    /// Counts a request that begins.
    pub(crate) fn began(&self) {
        self.stats.add(HttpStat::RequestTotal);
        self.stats.add(HttpStat::RequestActive);
        let http2 = self.connection.protocol == Spoken::Http2;
        self.stats.add(if http2 {
            HttpStat::RequestHttp2Total
        } else {
            HttpStat::RequestHttp1Total
        });
    }

    /// Whether requests are logged.
    pub(crate) fn logs(&self) -> bool {
        !self.connection.hcm.access_logs.is_empty()
    }

    /// What we tell the server's proxy of our workload: only inside the mesh.
    pub(crate) fn outbound_metadata(&self, exchange: &Exchange) -> Option<HeaderValue> {
        if self.inbound {
            return None;
        }
        exchange.host()?.labels.workload.as_ref()?;
        self.worker.shared.peer_header.clone()
    }

    /// The client's workload, as its proxy tells; the header goes no further.
    pub(crate) fn inbound_peer(&self, headers: &mut HeaderMap) -> Option<Arc<Peer>> {
        let value = headers.remove(&PEER_METADATA)?;
        if !self.inbound {
            return None;
        }
        value.to_str().ok().map(|text| self.worker.peer(text))
    }

    /// Counts and logs a request that is over.
    pub(crate) fn finished(
        &self,
        exchange: &Exchange,
        source: Option<Arc<Peer>>,
        response: &HeaderMap,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let worker = &self.worker;
        let outcome = exchange.outcome(worker.now());
        self.stats.remove(HttpStat::RequestActive);
        self.stats.add(HttpStat::RequestCompleted);
        let code = outcome.status.unwrap_or(0);
        self.stats.codes().add(code);
        if outcome.flags.contains(Flags::NO_ROUTE_FOUND) {
            self.stats.add(HttpStat::NoRoute);
        }
        if outcome.flags.contains(Flags::NO_CLUSTER_FOUND) {
            self.stats.add(HttpStat::NoCluster);
        }
        if outcome
            .flags
            .contains(Flags::DOWNSTREAM_CONNECTION_TERMINATION)
        {
            self.stats.add(HttpStat::RequestReceivedReset);
        }
        let facts_of = exchange.cluster().map(|cluster| worker.facts(cluster));
        if let Some(facts) = &facts_of {
            facts.stats.codes().add(code);
            facts.stats.add_many(
                crate::telemetry::stats::ClusterStat::SentBytes,
                request_bytes,
            );
            facts.stats.add_many(
                crate::telemetry::stats::ClusterStat::ReceivedBytes,
                response_bytes,
            );
        }
        let own = || Some(worker.shared.peer.clone());
        let host = exchange
            .host()
            .and_then(|host| host.labels.workload.as_deref());
        let labels = Labels {
            reporter: if self.inbound {
                Reporter::Destination
            } else {
                Reporter::Source
            },
            source: if self.inbound { source } else { own() },
            destination: if self.inbound {
                own()
            } else {
                host.map(|text| worker.peer(text))
            },
            service: facts_of.and_then(|facts| facts.service),
            protocol: if exchange.is_grpc() {
                Protocol::Grpc
            } else {
                Protocol::Http
            },
            code,
            flags: outcome.flags,
            grpc_status: outcome
                .grpc_status
                .and_then(|status| u8::try_from(status).ok()),
        };
        worker
            .metrics
            .request(labels, outcome.duration, request_bytes, response_bytes);
        let logs = &self.connection.hcm.access_logs;
        if !logs.is_empty() {
            let mut facts = exchange.facts(Some(response));
            facts.bytes_received = request_bytes;
            facts.bytes_sent = response_bytes;
            facts.hostname = worker.shared.hostname.as_deref();
            worker.access_log.log(logs, &facts);
        }
    }
}

struct Gauge(Arc<HttpStats>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.remove(HttpStat::ConnectionActive);
    }
}

fn limited(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
}

/// Which HTTP the client speaks; none when it left without saying.
async fn speaks_http2(
    manager: &HttpConnectionManager,
    downstream: &Downstream,
    transport: &mut Transport,
    protocol: Option<&[u8]>,
) -> Option<bool> {
    match (manager.codec, protocol) {
        (Codec::Http1, _) => Some(false),
        (Codec::Http2, _) => Some(true),
        (Codec::Auto, Some(protocol)) => Some(protocol == b"h2"),
        (Codec::Auto, None) => {
            let waiting = async {
                match limited(manager.idle_timeout) {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                http2 = inspect::is_http2(transport) => http2.ok(),
                () = downstream.served.drain.closed() => None,
                () = waiting => None,
            }
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve(
    worker: &Rc<Worker>,
    downstream: Downstream,
    manager: &Arc<HttpConnectionManager>,
    mut transport: Transport,
    protocol: Option<Vec<u8>>,
) {
    let Some(http2) = speaks_http2(manager, &downstream, &mut transport, protocol.as_deref()).await
    else {
        return;
    };
    let stats = worker.shared.registry.http(&manager.stat_prefix);
    stats.add(HttpStat::ConnectionTotal);
    stats.add(HttpStat::ConnectionActive);
    if downstream.tls {
        stats.add(HttpStat::ConnectionSslTotal);
    }
    let _gauge = Gauge(stats.clone());
    let drain = downstream.served.drain.clone();
    let mut connection = Connection::new(
        manager.clone(),
        downstream.peer,
        downstream.destination,
        if http2 { Spoken::Http2 } else { Spoken::Http11 },
    );
    connection.original_destination = Some(downstream.destination);
    connection.tls = downstream.tls;
    connection.server_name = downstream.server_name.as_deref().map(Arc::from);
    connection.filter_chain = downstream.chain.clone();
    connection.id = downstream.id;
    let http = Rc::new(HttpConnection {
        worker: worker.clone(),
        inbound: downstream.served.listener.direction == TrafficDirection::Inbound,
        buffer_limit: usize::try_from(downstream.served.listener.buffer_limit_bytes)
            .unwrap_or(usize::MAX),
        downstream,
        connection: Arc::new(connection),
        stats: stats.clone(),
        deadlines: RefCell::default(),
    });
    let most = manager.max_connection_duration;
    let drain = match most {
        None => drain,
        // Asked to go at its age, not closed.
        Some(most) => {
            let aged = drain.child();
            let asked = aged.clone();
            tokio::task::spawn_local(async move {
                tokio::select! {
                    () = tokio::time::sleep(most) => asked.ask(),
                    () = asked.closed() => {}
                }
            });
            aged
        }
    };
    if http2 {
        stats.add(HttpStat::ConnectionHttp2Total);
        serve_http2(http, manager, transport, drain).await;
    } else {
        stats.add(HttpStat::ConnectionHttp1Total);
        serve_http1(http, manager, transport, drain).await;
    }
}

async fn serve_http1(
    http: Rc<HttpConnection>,
    manager: &Arc<HttpConnectionManager>,
    transport: Transport,
    drain: crate::drain::Drain,
) {
    let options = server::Options {
        idle_timeout: limited(manager.idle_timeout),
        tunnel_idle_timeout: limited(manager.stream_idle_timeout),
        max_requests: manager
            .max_requests_per_connection
            .filter(|most| *most > 0)
            .map(u64::from),
        drain,
        server_name: HeaderValue::from_str(&manager.server_name)
            .unwrap_or(HeaderValue::from_static("envoy")),
        limits: head::Limits {
            bytes: usize::try_from(manager.max_request_headers_bytes)
                .unwrap_or(head::MAX_HEAD_BYTES),
            headers: usize::try_from(manager.max_headers_count).unwrap_or(head::MAX_HEADERS),
            accept_http_10: manager.http1.accept_http_10,
        },
    };
    let begin = Instant::now();
    let ended = server::serve(transport, options, |request: Request<Body>| {
        let (parts, body) = request.into_parts();
        let head = head_of(parts, http.downstream.tls);
        handle(http.clone(), head, body)
    })
    .await;
    match ended {
        Ended::Refused(error) => refused(&http, &error, begin),
        Ended::TimedOut => http.stats.add(HttpStat::ConnectionIdleTimeout),
        _ => {}
    }
}

/// Counts and logs a request that was none.
fn refused(http: &HttpConnection, error: &head::HeadError, begin: Instant) {
    let status = error.status();
    http.stats.add(HttpStat::RequestTotal);
    http.stats.codes().add(status.as_u16());
    http.stats.add(HttpStat::ConnectionProtocolError);
    if status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        http.stats.add(HttpStat::RequestTooLarge);
    }
    let text = error.to_string();
    let facts = trireme_proxy_decide::format::StreamFacts {
        response_code: Some(status.as_u16()),
        response_code_details: Some(&text),
        flags: Flags::DOWNSTREAM_PROTOCOL_ERROR,
        protocol: Some("HTTP/1.1"),
        start_unix_nanos: http.worker.shared.unix_nanos(begin),
        duration: Some(begin.elapsed()),
        downstream_remote_address: Some(http.downstream.peer),
        downstream_direct_remote_address: Some(http.downstream.peer),
        downstream_local_address: Some(http.downstream.destination),
        connection_id: Some(http.downstream.id),
        ..trireme_proxy_decide::format::StreamFacts::default()
    };
    http.worker
        .access_log
        .log(&http.connection.hcm.access_logs, &facts);
}

async fn serve_http2(
    http: Rc<HttpConnection>,
    manager: &Arc<HttpConnectionManager>,
    transport: Transport,
    drain: crate::drain::Drain,
) {
    let http2 = manager.http2;
    let window = |size: Option<u32>, default| size.unwrap_or(default).min(i32::MAX.unsigned_abs());
    let serving = h2::server::Serving {
        options: h2::Options {
            max_streams: http2
                .max_concurrent_streams
                .unwrap_or(h2::MAX_CONCURRENT_STREAMS),
            stream_window: window(http2.initial_stream_window, h2::STREAM_WINDOW_BYTES),
            connection_window: window(http2.initial_connection_window, h2::CONNECTION_WINDOW_BYTES),
            connect_protocol: http2.allow_connect,
            limits: h2::Limits {
                bytes: usize::try_from(manager.max_request_headers_bytes)
                    .unwrap_or(head::MAX_HEAD_BYTES),
                headers: usize::try_from(manager.max_headers_count).unwrap_or(head::MAX_HEADERS),
            },
        },
        idle_timeout: limited(manager.idle_timeout),
        keepalive_interval: http2.keepalive_interval,
        keepalive_timeout: http2.keepalive_timeout.unwrap_or(h2::KEEPALIVE_TIMEOUT),
        drain: drain.clone(),
    };
    let handler = |request: h2::Request, body| {
        let head = RequestHead {
            method: request.method,
            https: http.downstream.tls,
            authority: request.authority,
            path: request.path,
            headers: request.headers,
        };
        let reply = handle(http.clone(), head, body);
        async move { reply.await.response }
    };
    tokio::select! {
        ended = h2::server::serve(transport, serving, handler) => match ended {
            Ok(h2::server::Ended::Closed) => {}
            Ok(h2::server::Ended::TimedOut) => http.stats.add(HttpStat::ConnectionIdleTimeout),
            Err(error) => {
                if matches!(error, h2::Broken::Protocol(..)) {
                    http.stats.add(HttpStat::ConnectionProtocolError);
                }
                tracing::trace!(peer = %http.downstream.peer, %error, "HTTP/2");
            }
        },
        () = drain.closed() => {}
    }
}
