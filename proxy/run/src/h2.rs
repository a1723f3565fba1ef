//! HTTP/2, both sides, on hyper: its windows, its flood limits, and our executor, which keeps everything on the worker.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, Response};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use trireme_proxy_decide::config::Http2Options;

use crate::body::Body;
use crate::drain::Drain;
use crate::h1::head::MAX_HEAD_BYTES;
use crate::net::{Local, Stream};

/// Streams at a time on one connection: ours to allow. Envoy allows 2^31−1, which is how rapid resets became an
/// attack; its own edge guide says 100.
pub const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// Streams that were reset before we looked at them (CVE-2023-44487), before the connection is closed.
const MAX_PENDING_RESETS: usize = 32;
/// Streams that we reset because the client broke the rules, before the connection is closed.
const MAX_LOCAL_RESETS: usize = 256;
/// Per stream; Envoy's edge guide has the same.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Per connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Unsent data of one stream that waits for the client.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long a ping may go unanswered where the configuration only says how often to ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs hyper's tasks on this worker.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl<F> Executor<F> for Here
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A connection of which the first bytes were read already.
pub struct Prefixed {
    prefix: BytesMut,
    io: Stream,
}

impl Prefixed {
    /// Puts the bytes back in front.
    #[must_use]
    pub fn new(io: Stream, prefix: BytesMut) -> Self {
        Self { prefix, io }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let take = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(take));
        if self.prefix.is_empty() {
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

struct Handler<H>(H);

impl<H> hyper::service::Service<Request<hyper::body::Incoming>> for Handler<H>
where
    H: Fn(Request<Body>) -> Local<'static, Response<Body>>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Local<'static, Result<Response<Body>, std::convert::Infallible>>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let request = request.map(|body| {
            if hyper::body::Body::is_end_stream(&body) {
                Body::Empty
            } else {
                Body::Stream(body)
            }
        });
        let answer = (self.0)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// How a connection is served.
pub struct ServerOptions {
    /// The listener's options.
    pub http2: Http2Options,
    /// A connection without streams is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// Says when to ask clients to go.
    pub drain: Drain,
    /// Streams under way, which the handler counts: a connection without any may idle out.
    pub active: Rc<Activity>,
    /// Bytes of request headers.
    pub max_header_bytes: u32,
}

/// What happens on one connection.
#[derive(Debug, Default)]
pub struct Activity {
    streams: Cell<u32>,
    since: Cell<Option<Instant>>,
}

impl Activity {
    /// A stream begins; it ends when the guard is dropped.
    #[must_use]
    pub fn stream(self: &Rc<Self>) -> Active {
        self.streams.set(self.streams.get() + 1);
        Active(self.clone())
    }
}

/// A stream under way.
pub struct Active(Rc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.since.set(Some(Instant::now()));
    }
}

async fn idle(activity: &Activity, timeout: Option<Duration>) {
    let Some(timeout) = timeout else {
        return std::future::pending().await;
    };
    let mut at = Instant::now() + timeout;
    loop {
        tokio::time::sleep_until(at).await;
        let now = Instant::now();
        at = if activity.streams.get() > 0 {
            now + timeout
        } else {
            let end = activity.since.get().map_or(now, |since| since + timeout);
            if end <= now {
                return;
            }
            end
        };
    }
}

/// Serves one connection until it ends. Draining sends GOAWAY and lets streams finish.
///
/// # Errors
/// What broke the connection.
pub async fn serve<H>(io: Prefixed, options: ServerOptions, handler: H) -> Result<(), hyper::Error>
where
    H: Fn(Request<Body>) -> Local<'static, Response<Body>>,
{
    let mut builder = hyper::server::conn::http2::Builder::new(Here);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(
            options
                .http2
                .max_concurrent_streams
                .unwrap_or(MAX_CONCURRENT_STREAMS),
        )
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_header_list_size(options.max_header_bytes)
        .initial_stream_window_size(
            options
                .http2
                .initial_stream_window
                .unwrap_or(STREAM_WINDOW_BYTES),
        )
        .initial_connection_window_size(
            options
                .http2
                .initial_connection_window
                .unwrap_or(CONNECTION_WINDOW_BYTES),
        )
        .max_send_buf_size(SEND_BUFFER_BYTES);
    if let Some(interval) = options.http2.keepalive_interval {
        builder.keep_alive_interval(interval);
        builder.keep_alive_timeout(options.http2.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT));
    }
    if options.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), Handler(handler)));
    tokio::select! {
        biased;
        ended = &mut connection => return ended,
        () = options.drain.asked() => connection.as_mut().graceful_shutdown(),
        () = idle(&options.active, options.idle_timeout) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// A client's connection, to send requests on.
pub type Sender = hyper::client::conn::http2::SendRequest<Body>;

/// What drives a connection; it must be polled.
pub type ClientConnection = hyper::client::conn::http2::Connection<TokioIo<Prefixed>, Body, Here>;

/// Starts HTTP/2 towards an upstream. The connection must be spawned.
///
/// # Errors
/// When the handshake fails.
pub async fn connect(
    io: Stream,
    http2: &Http2Options,
) -> Result<(Sender, ClientConnection), hyper::Error> {
    let mut builder = hyper::client::conn::http2::Builder::new(Here);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(http2.initial_stream_window.unwrap_or(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(
            http2
                .initial_connection_window
                .unwrap_or(CONNECTION_WINDOW_BYTES),
        )
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if let Some(interval) = http2.keepalive_interval {
        builder.keep_alive_interval(interval);
        builder.keep_alive_timeout(http2.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT));
    }
    builder
        .handshake(TokioIo::new(Prefixed::new(io, BytesMut::new())))
        .await
}
