//! A connection: one loop that reads frames, one that writes them.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::frame::{
    FLAG_FIN, Frame, FrameHeader, GOAWAY, HEADER_BYTES, PING, PROTOCOL_ERROR, REFUSED_STREAM,
    RST_STREAM, SETTINGS, SYN_STREAM, WINDOW_UPDATE, is_supported, read_header,
};
use super::header::{Decoder, Encoder};
use super::stream::{INITIAL_WINDOW_BYTES, Outlet, Stream, StreamSender, Window};

/// Streams at once: port-forward takes two a connection, browsers behind it
/// rarely more than a few dozen.
const MAX_STREAMS: usize = 512;
/// Control frames carry headers of at most a few hundred bytes.
const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// Data frames may be 16 MiB: they are handed on in pieces of this size.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces of one stream that wait for their reader. When they are used up the
/// whole connection waits: the protocol, as it is spoken, has no other way.
const QUEUED_PIECES: usize = 16;
/// Frames that wait to be written.
const QUEUED_FRAMES: usize = 16;
/// Streams that wait to be accepted.
const QUEUED_STREAMS: usize = 16;
/// How long the peer may take to close after we have.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

const SETTINGS_INITIAL_WINDOW: u32 = 7;

struct Entry {
    /// `None` when the client has closed its half.
    data: Option<mpsc::Sender<Bytes>>,
    window: Arc<Window>,
    reset: CancellationToken,
    /// We have closed ours.
    finished: bool,
}

type Streams = Arc<Mutex<BTreeMap<u32, Entry>>>;

fn lock(streams: &Streams) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
    // Nothing that holds it can panic between two changes.
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server's end of a connection.
pub(crate) struct Connection {
    accepted: mpsc::Receiver<Stream>,
    outlet: Arc<Outlet>,
}

impl Connection {
    /// The connection, and the future that drives it; that one ends when both
    /// sides have closed.
    pub fn serve<Io>(io: Io) -> (Connection, impl Future<Output = ()>)
    where
        Io: AsyncRead + AsyncWrite + Send,
    {
        let (frames, queued) = mpsc::channel(QUEUED_FRAMES);
        let (accept, accepted) = mpsc::channel(QUEUED_STREAMS);
        let gone = CancellationToken::new();
        let outlet = Arc::new(Outlet {
            frames,
            window: Window::new(INITIAL_WINDOW_BYTES),
            heeded: false.into(),
            gone: gone.clone(),
        });
        let streams = Streams::default();
        let reading = Reading {
            streams: streams.clone(),
            outlet: outlet.clone(),
            accept,
            headers: Decoder::new(),
            initial_window: INITIAL_WINDOW_BYTES,
            last_stream: 0,
        };
        let driver = async move {
            let (input, output) = tokio::io::split(io);
            let reader = async {
                let result = reading.run(input).await;
                // Whoever sends, waits or reads learns that nobody is there.
                gone.cancel();
                for entry in lock(&streams).values_mut() {
                    entry.data = None;
                    entry.reset.cancel();
                    entry.window.wake();
                }
                if let Err(error) = result {
                    tracing::debug!(%error, "a SPDY connection ended");
                }
            };
            let writer = write_frames(output, queued, &streams, &gone);
            tokio::pin!(reader);
            tokio::pin!(writer);
            tokio::select! {
                () = &mut reader => { let _ = timeout(CLOSE_TIMEOUT, writer).await; }
                () = &mut writer => { let _ = timeout(CLOSE_TIMEOUT, reader).await; }
            }
        };
        (Connection { accepted, outlet }, driver)
    }

    /// The next stream the client opens; `None` when it is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Cancelled when the client is gone.
    pub fn gone(&self) -> CancellationToken {
        self.outlet.gone.clone()
    }

    /// Says goodbye after everything that was sent before.
    pub async fn close(self) {
        let frame = Frame::GoAway {
            last_stream: 0,
            code: 0,
        };
        tokio::select! {
            _ = self.outlet.frames.send(frame) => {}
            () = self.outlet.gone.cancelled() => {}
        }
    }
}

async fn write_frames(
    mut output: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<Frame>,
    streams: &Streams,
    gone: &CancellationToken,
) {
    let result: io::Result<()> = async {
        let mut headers = Encoder::new().map_err(io::Error::other)?;
        let mut out = BytesMut::new();
        loop {
            let frame = tokio::select! {
                frame = queued.recv() => frame,
                () = gone.cancelled() => None,
            };
            let Some(frame) = frame else { break };
            let block = match frame {
                Frame::Reply { .. } => headers.encode(&[]).map_err(io::Error::other)?,
                _ => Vec::new(),
            };
            frame.write(&mut out, &block);
            match &frame {
                Frame::Data {
                    stream, last: true, ..
                } => {
                    let mut streams = lock(streams);
                    if let Some(entry) = streams.get_mut(stream) {
                        entry.finished = true;
                        if entry.data.is_none() {
                            streams.remove(stream);
                        }
                    }
                }
                Frame::Reset { stream, .. } => {
                    lock(streams).remove(stream);
                }
                _ => {}
            }
            output.write_all(&out).await?;
            out.clear();
            if queued.is_empty() {
                output.flush().await?;
            }
            if matches!(frame, Frame::GoAway { .. }) {
                break;
            }
        }
        output.flush().await?;
        output.shutdown().await
    }
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "a SPDY connection could not be written to");
        gone.cancel();
    }
}

struct Reading {
    streams: Streams,
    outlet: Arc<Outlet>,
    accept: mpsc::Sender<Stream>,
    headers: Decoder,
    initial_window: i64,
    last_stream: u32,
}

impl Reading {
    async fn run(mut self, mut input: impl AsyncRead + Unpin) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER_BYTES];
            match input.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            match read_header(header) {
                FrameHeader::Data {
                    stream,
                    flags,
                    length,
                } => self.data(&mut input, stream, flags, length).await?,
                FrameHeader::Control {
                    version,
                    kind,
                    flags,
                    length,
                } => {
                    if length > MAX_CONTROL_BYTES || !is_supported(version) {
                        return self
                            .fail("a control frame is too long or not of SPDY/3")
                            .await;
                    }
                    let mut body = vec![0; length];
                    input.read_exact(&mut body).await?;
                    if kind == GOAWAY {
                        // The client opens no more streams; those there go on.
                        continue;
                    }
                    if let Err(why) = self.control(kind, flags, &body).await {
                        return self.fail(&why).await;
                    }
                }
            }
        }
    }

    async fn fail(&self, why: &str) -> io::Result<()> {
        self.put(Frame::GoAway {
            last_stream: self.last_stream,
            code: PROTOCOL_ERROR,
        })
        .await;
        Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()))
    }

    async fn put(&self, frame: Frame) {
        let _ = self.outlet.frames.send(frame).await;
    }

    async fn data(
        &mut self,
        input: &mut (impl AsyncRead + Unpin),
        stream: u32,
        flags: u8,
        length: usize,
    ) -> io::Result<()> {
        let sender = lock(&self.streams)
            .get(&stream)
            .and_then(|entry| entry.data.clone());
        let mut left = length;
        while left > 0 {
            let mut piece = BytesMut::zeroed(left.min(PIECE_BYTES));
            input.read_exact(&mut piece).await?;
            left -= piece.len();
            let bytes = piece.len() as u32;
            if let Some(sender) = &sender {
                // Fails when its reader has had enough: dropped, as if read.
                let _ = sender.send(piece.freeze()).await;
                self.put(Frame::WindowUpdate { stream, bytes }).await;
            }
            self.put(Frame::WindowUpdate { stream: 0, bytes }).await;
        }
        if flags & FLAG_FIN != 0 {
            self.half_closed(stream);
        }
        Ok(())
    }

    fn half_closed(&self, stream: u32) {
        let mut streams = lock(&self.streams);
        if let Some(entry) = streams.get_mut(&stream) {
            entry.data = None;
            if entry.finished {
                streams.remove(&stream);
            }
        }
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<(), String> {
        let number = |at: usize| -> Result<u32, String> {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes
                .map(u32::from_be_bytes)
                .ok_or_else(|| format!("a control frame of type {kind} is cut short"))
        };
        match kind {
            SYN_STREAM => {
                let stream = number(0)? & 0x7fff_ffff;
                let block = body.get(10..).ok_or("a SYN_STREAM frame is cut short")?;
                // Decoded whether accepted or not: all blocks are one stream.
                let headers = self
                    .headers
                    .decode(block)
                    .map_err(|error| error.to_string())?;
                if stream.is_multiple_of(2) || stream <= self.last_stream {
                    return Err(format!("stream {stream} is not a new one of the client's"));
                }
                self.last_stream = stream;
                if lock(&self.streams).len() >= MAX_STREAMS {
                    self.put(Frame::Reset {
                        stream,
                        code: REFUSED_STREAM,
                    })
                    .await;
                    return Ok(());
                }
                let (sender, data) = mpsc::channel(QUEUED_PIECES);
                let window = Arc::new(Window::new(self.initial_window));
                let reset = CancellationToken::new();
                let open = flags & FLAG_FIN == 0;
                let entry = Entry {
                    data: open.then_some(sender),
                    window: window.clone(),
                    reset: reset.clone(),
                    finished: false,
                };
                lock(&self.streams).insert(stream, entry);
                let sender = StreamSender {
                    id: stream,
                    outlet: self.outlet.clone(),
                    window,
                    reset,
                };
                // Fails when the session is over.
                let _ = self
                    .accept
                    .send(Stream {
                        headers,
                        data,
                        sender,
                    })
                    .await;
            }
            RST_STREAM => {
                if let Some(entry) = lock(&self.streams).remove(&number(0)?) {
                    entry.reset.cancel();
                    entry.window.wake();
                }
            }
            PING => {
                let id = number(0)?;
                // Even ones are ours, and we send none.
                if !id.is_multiple_of(2) {
                    self.put(Frame::Ping { id }).await;
                }
            }
            WINDOW_UPDATE => {
                let (stream, bytes) = (
                    number(0)? & 0x7fff_ffff,
                    i64::from(number(4)? & 0x7fff_ffff),
                );
                self.outlet.heeded.store(true, Ordering::Release);
                if stream == 0 {
                    self.outlet.window.add(bytes);
                } else if let Some(entry) = lock(&self.streams).get(&stream) {
                    entry.window.add(bytes);
                }
            }
            SETTINGS => {
                for entry in body.get(4..).unwrap_or_default().chunks_exact(8) {
                    let id = u32::from_be_bytes([0, entry[1], entry[2], entry[3]]);
                    let value =
                        i64::from(u32::from_be_bytes([entry[4], entry[5], entry[6], entry[7]]));
                    if id == SETTINGS_INITIAL_WINDOW {
                        self.outlet.heeded.store(true, Ordering::Release);
                        let change = value - self.initial_window;
                        self.initial_window = value;
                        lock(&self.streams)
                            .values()
                            .for_each(|entry| entry.window.add(change));
                    }
                }
            }
            // HEADERS, NOOP and what later versions may bring.
            8 => {
                let block = body.get(4..).ok_or("a HEADERS frame is cut short")?;
                self.headers
                    .decode(block)
                    .map_err(|error| error.to_string())?;
                if flags & FLAG_FIN != 0 {
                    self.half_closed(number(0)? & 0x7fff_ffff);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
