//! Bodies that pass through the proxy, whichever protocol they came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::h1::{BodyError, client, server};
use crate::h2;
use crate::replay::Replay;

/// A body.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// One piece.
    Full(Bytes),
    /// Of a request by HTTP/1.1.
    Request(server::Incoming),
    /// Of a response by HTTP/1.1.
    Response(client::Incoming),
    /// By HTTP/2, either way.
    Stream(h2::Incoming),
    /// Of a request that may be sent again.
    Replay(Replay),
    /// Anything else, such as one that is watched.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

impl Body {
    /// One piece of text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        if text.is_empty() {
            Self::Empty
        } else {
            Self::Full(text)
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) => {
                let data = std::mem::take(data);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Self::Request(body) => body
                .poll_data(context)
                .map(|data| data.map(|data| data.map(Frame::data))),
            Self::Response(body) => body
                .poll_data(context)
                .map(|data| data.map(|data| data.map(Frame::data))),
            Self::Stream(body) => body.poll_frame(context),
            Self::Replay(body) => Pin::new(body).poll_frame(context),
            Self::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Request(body) => body.is_done(),
            Self::Response(body) => body.is_done(),
            Self::Stream(body) => body.is_done(),
            Self::Replay(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(data) => SizeHint::with_exact(data.len() as u64),
            Self::Request(body) => body
                .remaining()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Response(body) => body
                .remaining()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Stream(body) => body
                .remaining()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Replay(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}
