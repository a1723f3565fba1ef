//! One stream of a connection, and the windows that bound what is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::{CANCEL, Frame};
use super::header::Headers;
use crate::outgoing::Gone;

/// The specification's, before any SETTINGS.
pub(super) const INITIAL_WINDOW_BYTES: i64 = 64 * 1024;

/// A stream that the client opened.
pub(crate) struct Stream {
    pub(super) headers: Headers,
    /// What the client sends; ends when it closes its half.
    pub data: mpsc::Receiver<Bytes>,
    pub sender: StreamSender,
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.sender.id
    }

    /// The first value of a header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// How much may be sent.
#[derive(Debug)]
pub(super) struct Window {
    available: AtomicI64,
    changed: Notify,
}

impl Window {
    pub fn new(bytes: i64) -> Window {
        Window {
            available: AtomicI64::new(bytes),
            changed: Notify::new(),
        }
    }

    pub fn add(&self, bytes: i64) {
        self.available.fetch_add(bytes, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until something may be sent, if the peer cares at all.
    async fn wait(&self, heeded: &AtomicBool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !heeded.load(Ordering::Acquire) || self.available.load(Ordering::Acquire) > 0 {
                return;
            }
            changed.await;
        }
    }

    fn take(&self, bytes: usize) {
        self.available.fetch_sub(bytes as i64, Ordering::AcqRel);
    }
}

/// What all streams of a connection share.
#[derive(Debug)]
pub(super) struct Outlet {
    pub frames: mpsc::Sender<Frame>,
    pub window: Window,
    /// The peer has shown that it does flow control.
    pub heeded: AtomicBool,
    pub gone: CancellationToken,
}

/// The sending half of a stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamSender {
    pub(super) id: u32,
    pub(super) outlet: Arc<Outlet>,
    pub(super) window: Arc<Window>,
    /// The client has reset the stream.
    pub(super) reset: CancellationToken,
}

impl StreamSender {
    async fn put(&self, frame: Frame) -> Result<(), Gone> {
        tokio::select! {
            sent = self.outlet.frames.send(frame) => sent.map_err(|_| Gone),
            () = self.outlet.gone.cancelled() => Err(Gone),
        }
    }

    /// Accepts the stream.
    pub async fn reply(&self) {
        let _ = self.put(Frame::Reply { stream: self.id }).await;
    }

    /// Sends data, waiting for room in the connection and, where the peer
    /// keeps one, its window.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        if self.reset.is_cancelled() {
            return Err(Gone);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let room = async {
            self.window.wait(&self.outlet.heeded).await;
            self.outlet.window.wait(&self.outlet.heeded).await;
        };
        tokio::select! {
            () = room => {}
            () = self.reset.cancelled() => return Err(Gone),
            () = self.outlet.gone.cancelled() => return Err(Gone),
        }
        // A window may go below zero by one piece: pieces are small, and the
        // peers that count are allowed to be told less than they have.
        self.window.take(bytes.len());
        self.outlet.window.take(bytes.len());
        self.put(Frame::Data {
            stream: self.id,
            bytes,
            last: false,
        })
        .await
    }

    /// Closes our half.
    pub async fn finish(&self) {
        if !self.reset.is_cancelled() {
            let _ = self
                .put(Frame::Data {
                    stream: self.id,
                    bytes: Bytes::new(),
                    last: true,
                })
                .await;
        }
    }

    /// Refuses or abandons the stream.
    pub async fn reset(&self) {
        let _ = self
            .put(Frame::Reset {
                stream: self.id,
                code: CANCEL,
            })
            .await;
    }
}
