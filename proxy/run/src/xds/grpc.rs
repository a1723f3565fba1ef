//! One bidirectional gRPC stream over our own HTTP/2, so that it runs wherever [`Net`](crate::net::Net) does.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body as _, Frame};
use prost::Message;
use thiserror::Error;
use tokio::sync::mpsc;
use trireme_proxy_decide::head::RequestHead;

use crate::body::Body;
use crate::h1::BodyError;
use crate::h2;

/// The largest message taken: all clusters of a large mesh in one response have a few MiB.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Messages that wait to be sent: one acknowledgement a kind, and subscriptions.
const MAX_OUTGOING: usize = 64;
/// What a gRPC message has before it.
const PREFIX_BYTES: usize = 5;

/// Why a stream ended.
#[derive(Debug, Error)]
pub enum StreamError {
    /// HTTP/2 broke.
    #[error("{0}")]
    Http(String),
    /// The server refused.
    #[error("HTTP status {0}")]
    Status(u16),
    /// gRPC's status.
    #[error("gRPC status {code}: {message}")]
    Grpc {
        /// Its code.
        code: String,
        /// What the server says.
        message: String,
    },
    /// A message is compressed, too large, or none.
    #[error("{0}")]
    Message(String),
    /// The server ended the stream.
    #[error("the server ended the stream")]
    Ended,
}

struct Outgoing(mpsc::Receiver<Bytes>);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0
            .poll_recv(context)
            .map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// Sends messages.
#[derive(Clone)]
pub struct Requests(mpsc::Sender<Bytes>);

impl Requests {
    /// Sends one.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send<M: Message>(&self, message: &M) -> Result<(), StreamError> {
        let length = message.encoded_len();
        let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
        buffer.put_u8(0);
        buffer
            .put_u32(u32::try_from(length).map_err(|_| StreamError::Message("too large".into()))?);
        message
            .encode(&mut buffer)
            .map_err(|error| StreamError::Message(error.to_string()))?;
        self.0
            .send(buffer.freeze())
            .await
            .map_err(|_| StreamError::Ended)
    }
}

/// Receives messages.
pub struct Responses {
    body: Body,
    buffer: BytesMut,
}

fn status(headers: &http::HeaderMap) -> Option<StreamError> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let code = text("grpc-status");
    match code.as_str() {
        "" => None,
        "0" => Some(StreamError::Ended),
        _ => Some(StreamError::Grpc {
            code,
            message: text("grpc-message"),
        }),
    }
}

impl Responses {
    /// The next message.
    ///
    /// # Errors
    /// When the stream ended or broke.
    pub async fn next<M: Message + Default>(&mut self) -> Result<M, StreamError> {
        loop {
            if let Some(message) = self.whole()? {
                return M::decode(message).map_err(|error| StreamError::Message(error.to_string()));
            }
            let frame =
                std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame {
                None => return Err(StreamError::Ended),
                Some(Err(error)) => return Err(StreamError::Http(error.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Err(status(&trailers).unwrap_or(StreamError::Ended));
                    }
                },
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, StreamError> {
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        if self.buffer[0] != 0 {
            return Err(StreamError::Message("compressed without our asking".into()));
        }
        let length = u32::from_be_bytes([
            self.buffer[1],
            self.buffer[2],
            self.buffer[3],
            self.buffer[4],
        ]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(StreamError::Message(format!("a message of {length} bytes")));
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Opens a stream. Completes when the server has accepted it.
///
/// # Errors
/// When it does not.
pub async fn open(
    sender: &h2::Sender,
    https: bool,
    authority: &str,
    path: &str,
    token: Option<&str>,
    first: &impl Message,
) -> Result<(Requests, Responses), StreamError> {
    let (give, take) = mpsc::channel(MAX_OUTGOING);
    let requests = Requests(give);
    requests.send(first).await?;
    let http = |what: &str| StreamError::Http(what.to_owned());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| StreamError::Message("the token is not text".into()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let head = RequestHead {
        method: Method::POST,
        https,
        authority: HeaderValue::from_str(authority)
            .map_err(|_| http("the server's name is not text"))?,
        path: PathAndQuery::try_from(path).map_err(|error| http(&error.to_string()))?,
        headers,
    };
    let response = sender
        .send(&head, https, None, Body::Boxed(Box::pin(Outgoing(take))))
        .map_err(|_| http("the connection is closed"))?
        .await
        .map_err(|error| http(&error.to_string()))?;
    if !response.status.is_success() {
        return Err(StreamError::Status(response.status.as_u16()));
    }
    if let Some(error) = status(&response.headers) {
        return Err(error);
    }
    Ok((
        requests,
        Responses {
            body: response.body,
            buffer: BytesMut::new(),
        },
    ))
}
