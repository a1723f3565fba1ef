//! Exec and attach.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::outgoing::Outgoing;
use crate::sessions::Sessions;
use crate::status::StatusForm;
use crate::upgrade::{
    self, Transport, accept_spdy, accept_websocket, negotiate, refuse_protocol, words,
};
use crate::{
    BackendError, Body, ExecBackend, Process, Reader, StreamOptions, TerminalSize, Writer, spdy,
    websocket,
};

/// Read from the process at once; kubectl copies in pieces of this size too.
const CHUNK_BYTES: usize = 32 * 1024;

/// A process has ended, but something it left behind holds its output open:
/// how long to wait for more of it.
const OUTPUT_IDLE_AFTER_EXIT: Duration = Duration::from_secs(2);

/// How long the client's streams may take to arrive, as in the kubelet.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Terminal sizes are a few bytes of JSON: a longer one is none.
const MAX_RESIZE_BYTES: usize = 4096;

const SPDY_PROTOCOLS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "",
];

/// A session's streams, whatever carries them.
pub(crate) struct Channels {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub resize: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<Outgoing>,
    pub stderr: Option<Outgoing>,
    pub error: Option<Outgoing>,
    pub form: StatusForm,
    /// Cancelled when the client is gone.
    pub gone: CancellationToken,
}

/// Answers an exec or attach request: the upgrade's response, and a session
/// owned by `sessions` that starts `backend` once the client's streams are
/// there. Anything but a well-formed upgrade is refused.
pub fn serve_exec<B, E: ExecBackend>(
    mut request: Request<B>,
    options: StreamOptions,
    backend: E,
    sessions: &Sessions,
) -> Response<Body> {
    let transport = match upgrade::transport(request.headers()) {
        Ok(transport) => transport,
        Err(refusal) => return refusal,
    };
    if !sessions.has_room() {
        return upgrade::too_many();
    }
    match transport {
        Transport::WebSocket => {
            let offered: Vec<&str> = words(request.headers(), &SEC_WEBSOCKET_PROTOCOL).collect();
            let Some(protocol) = negotiate(&offered, websocket::EXEC_PROTOCOLS) else {
                return refuse_protocol(transport, &offered, websocket::EXEC_PROTOCOLS);
            };
            let response = match accept_websocket(request.headers(), protocol) {
                Ok(response) => response,
                Err(refusal) => return refusal,
            };
            let upgraded = hyper::upgrade::on(&mut request);
            sessions.spawn(async move {
                match upgraded.await {
                    Ok(io) => {
                        websocket::serve_exec(TokioIo::new(io), protocol, options, backend).await
                    }
                    Err(error) => tracing::debug!(%error, "an exec connection was not upgraded"),
                }
            });
            response
        }
        Transport::Spdy => {
            let offered: Vec<&str> = words(request.headers(), &upgrade::STREAM_PROTOCOL).collect();
            let Some(protocol) = negotiate(&offered, SPDY_PROTOCOLS) else {
                return refuse_protocol(transport, &offered, SPDY_PROTOCOLS);
            };
            let upgraded = hyper::upgrade::on(&mut request);
            sessions.spawn(async move {
                match upgraded.await {
                    Ok(io) => serve_spdy(TokioIo::new(io), protocol, options, backend).await,
                    Err(error) => tracing::debug!(%error, "an exec connection was not upgraded"),
                }
            });
            accept_spdy(protocol)
        }
    }
}

async fn serve_spdy<Io, E>(io: Io, protocol: &str, options: StreamOptions, backend: E)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    E: ExecBackend,
{
    let form = if protocol == "v4.channel.k8s.io" {
        StatusForm::Json
    } else {
        StatusForm::Text
    };
    // Terminal sizes came with version 3.
    let resizes = options.tty && !matches!(protocol, "" | "channel.k8s.io" | "v2.channel.k8s.io");
    let (connection, driver) = spdy::Connection::serve(io);
    let session = async move {
        let mut connection = connection;
        match timeout(
            STREAM_CREATION_TIMEOUT,
            collect_streams(&mut connection, options, resizes, form),
        )
        .await
        {
            Ok(Some(channels)) => {
                // Streams nobody asked for are refused while it runs.
                let refuse = async {
                    while let Some(stream) = connection.accept().await {
                        stream.sender.reset().await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = run(channels, options, backend) => {}
                    () = refuse => {}
                }
            }
            Ok(None) => {}
            Err(_) => tracing::debug!("an exec client did not open its streams in time"),
        }
        connection.close().await;
    };
    tokio::join!(session, driver);
}

async fn collect_streams(
    connection: &mut spdy::Connection,
    options: StreamOptions,
    resizes: bool,
    form: StatusForm,
) -> Option<Channels> {
    let mut channels = Channels {
        stdin: None,
        resize: None,
        stdout: None,
        stderr: None,
        error: None,
        form,
        gone: connection.gone(),
    };
    while channels.error.is_none()
        || options.stdin != channels.stdin.is_some()
        || options.stdout != channels.stdout.is_some()
        || options.stderr != channels.stderr.is_some()
        || resizes != channels.resize.is_some()
    {
        let stream = connection.accept().await?;
        let kind = stream.header("streamType").unwrap_or_default().to_owned();
        let out = |slot: &mut Option<Outgoing>, stream: &spdy::Stream| {
            *slot = Some(Outgoing::Spdy(stream.sender.clone()));
        };
        let sender = stream.sender.clone();
        match kind.as_str() {
            "error" => out(&mut channels.error, &stream),
            "stdin" if options.stdin => channels.stdin = Some(stream.data),
            "stdout" if options.stdout => out(&mut channels.stdout, &stream),
            "stderr" if options.stderr => out(&mut channels.stderr, &stream),
            "resize" if resizes => channels.resize = Some(stream.data),
            _ => {
                sender.reset().await;
                continue;
            }
        }
        sender.reply().await;
    }
    Some(channels)
}

/// Runs the process between the streams; returns when the outcome has been
/// sent or the client is gone.
pub(crate) async fn run<E: ExecBackend>(
    mut channels: Channels,
    options: StreamOptions,
    backend: E,
) {
    let gone = channels.gone.clone();
    let error = channels.error.take();
    let (stdin, resize) = (channels.stdin.take(), channels.resize.take());
    let (stdout, stderr) = (channels.stdout.take(), channels.stderr.take());
    let outcome = async {
        let process = backend.start(options).await?;
        let Process {
            stdin: process_stdin,
            stdout: process_stdout,
            stderr: process_stderr,
            resize: sizes,
            exit,
        } = process;
        let progress = AtomicU64::new(0);
        let input = async {
            tokio::join!(pump_in(stdin, process_stdin), pump_sizes(resize, sizes));
            std::future::pending::<()>().await;
        };
        let output = async {
            tokio::join!(
                pump_out(process_stdout, stdout.as_ref(), &progress),
                pump_out(process_stderr, stderr.as_ref(), &progress)
            );
        };
        let ended = async {
            tokio::pin!(output);
            let mut exit = exit;
            let code = tokio::select! {
                code = &mut exit => code,
                () = &mut output => return exit.await,
            };
            loop {
                let before = progress.load(Ordering::Relaxed);
                match timeout(OUTPUT_IDLE_AFTER_EXIT, &mut output).await {
                    Ok(()) => break,
                    Err(_) if progress.load(Ordering::Relaxed) == before => break,
                    Err(_) => {}
                }
            }
            code
        };
        tokio::select! {
            code = ended => code,
            () = input => Err(BackendError("the input ended the session".to_owned())),
        }
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = gone.cancelled() => return,
    };
    for stream in [&stdout, &stderr].into_iter().flatten() {
        stream.finish().await;
    }
    if let Some(error) = error {
        let status = channels.form.write(&outcome);
        if !status.is_empty() {
            let _ = error.send(status).await;
        }
        error.finish().await;
    }
}

async fn pump_in(from: Option<mpsc::Receiver<Bytes>>, to: Option<Writer>) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    while let Some(data) = from.recv().await {
        let written = async {
            to.write_all(&data).await?;
            to.flush().await
        };
        if written.await.is_err() {
            // The process does not read any more; what still comes is dropped
            // with the receiver.
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn pump_sizes(from: Option<mpsc::Receiver<Bytes>>, to: Option<mpsc::Sender<TerminalSize>>) {
    let (Some(mut from), Some(to)) = (from, to) else {
        return;
    };
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(data) = from.recv().await {
        buffer.extend_from_slice(&data);
        let mut sizes = serde_json::Deserializer::from_slice(&buffer).into_iter::<TerminalSize>();
        let mut newest = None;
        let mut whole = 0;
        let mut broken = false;
        for size in sizes.by_ref() {
            match size {
                Ok(size) => newest = Some(size),
                Err(error) => {
                    broken = !error.is_eof();
                    break;
                }
            }
            whole += 1;
        }
        let read = if whole > 0 || broken {
            sizes.byte_offset()
        } else {
            0
        };
        if broken || buffer.len() - read > MAX_RESIZE_BYTES {
            buffer.clear();
        } else {
            buffer.drain(..read);
        }
        if let Some(size) = newest {
            // A full queue holds newer sizes than the terminal has seen; the
            // next one corrects it.
            let _ = to.try_send(size);
        }
    }
}

async fn pump_out(from: Option<Reader>, to: Option<&Outgoing>, progress: &AtomicU64) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match (&mut from)
            .take(CHUNK_BYTES as u64)
            .read_buf(&mut buffer)
            .await
        {
            // A terminal's end reads as an error (EIO).
            Ok(0) | Err(_) => return,
            Ok(read) => progress.fetch_add(read as u64, Ordering::Relaxed),
        };
        let data = buffer.split().freeze();
        if let Some(to) = to
            && to.send(data).await.is_err()
        {
            return;
        }
        progress.fetch_add(1, Ordering::Relaxed);
    }
}
