//! A stream: what came on it, what may be sent on it, and who is to be woken. Whoever owns its [`Handle`] handles it;
//! dropping that ends the stream, whatever is left of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame};

use super::connection::Connection;
use super::flow::Window;
use super::frame::{self, Reason, flag, kind};
use super::message::is_connection_specific;
use crate::body::Body;
use crate::h1::BodyError;

/// Informational responses before the real one; more are an attack.
const MAX_INFORMATIONAL: u32 = 16;

/// A piece smaller than this is joined to the one before it, which takes so much: a peer may send its whole window in
/// frames of one byte, and each piece has a cost of its own.
const SMALL_BYTES: usize = 256;
const JOINED_BYTES: usize = 16 * 1024;

/// What ended a stream before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The peer reset it.
    Reset(Reason),
    /// The peer did not look at it: it may be sent again.
    Refused,
    /// The peer broke the rules.
    Protocol(&'static str),
    /// The connection is gone.
    Connection(io::ErrorKind),
}

impl Lost {
    pub(super) fn body(self) -> BodyError {
        match self {
            Self::Reset(reason) => BodyError::Reset(format!("{reason:?}")),
            Self::Refused => BodyError::Reset("refused".into()),
            Self::Protocol(_) => BodyError::Length,
            Self::Connection(kind) => BodyError::Connection(kind),
        }
    }
}

/// A stream's state, kept by its connection.
#[derive(Debug)]
pub struct Stream {
    pub(super) method: Method,
    pub(super) send_window: Window,
    pub(super) receive_window: Window,
    pub(super) unreported: u32,
    /// The peer will send no more.
    pub(super) received: bool,
    /// We shall send no more.
    pub(super) sent: bool,
    /// The head of what the peer sends has come.
    pub(super) headed: bool,
    /// The head of our response was sent.
    pub(super) answered: bool,
    /// It counts for the limit of what the peer may open.
    pub(super) counted: bool,
    /// It waits for the connection's window, or for what is unsent.
    pub(super) blocked: bool,
    /// Nobody reads its data any more.
    pub(super) discards: bool,
    /// What Content-Length says is to come still.
    pub(super) remaining: Option<u64>,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) lost: Option<Lost>,
    informational: u32,
    ours: bool,
    head: Option<Box<(StatusCode, HeaderMap)>>,
    queue: VecDeque<Bytes>,
    queued: usize,
    waker: Option<Waker>,
}

impl Stream {
    /// A stream that begins with such a request, which came with it or is to be sent.
    pub(super) fn new(send: Window, receive: Window, method: Method, came: bool) -> Self {
        Self {
            method,
            send_window: send,
            receive_window: receive,
            unreported: 0,
            received: false,
            sent: false,
            headed: came,
            answered: false,
            counted: false,
            blocked: false,
            discards: false,
            remaining: None,
            trailers: None,
            lost: None,
            informational: 0,
            ours: !came,
            head: None,
            queue: VecDeque::new(),
            queued: 0,
            waker: None,
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn register(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
    }

    /// It ended before its time. Returns how many bytes nobody will read.
    pub(super) fn lose(&mut self, why: Lost) -> usize {
        self.wake();
        if self.ours && self.received {
            // The response is whole; only the rest of the request is not needed (§8.1).
            self.sent = true;
            return 0;
        }
        if self.lost.is_none() {
            self.lost = Some(why);
        }
        self.queue.clear();
        std::mem::take(&mut self.queued)
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued
    }

    pub(super) fn queue(&mut self, data: Bytes) {
        self.queued += data.len();
        if data.len() < SMALL_BYTES
            && let Some(last) = self.queue.back_mut()
            && last.len() < JOINED_BYTES
        {
            let mut joined = match std::mem::take(last).try_into_mut() {
                Ok(alone) => alone,
                Err(shared) => BytesMut::from(&*shared),
            };
            joined.extend_from_slice(&data);
            *last = joined.freeze();
            return;
        }
        self.queue.push_back(data);
    }

    /// Counts what Content-Length promised. False when it was not kept (§8.1.1).
    pub(super) fn counts(&mut self, bytes: usize, end: bool) -> bool {
        let Some(remaining) = &mut self.remaining else {
            return true;
        };
        match remaining.checked_sub(bytes as u64) {
            Some(left) => {
                *remaining = left;
                !end || left == 0
            }
            None => false,
        }
    }

    pub(super) fn informational(&mut self) -> bool {
        self.informational += 1;
        self.informational <= MAX_INFORMATIONAL
    }

    pub(super) fn answer(&mut self, status: StatusCode, headers: HeaderMap) {
        self.headed = true;
        self.head = Some(Box::new((status, headers)));
    }

    fn is_over(&self) -> bool {
        self.received && self.queue.is_empty() && self.trailers.is_none() && self.lost.is_none()
    }
}

/// A connection, as its streams share it.
pub type Shared = Rc<RefCell<Connection>>;

/// The right to a stream, and the duty to end it.
pub struct Handle {
    pub(super) connection: Shared,
    pub(super) number: u32,
    /// What the peer is told when this is dropped before all was sent.
    pub(super) given_up: Reason,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection
            .borrow_mut()
            .release(self.number, self.given_up);
    }
}

impl Handle {
    /// Ready when the stream ended before its time.
    pub(super) fn poll_lost(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut connection = self.connection.borrow_mut();
        match connection.streams.get_mut(&self.number) {
            Some(stream) if stream.lost.is_none() => {
                stream.register(context);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The head of the response.
    pub(super) fn poll_head(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(StatusCode, HeaderMap, bool), Lost>> {
        let mut connection = self.connection.borrow_mut();
        let Some(stream) = connection.streams.get_mut(&self.number) else {
            return Poll::Ready(Err(Lost::Connection(io::ErrorKind::NotConnected)));
        };
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok((head.0, head.1, stream.is_over())));
        }
        if let Some(lost) = stream.lost {
            return Poll::Ready(Err(lost));
        }
        stream.register(context);
        Poll::Pending
    }
}

/// A body that comes on a stream.
pub struct Incoming {
    connection: Shared,
    number: u32,
    /// Where the body is a response's: the stream itself, and what is left of the request.
    whole: Option<Box<(Handle, Option<Outgoing>)>>,
}

impl Incoming {
    /// Of a request: the stream is another's.
    pub(super) fn of_request(connection: &Shared, number: u32) -> Self {
        Self {
            connection: connection.clone(),
            number,
            whole: None,
        }
    }

    /// Of a response.
    pub(super) fn of_response(handle: Handle, outgoing: Option<Outgoing>) -> Self {
        Self {
            connection: handle.connection.clone(),
            number: handle.number,
            whole: Some(Box::new((handle, outgoing))),
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(whole) = &mut self.whole
            && let (handle, Some(outgoing)) = &mut **whole
        {
            match outgoing.poll(handle, context) {
                Poll::Ready(Err(Unsent::Body(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(_) => whole.1 = None,
                Poll::Pending => {}
            }
        }
        let mut connection = self.connection.borrow_mut();
        let Some(stream) = connection.streams.get_mut(&self.number) else {
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        };
        if let Some(data) = stream.queue.pop_front() {
            stream.queued -= data.len();
            connection.consumed(self.number, data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(lost) = stream.lost {
            return Poll::Ready(Some(Err(lost.body())));
        }
        if stream.received {
            let trailers = stream.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
        }
        stream.register(context);
        Poll::Pending
    }

    pub(crate) fn is_done(&self) -> bool {
        match self.connection.borrow().streams.get(&self.number) {
            Some(stream) => stream.is_over(),
            None => false,
        }
    }

    pub(crate) fn remaining(&self) -> Option<u64> {
        let connection = self.connection.borrow();
        let stream = connection.streams.get(&self.number)?;
        Some(stream.remaining? + stream.queued as u64)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.whole.is_some() {
            return;
        }
        let mut connection = self.connection.borrow_mut();
        if let Some(stream) = connection.streams.get_mut(&self.number) {
            stream.discards = true;
            stream.queue.clear();
            let queued = std::mem::take(&mut stream.queued);
            connection.consumed(self.number, queued);
        }
    }
}

/// Why a body was not sent.
pub enum Unsent {
    /// It failed itself.
    Body(BodyError),
    /// The stream ended before its time.
    Lost,
}

/// A body on its way out.
pub struct Outgoing {
    body: Body,
    piece: Bytes,
}

impl Outgoing {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            piece: Bytes::new(),
        }
    }

    /// Sends as much as is there and as may be sent. Ready when all is.
    pub(super) fn poll(
        &mut self,
        handle: &Handle,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            if !self.piece.is_empty() {
                // Asked without the borrow: the body may be of this connection, too.
                let last = self.body.is_end_stream();
                let mut connection = handle.connection.borrow_mut();
                let connection = &mut *connection;
                let most = connection.sendable(handle.number);
                let Some(stream) = connection.streams.get_mut(&handle.number) else {
                    return Poll::Ready(Err(Unsent::Lost));
                };
                if stream.lost.is_some() {
                    return Poll::Ready(Err(Unsent::Lost));
                }
                if stream.sent {
                    return Poll::Ready(Ok(()));
                }
                if most == 0 {
                    stream.register(context);
                    return Poll::Pending;
                }
                let length = most.min(self.piece.len());
                let end = last && length == self.piece.len();
                // Both have room for it.
                let _ = stream.send_window.take(length) && connection.send_window.take(length);
                let output = &mut connection.transport.output;
                let flags = if end { flag::END_STREAM } else { 0 };
                frame::put_head(output, length, kind::DATA, flags, handle.number);
                output.extend_from_slice(&self.piece[..length]);
                self.piece.advance(length);
                stream.sent = end;
                connection.touched();
                if end {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let trailers = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.piece = data;
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                Poll::Ready(None) => None,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Unsent::Body(error))),
                Poll::Pending => {
                    return handle.poll_lost(context).map(|()| Err(Unsent::Lost));
                }
            };
            handle.end(trailers.as_ref());
            return Poll::Ready(Ok(()));
        }
    }
}

impl Handle {
    /// Ends our side.
    fn end(&self, trailers: Option<&HeaderMap>) {
        let mut connection = self.connection.borrow_mut();
        let connection = &mut *connection;
        let Some(stream) = connection
            .streams
            .get_mut(&self.number)
            .filter(|stream| !stream.sent && stream.lost.is_none())
        else {
            return;
        };
        stream.sent = true;
        let output = &mut connection.transport.output;
        match trailers.filter(|trailers| !trailers.is_empty()) {
            None => frame::put_head(output, 0, kind::DATA, flag::END_STREAM, self.number),
            Some(trailers) => {
                let at = frame::begin_headers(output);
                connection.encoder.begin(output);
                for (name, value) in trailers {
                    if !is_connection_specific(name) {
                        connection.encoder.header(output, name, value);
                    }
                }
                frame::finish_headers(output, at, self.number, true);
            }
        }
        connection.touched();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_in_frames_of_one_byte_is_few_pieces() {
        let window = || Window::new(65_535);
        let mut stream = Stream::new(window(), window(), Method::POST, true);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(60_000).collect();
        for byte in &sent {
            stream.queue(Bytes::copy_from_slice(&[*byte]));
        }
        assert_eq!(stream.queued_bytes(), sent.len());
        assert_eq!(stream.queue.len(), sent.len().div_ceil(JOINED_BYTES));
        assert_eq!(
            stream.queue.iter().flatten().copied().collect::<Vec<u8>>(),
            sent
        );
        // Large ones stay as they are.
        stream.queue(Bytes::from(vec![0; SMALL_BYTES]));
        stream.queue(Bytes::from(vec![0; SMALL_BYTES]));
        assert_eq!(stream.queue.len(), sent.len().div_ceil(JOINED_BYTES) + 2);
    }
}
