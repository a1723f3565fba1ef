//! Heads of requests and responses: parsed, limited, and their framing decided without ambiguity (RFC 9112 §6.3;
//! where it says MAY refuse, we refuse).

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use thiserror::Error;

use super::decode::Decoder;

/// Envoy's default (max_request_headers_kb).
pub const MAX_HEAD_BYTES: usize = 60 * 1024;
/// Envoy's default (max_headers_count).
pub const MAX_HEADERS: usize = 100;

/// What a request's head may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bytes: usize,
    /// Headers; never more than [`MAX_HEADERS`] are parsed.
    pub headers: usize,
    /// HTTP/1.0 is answered.
    pub accept_http_10: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: MAX_HEAD_BYTES,
            headers: MAX_HEADERS,
            accept_http_10: true,
        }
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HeadError {
    /// Answered 431.
    #[error("the head is too large")]
    TooLarge,
    /// Answered 431.
    #[error("the head has too many headers")]
    TooMany,
    /// Answered 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// Answered 501.
    #[error("the transfer coding is not chunked")]
    Coding,
    /// Answered 426, as Envoy does.
    #[error("HTTP/1.0 is not accepted")]
    Version,
}

impl HeadError {
    /// The status that answers it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooMany => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
        }
    }
}

/// Finds the end of a head without looking at a byte twice, so that a trickle of bytes costs no more than a burst.
#[derive(Clone, Copy, Debug)]
pub struct HeadEnd {
    seen: usize,
    most: usize,
}

impl HeadEnd {
    /// Of a head that may have so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { seen: 0, most }
    }

    /// Where the head ends that the buffer starts with.
    ///
    /// # Errors
    /// When it is larger than allowed.
    pub fn found(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        // Empty lines before a request line are skipped by the parser; they are no end.
        let start = buffer
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let mut at = self.seen.max(start);
        while at < buffer.len() {
            let Some(next) = buffer[at..].iter().position(|byte| *byte == b'\n') else {
                break;
            };
            let line = at + next;
            match buffer.get(line + 1) {
                Some(b'\n') => return self.within(line + 2).map(Some),
                Some(b'\r') => match buffer.get(line + 2) {
                    Some(b'\n') => return self.within(line + 3).map(Some),
                    Some(_) => {}
                    None => {
                        self.seen = line;
                        return self.within(buffer.len()).map(|_| None);
                    }
                },
                Some(_) => {}
                None => {
                    self.seen = line;
                    return self.within(buffer.len()).map(|_| None);
                }
            }
            at = line + 1;
        }
        self.seen = buffer.len();
        self.within(buffer.len()).map(|_| None)
    }

    fn within(&self, length: usize) -> Result<usize, HeadError> {
        if length > self.most {
            Err(HeadError::TooLarge)
        } else {
            Ok(length)
        }
    }
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target as sent: a path, `*`, or an absolute URI.
    pub uri: Uri,
    /// HTTP/1.0, to which no chunks may be sent.
    pub old: bool,
    /// The headers, framing ones included.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub body: Decoder,
    /// The client waits for 100 (Continue).
    pub expects_continue: bool,
    /// The client asks to close after the response.
    pub close: bool,
    /// The client asks for another protocol.
    pub upgrade: bool,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The headers, framing ones included.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub body: Decoder,
    /// The connection cannot be used again.
    pub close: bool,
}

fn parser_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooMany,
        httparse::Error::HeaderName => HeadError::Malformed("a header's name is malformed"),
        httparse::Error::HeaderValue => HeadError::Malformed("a header's value is malformed"),
        httparse::Error::NewLine => HeadError::Malformed("a line end is malformed"),
        httparse::Error::Status => HeadError::Malformed("the status is malformed"),
        httparse::Error::Token => HeadError::Malformed("the request line is malformed"),
        httparse::Error::Version => HeadError::Malformed("the version is malformed"),
    }
}

fn headers_from(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + SPARE_HEADERS);
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| HeadError::Malformed("a header's name is malformed"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value))
            .map_err(|_| HeadError::Malformed("a header's value is malformed"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Room for the headers that a proxy adds, so that the map does not grow again.
const SPARE_HEADERS: usize = 8;

/// Whether a list header has a token.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(token))
        })
}

enum Framing {
    None,
    Length(u64),
    Chunked,
}

fn framing(headers: &HeaderMap) -> Result<Framing, HeadError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(HeadError::Malformed(
            "both Content-Length and Transfer-Encoding",
        )),
        (Some(coding), None) => {
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Coding);
            }
            Ok(Framing::Chunked)
        }
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err(HeadError::Malformed("more than one Content-Length"));
            }
            let digits = length.as_bytes();
            if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
                return Err(HeadError::Malformed("Content-Length is not a number"));
            }
            // 19 digits always fit.
            Ok(Framing::Length(digits.iter().fold(0, |length, digit| {
                length * 10 + u64::from(digit - b'0')
            })))
        }
        (None, None) => Ok(Framing::None),
    }
}

/// Parses a request's head that [`HeadEnd`] found to be whole and [`take`] took off the buffer.
///
/// # Errors
/// When it is to be refused; the connection is of no further use then.
pub fn request(head: &Bytes, limits: &Limits) -> Result<RequestHead, HeadError> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut storage);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => {
            return Err(HeadError::Malformed(
                "the head ends elsewhere than its empty line",
            ));
        }
        Err(error) => return Err(parser_error(error)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Malformed("the request line is incomplete"));
    };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| HeadError::Malformed("the method is malformed"))?;
    let uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes()))
        .map_err(|_| HeadError::Malformed("the target is malformed"))?;
    let headers = headers_from(head, parsed.headers)?;
    if headers.len() > limits.headers {
        return Err(HeadError::TooMany);
    }
    let old = version == 0;
    if old && !limits.accept_http_10 {
        return Err(HeadError::Version);
    }
    if old && headers.contains_key(TRANSFER_ENCODING) {
        return Err(HeadError::Malformed("HTTP/1.0 has no Transfer-Encoding"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    if hosts.next().is_none() && !old {
        return Err(HeadError::Malformed("there is no Host"));
    }
    if hosts.next().is_some() {
        return Err(HeadError::Malformed("more than one Host"));
    }
    let body = match framing(&headers)? {
        Framing::None => Decoder::length(0),
        Framing::Length(length) => Decoder::length(length),
        Framing::Chunked => Decoder::chunked(),
    };
    let expects_continue = !body.is_done()
        && headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (close, upgrade) = if headers.contains_key(CONNECTION) {
        (
            has_token(&headers, &CONNECTION, "close"),
            headers.contains_key(UPGRADE) && has_token(&headers, &CONNECTION, "upgrade"),
        )
    } else {
        (false, false)
    };
    let close = close || (old && !has_token(&headers, &CONNECTION, "keep-alive"));
    Ok(RequestHead {
        method,
        uri,
        old,
        headers,
        body,
        expects_continue,
        close,
        upgrade,
    })
}

/// Takes so many bytes off the buffer.
#[must_use]
pub fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length == buffer.len() {
        std::mem::take(buffer).freeze()
    } else {
        buffer.split_to(length).freeze()
    }
}

/// Parses a response's head likewise. `to` is the request's method.
///
/// # Errors
/// When it is not HTTP/1, or ambiguous.
pub fn response(head: &Bytes, to: &Method) -> Result<ResponseHead, HeadError> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut storage);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => {
            return Err(HeadError::Malformed(
                "the head ends elsewhere than its empty line",
            ));
        }
        Err(error) => return Err(parser_error(error)),
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Malformed("the status line is incomplete"));
    };
    let status =
        StatusCode::from_u16(code).map_err(|_| HeadError::Malformed("the status is malformed"))?;
    let headers = headers_from(head, parsed.headers)?;
    let framing = framing(&headers)?;
    // Neither has a body (RFC 9110, 8.6): who says otherwise means to be read in two ways.
    if (status.is_informational() || status == StatusCode::NO_CONTENT)
        && matches!(framing, Framing::Chunked | Framing::Length(1..))
    {
        return Err(HeadError::Malformed(
            "a response without a body says it has one",
        ));
    }
    let empty = *to == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let body = match framing {
        _ if empty => Decoder::length(0),
        Framing::Length(length) => Decoder::length(length),
        Framing::Chunked => Decoder::chunked(),
        Framing::None => Decoder::until_close(),
    };
    let version = if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let close = body.ends_with_connection()
        || match headers.contains_key(CONNECTION) {
            true if version == Version::HTTP_10 => !has_token(&headers, &CONNECTION, "keep-alive"),
            true => has_token(&headers, &CONNECTION, "close"),
            false => version == Version::HTTP_10,
        };
    Ok(ResponseHead {
        status,
        headers,
        body,
        close,
    })
}
