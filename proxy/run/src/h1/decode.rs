//! A message's body off the wire.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::chunk::{self, Chunked};

/// Why a body could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// The chunked coding is broken.
    #[error("{0}")]
    Chunk(&'static str),
    /// The connection ended inside the body.
    #[error("the connection ended before the body did")]
    Truncated,
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(std::io::ErrorKind),
    /// The stream was reset (HTTP/2).
    #[error("the stream was reset: {0}")]
    Reset(String),
    /// More or less was sent than Content-Length said.
    #[error("the body's length is not what Content-Length says")]
    Length,
    /// The exchange was given up.
    #[error("cancelled")]
    Cancelled,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A piece of the body.
    Data(Bytes),
    /// More bytes are needed.
    More,
    /// The body is complete.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

/// Reads one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder(Kind);

impl Decoder {
    /// Of so many bytes.
    #[must_use]
    pub fn length(length: u64) -> Self {
        Self(if length == 0 {
            Kind::Done
        } else {
            Kind::Length(length)
        })
    }

    /// In the chunked coding.
    #[must_use]
    pub fn chunked() -> Self {
        Self(Kind::Chunked(Chunked::Size))
    }

    /// Until the connection ends.
    #[must_use]
    pub fn until_close() -> Self {
        Self(Kind::UntilClose)
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0 == Kind::Done
    }

    /// Whether the end of the connection is the end of this body.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.0 == Kind::UntilClose
    }

    /// The length that is left, when it is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.0 {
            Kind::Length(left) => Some(left),
            Kind::Done => Some(0),
            Kind::Chunked(_) | Kind::UntilClose => None,
        }
    }

    /// Takes the next piece off what was read.
    ///
    /// # Errors
    /// When the coding is broken: the connection is of no further use.
    pub fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, BodyError> {
        match self.0 {
            Kind::Done => Ok(Step::End),
            Kind::Length(left) => {
                if buffer.is_empty() {
                    return Ok(Step::More);
                }
                let take = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let data = if take == buffer.len() {
                    std::mem::take(buffer).freeze()
                } else {
                    buffer.split_to(take).freeze()
                };
                let left = left - take as u64;
                self.0 = if left == 0 {
                    Kind::Done
                } else {
                    Kind::Length(left)
                };
                Ok(Step::Data(data))
            }
            Kind::Chunked(state) => {
                let (next, step) = chunk::step(state, buffer)?;
                self.0 = if step == Step::End {
                    Kind::Done
                } else {
                    Kind::Chunked(next)
                };
                Ok(step)
            }
            Kind::UntilClose => {
                if buffer.is_empty() {
                    return Ok(Step::More);
                }
                Ok(Step::Data(std::mem::take(buffer).freeze()))
            }
        }
    }
}
