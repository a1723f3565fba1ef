//! A request's body that may have to be sent again: recorded while the first attempt streams it, up to a limit. Over
//! the limit the recording is dropped and the request is not retried, as Envoy does.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::Body;
use crate::h1::BodyError;

/// Envoy's default of per_connection_buffer_limit_bytes, which bounds what a retry may need.
pub const MAX_RECORDED_BYTES: usize = 1024 * 1024;

struct Recording {
    source: Body,
    pieces: Vec<Bytes>,
    bytes: usize,
    limit: usize,
    recording: bool,
    /// An attempt has been given the body.
    handed: bool,
    trailers: Option<HeaderMap>,
    complete: bool,
    failed: Option<BodyError>,
    /// Who wants to know that it is complete, or too large.
    watcher: Option<Waker>,
}

/// How a body's arrival stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// So many bytes came.
    pub bytes: u64,
    /// All of it came.
    pub complete: bool,
    /// It is more than may be kept.
    pub overflowed: bool,
}

/// The recording of one request's body.
#[derive(Clone)]
pub struct Recorder(Rc<RefCell<Recording>>);

/// The body of one attempt.
pub struct Replay {
    recorder: Recorder,
    at: usize,
    trailers_sent: bool,
}

impl Recorder {
    /// Records up to `limit` bytes of a body.
    #[must_use]
    pub fn new(source: Body, limit: usize) -> Self {
        let complete = source.is_end_stream();
        Self(Rc::new(RefCell::new(Recording {
            source,
            pieces: Vec::new(),
            bytes: 0,
            limit,
            recording: true,
            handed: false,
            trailers: None,
            complete,
            failed: None,
            watcher: None,
        })))
    }

    /// The body for an attempt, from the start. Only the newest may be read once the recording was dropped.
    #[must_use]
    pub fn replay(&self) -> Replay {
        self.0.borrow_mut().handed = true;
        Replay {
            recorder: self.clone(),
            at: 0,
            trailers_sent: false,
        }
    }

    /// How its arrival stands. The task is woken when it becomes complete, or too large to keep. While no attempt
    /// reads it, it is read here: a request that waits for a connection has come in full all the same, and its time
    /// runs from then on.
    #[must_use]
    pub fn arrival(&self, context: &mut Context<'_>) -> Arrival {
        let unread = Rc::strong_count(&self.0) == 1;
        let mut recording = self.0.borrow_mut();
        while unread && recording.may_fill() {
            if !matches!(recording.poll_more(context), Poll::Ready(Some(Ok(_)))) {
                break;
            }
        }
        if !recording.complete {
            match &mut recording.watcher {
                Some(waker) => waker.clone_from(context.waker()),
                None => recording.watcher = Some(context.waker().clone()),
            }
        }
        recording.arrival()
    }

    /// Stops recording: there will be no other attempt.
    pub fn seal(&self) {
        self.0.borrow_mut().recording = false;
    }

    /// A copy of the whole body, if it was recorded.
    #[must_use]
    pub fn copy(&self) -> Option<Bytes> {
        let recording = self.0.borrow();
        if !recording.complete || !recording.recording {
            return None;
        }
        if let [only] = recording.pieces.as_slice() {
            return Some(only.clone());
        }
        let mut whole = BytesMut::with_capacity(recording.bytes);
        for piece in &recording.pieces {
            whole.extend_from_slice(piece);
        }
        Some(whole.freeze())
    }
}

/// Room for the next piece of a body that an earlier attempt has read: over the limit, what was read would be lost.
const PIECE_BYTES: usize = 64 * 1024;

impl Recording {
    fn may_fill(&self) -> bool {
        let room = !self.handed || self.bytes + PIECE_BYTES <= self.limit;
        !self.complete && self.failed.is_none() && self.recording && room
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            bytes: self.bytes as u64,
            complete: self.complete,
            overflowed: self.bytes > self.limit,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.watcher.take() {
            waker.wake();
        }
    }

    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        match ready!(Pin::new(&mut self.source).poll_frame(context)) {
            None => {
                self.complete = true;
                self.wake();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.failed = Some(error.clone());
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len();
                    if self.bytes > self.limit && self.recording {
                        self.recording = false;
                        // What nobody has read yet is still to be sent once.
                        if self.handed {
                            self.pieces = Vec::new();
                        } else {
                            self.pieces.push(data.clone());
                        }
                        self.wake();
                    }
                    if self.recording {
                        self.pieces.push(data.clone());
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.complete = true;
                }
                if self.source.is_end_stream() {
                    self.complete = true;
                }
                if self.complete {
                    self.wake();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut recording = this.recorder.0.borrow_mut();
        if let Some(piece) = recording.pieces.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if recording.complete {
            if !this.trailers_sent
                && let Some(trailers) = recording.trailers.clone()
            {
                this.trailers_sent = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            return Poll::Ready(None);
        }
        let frame = ready!(recording.poll_more(context));
        if let Some(Ok(frame)) = &frame {
            if frame.is_trailers() {
                this.trailers_sent = true;
            } else {
                this.at = recording.pieces.len();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.recorder.0.borrow();
        recording.complete
            && self.at >= recording.pieces.len()
            && (self.trailers_sent || recording.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let recording = self.recorder.0.borrow();
        if self.at == 0 && recording.bytes == 0 {
            return recording.source.size_hint();
        }
        SizeHint::new()
    }
}
