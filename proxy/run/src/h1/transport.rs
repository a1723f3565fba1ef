//! A connection's bytes: what was read and not understood yet, what was written and not sent yet.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::net::Stream;

/// One read takes at most this much. It is a worker's buffer, not a connection's, so it may be large.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0_u8; READ_BYTES].into_boxed_slice());
}

/// A connection with its buffers. Both are empty, and own no memory, while it is idle.
pub struct Transport {
    io: Stream,
    /// Read and not understood yet.
    pub input: BytesMut,
    /// To be written.
    pub output: Vec<u8>,
    sent: usize,
    flushing: bool,
    /// The peer will send no more.
    pub ended: bool,
}

impl Transport {
    /// Around a connection of which `input` was read already.
    #[must_use]
    pub fn new(io: Stream, input: BytesMut) -> Self {
        Self {
            io,
            input,
            output: Vec::new(),
            sent: 0,
            flushing: false,
            ended: false,
        }
    }

    /// Reads once. 0 says that the peer ended.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                self.ended = true;
            } else if self.input.is_empty() {
                self.input = BytesMut::from(read);
            } else {
                self.input.extend_from_slice(read);
            }
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// The connection's; `WriteZero` when it takes nothing.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            let written =
                ready!(Pin::new(&mut self.io).poll_write(context, &self.output[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        if self.sent > 0 {
            self.output.clear();
            self.sent = 0;
            self.flushing = true;
        }
        if self.flushing {
            // TLS keeps records of its own.
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Gives the buffers back: the connection is idle.
    pub fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Ends our side.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    /// Drops what was read, to find out when the peer has ended.
    pub fn discard(&mut self) {
        let length = self.input.len();
        self.input.advance(length);
    }

    /// The connection, what was read of it, and what is still to be sent on it.
    #[must_use]
    pub fn into_parts(mut self) -> (Stream, BytesMut, Vec<u8>) {
        self.output.drain(..self.sent);
        (self.io, self.input, self.output)
    }
}
