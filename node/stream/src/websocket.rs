//! Sessions over WebSocket.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use crate::exec::{Channels, run};
use crate::outgoing::Outgoing;
use crate::status::StatusForm;
use crate::{ExecBackend, StreamOptions};

/// In the order that says nothing: the client's order decides.
pub(crate) const EXEC_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the client closes the channel whose number follows.
const CLOSE: u8 = 255;

/// Messages towards the client that wait at once, of 32 KiB each at most.
const QUEUED_MESSAGES: usize = 16;
/// Pieces of input that wait for the process at once.
const QUEUED_INPUT: usize = 16;
/// One message of a client may be its whole input; more than this ends the
/// connection.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How long the client may take to answer our closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between the SPDY session and its WebSocket.
const TUNNEL_BYTES: usize = 64 * 1024;

fn configuration() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        // Terminal output has to leave at once.
        .write_buffer_size(0)
}

pub(crate) async fn serve_exec<Io, E>(io: Io, protocol: &str, options: StreamOptions, backend: E)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    E: ExecBackend,
{
    let base64 = protocol.contains("base64");
    let closes = protocol == "v5.channel.k8s.io";
    let form = if protocol.starts_with('v') {
        StatusForm::Json
    } else {
        StatusForm::Text
    };
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(configuration())).await;
    let (mut sink, mut source) = socket.split();
    let (messages, mut queued) = mpsc::channel::<Message>(QUEUED_MESSAGES);
    let (stdin_sender, stdin) = mpsc::channel(QUEUED_INPUT);
    let (resize_sender, resize) = mpsc::channel(QUEUED_INPUT);
    let gone = CancellationToken::new();
    let out = |number: u8| Outgoing::Channel {
        number,
        base64,
        messages: messages.clone(),
    };
    let channels = Channels {
        stdin: options.stdin.then_some(stdin),
        resize: options.tty.then_some(resize),
        stdout: options.stdout.then(|| out(STDOUT)),
        stderr: options.stderr.then(|| out(STDERR)),
        error: Some(out(ERROR)),
        form,
        gone: gone.clone(),
    };
    drop(messages);
    let writer_gone = gone.clone();
    let writer = async move {
        while let Some(message) = queued.recv().await {
            if sink.send(message).await.is_err() {
                writer_gone.cancel();
                return;
            }
        }
        // All senders are gone: the session is over.
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(frame))).await;
    };
    let mut inputs = [(STDIN, Some(stdin_sender)), (RESIZE, Some(resize_sender))];
    let reader = async move {
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break,
                _ => continue,
            };
            let Some((number, data)) = split_channel(data, base64) else {
                continue;
            };
            if number == CLOSE && closes {
                for (of, sender) in &mut inputs {
                    if data.first() == Some(of) {
                        *sender = None;
                    }
                }
                continue;
            }
            for (of, sender) in &mut inputs {
                if *of == number
                    && !data.is_empty()
                    && let Some(open) = sender
                    && open.send(data.clone()).await.is_err()
                {
                    *sender = None;
                }
            }
        }
        gone.cancel();
    };
    let session = async move {
        // Clients wait for a first message: it says that the streams are there.
        let first = [&channels.stdout, &channels.stderr, &channels.error]
            .into_iter()
            .flatten()
            .next();
        if let Some(first) = first {
            let _ = first.send(Bytes::new()).await;
        }
        run(channels, options, backend).await;
    };
    tokio::pin!(reader);
    let work = async { tokio::join!(session, writer) };
    tokio::pin!(work);
    tokio::select! {
        // The client is gone; the session notices by its token.
        () = &mut reader => { work.await; }
        _ = &mut work => {
            let _ = timeout(CLOSE_TIMEOUT, reader).await;
        }
    }
}

fn split_channel(mut data: Bytes, base64: bool) -> Option<(u8, Bytes)> {
    if data.is_empty() {
        return None;
    }
    let number = data.split_to(1)[0];
    if !base64 {
        return Some((number, data));
    }
    let number = number.checked_sub(b'0')?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(&data)
        .ok()?;
    Some((number, Bytes::from(decoded)))
}

/// A byte stream inside binary messages: the returned stream is the inner
/// one; the future carries it and ends with either side.
pub(crate) fn tunnel<Io>(io: Io) -> (DuplexStream, impl Future<Output = ()>)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (inner, outer) = tokio::io::duplex(TUNNEL_BYTES);
    let carry = async move {
        let socket =
            WebSocketStream::from_raw_socket(io, Role::Server, Some(configuration())).await;
        let (mut sink, mut source) = socket.split();
        let (mut from_inner, mut to_inner) = tokio::io::split(outer);
        let outward = async move {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                match from_inner.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => {
                        if sink
                            .send(Message::Binary(Bytes::copy_from_slice(&buffer[..read])))
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            }
            let frame = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            let _ = sink.send(Message::Close(Some(frame))).await;
        };
        let inward = async move {
            while let Some(Ok(message)) = source.next().await {
                let Message::Binary(data) = message else {
                    if message.is_close() {
                        break;
                    }
                    continue;
                };
                if to_inner.write_all(&data).await.is_err() {
                    break;
                }
            }
            let _ = to_inner.shutdown().await;
        };
        tokio::pin!(inward);
        tokio::select! {
            () = outward => { let _ = timeout(CLOSE_TIMEOUT, inward).await; }
            () = &mut inward => {}
        }
    };
    (inner, carry)
}
