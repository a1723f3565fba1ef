//! Joining a running container's standard streams: the agent's side, and the
//! frames both sides speak over the shim's unix socket.
//!
//! A frame is one byte of kind, four bytes of big-endian length, and the data.

use std::os::fd::AsRawFd;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::ContainerError;
use crate::exec::{Reader, Terminal, TerminalKind, TerminalSize, Writer};
use crate::state::ATTACH_SOCKET;

pub(crate) const FRAME_STDIN: u8 = 0;
pub(crate) const FRAME_STDOUT: u8 = 1;
pub(crate) const FRAME_STDERR: u8 = 2;
/// The client closes stdin.
pub(crate) const FRAME_STDIN_CLOSE: u8 = 3;
/// Columns and rows, two big-endian bytes each.
pub(crate) const FRAME_RESIZE: u8 = 4;
pub(crate) const FRAME_HEADER_BYTES: usize = 5;
/// Longest data of one frame: one read of the shim's.
pub(crate) const FRAME_MAX_BYTES: usize = 64 * 1024;

/// Data in flight to a reader of this process before the socket is left full.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// Sizes waiting for the socket; the last one counts, so few are enough.
const RESIZE_QUEUE: usize = 4;

pub(crate) fn frame(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + data.len());
    bytes.push(kind);
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A client of a container's streams. Dropping it detaches.
pub struct AttachHandle {
    /// `None` where the container has no stdin. Shutting it down (or dropping
    /// it) tells the shim, which closes the container's stdin under
    /// `stdinOnce`.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    /// `None` under a terminal.
    pub stderr: Option<Reader>,
    pub terminal: Option<Terminal>,
    pumps: Vec<JoinHandle<()>>,
}

impl Drop for AttachHandle {
    fn drop(&mut self) {
        for pump in &self.pumps {
            pump.abort();
        }
    }
}

/// Connects to a unix socket whose path may be longer than an address holds.
pub(crate) async fn connect(directory: &Path) -> Result<UnixStream, ContainerError> {
    let path = directory.join(ATTACH_SOCKET);
    let handle =
        std::fs::File::open(directory).map_err(|e| ContainerError::io("open", directory, e))?;
    let short = format!("/proc/self/fd/{}/{ATTACH_SOCKET}", handle.as_raw_fd());
    UnixStream::connect(short)
        .await
        .map_err(|e| ContainerError::io("connect to", path, e))
}

pub(crate) async fn attach(
    directory: &Path,
    stdin: bool,
    tty: bool,
) -> Result<AttachHandle, ContainerError> {
    let (reader, writer) = connect(directory).await?.into_split();
    let (stdin_near, stdin_far) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (stdout_near, stdout_far) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (stderr_near, stderr_far) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (resize_sender, resize_receiver) = mpsc::channel(RESIZE_QUEUE);
    let pumps = vec![
        tokio::spawn(pump_output(reader, stdout_far, stderr_far)),
        tokio::spawn(pump_input(
            writer,
            stdin.then_some(stdin_far),
            resize_receiver,
        )),
    ];
    Ok(AttachHandle {
        stdin: stdin.then(|| Box::new(stdin_near) as Writer),
        stdout: Some(Box::new(stdout_near)),
        stderr: (!tty).then(|| Box::new(stderr_near) as Reader),
        terminal: tty.then_some(Terminal(TerminalKind::Attached(resize_sender))),
        pumps,
    })
}

async fn pump_output(
    mut socket: tokio::net::unix::OwnedReadHalf,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
) {
    let mut header = [0u8; FRAME_HEADER_BYTES];
    let mut data = Vec::new();
    while socket.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > FRAME_MAX_BYTES {
            return;
        }
        data.resize(length, 0);
        if socket.read_exact(&mut data).await.is_err() {
            return;
        }
        // A reader that has gone loses its data, not the other stream's.
        let _ = match header[0] {
            FRAME_STDOUT => stdout.write_all(&data).await,
            FRAME_STDERR => stderr.write_all(&data).await,
            _ => Ok(()),
        };
    }
}

async fn pump_input(
    mut socket: tokio::net::unix::OwnedWriteHalf,
    mut stdin: Option<DuplexStream>,
    mut sizes: mpsc::Receiver<TerminalSize>,
) {
    let mut buffer = vec![0u8; FRAME_MAX_BYTES / 4];
    let mut resizable = true;
    while stdin.is_some() || resizable {
        let input = async {
            match &mut stdin {
                Some(stream) => stream.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        let bytes = tokio::select! {
            size = sizes.recv(), if resizable => match size {
                Some(size) => {
                    let mut data = size.columns.to_be_bytes().to_vec();
                    data.extend_from_slice(&size.rows.to_be_bytes());
                    frame(FRAME_RESIZE, &data)
                }
                None => {
                    resizable = false;
                    continue;
                }
            },
            count = input => match count {
                Ok(count) if count > 0 => frame(FRAME_STDIN, &buffer[..count]),
                _ => {
                    stdin = None;
                    frame(FRAME_STDIN_CLOSE, &[])
                }
            },
        };
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The shim takes a closed connection for a client that has detached, so
    // the socket stays open as long as the handle does.
    std::future::pending::<()>().await;
}
