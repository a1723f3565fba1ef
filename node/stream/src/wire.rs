//! The protocols without HTTP's upgrade before them, for tests that bring bytes of their own.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::spdy::Connection;
use crate::{ExecBackend, StreamOptions, spdy, websocket};

/// Serves SPDY until the client has gone; each stream gets back what it sends.
pub async fn spdy_echo<Io>(io: Io)
where
    Io: AsyncRead + AsyncWrite + Send,
{
    let (mut connection, driver) = Connection::serve(io);
    let echo = async move {
        let mut streams = Vec::new();
        while let Some(mut stream) = connection.accept().await {
            streams.push(tokio::spawn(async move {
                stream.sender.reply().await;
                while let Some(bytes) = stream.data.recv().await {
                    if stream.sender.send(bytes).await.is_err() {
                        return;
                    }
                }
                stream.sender.finish().await;
            }));
        }
        for stream in streams {
            let _ = stream.await;
        }
        connection.close().await;
    };
    tokio::join!(driver, echo);
}

/// Reads header blocks, one after the other of one compressed stream, up to the first that is refused; how many.
pub fn spdy_headers(blocks: &[&[u8]]) -> usize {
    spdy::read_headers(blocks)
}

/// Serves exec over a WebSocket whose handshake is done.
pub async fn exec_websocket<Io, E>(io: Io, protocol: &str, options: StreamOptions, backend: E)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    E: ExecBackend,
{
    websocket::serve_exec(io, protocol, options, backend).await;
}
