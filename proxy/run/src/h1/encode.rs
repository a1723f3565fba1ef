//! Heads and bodies onto the wire.

use std::io::Write as _;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use trireme_proxy_decide::head::RequestHead;

use super::decode::BodyError;

/// Room that most heads fit into, so that a buffer grows once.
const HEAD_ROOM_BYTES: usize = 1024;

/// How a body is framed on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, or none may follow.
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked,
    /// The end of the connection is the end of the body (HTTP/1.0).
    UntilClose,
}

fn put_headers(output: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        put_header(output, name, value);
    }
}

fn put_header(output: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    output.extend_from_slice(name.as_str().as_bytes());
    output.extend_from_slice(b": ");
    output.extend_from_slice(value.as_bytes());
    output.extend_from_slice(b"\r\n");
}

fn put_number(output: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[at..]);
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A response's head. `known` is the body's length where it is known. Framing headers are ours to write: those of the
/// message are taken as the upstream's word on the length only.
pub(super) fn response_head(
    output: &mut Vec<u8>,
    status: StatusCode,
    headers: &mut HeaderMap,
    to: &Method,
    known: Option<u64>,
    close: bool,
    old: bool,
) -> Framing {
    output.reserve(HEAD_ROOM_BYTES);
    output.extend_from_slice(b"HTTP/1.1 ");
    put_number(output, u64::from(status.as_u16()));
    output.push(b' ');
    output.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    output.extend_from_slice(b"\r\n");
    headers.remove(TRANSFER_ENCODING);
    let bodiless = *to == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = if bodiless {
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        Framing::None
    } else if let Some(length) = length_of(headers) {
        Framing::Length(length)
    } else if let Some(length) = known {
        output.extend_from_slice(b"content-length: ");
        put_number(output, length);
        output.extend_from_slice(b"\r\n");
        Framing::Length(length)
    } else if old {
        Framing::UntilClose
    } else {
        output.extend_from_slice(b"transfer-encoding: chunked\r\n");
        Framing::Chunked
    };
    put_headers(output, headers);
    if close || framing == Framing::UntilClose {
        output.extend_from_slice(b"connection: close\r\n");
    } else if old {
        output.extend_from_slice(b"connection: keep-alive\r\n");
    }
    output.extend_from_slice(b"\r\n");
    framing
}

/// A request's head in origin form.
pub(super) fn request_head(
    output: &mut Vec<u8>,
    head: &RequestHead,
    extra: Option<(&HeaderName, &HeaderValue)>,
    known: Option<u64>,
    has_body: bool,
) -> Framing {
    output.reserve(HEAD_ROOM_BYTES);
    output.extend_from_slice(head.method.as_str().as_bytes());
    output.push(b' ');
    output.extend_from_slice(head.path.as_str().as_bytes());
    output.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    output.extend_from_slice(head.authority.as_bytes());
    output.extend_from_slice(b"\r\n");
    let framing = if let Some(length) = length_of(&head.headers) {
        Framing::Length(length)
    } else if !has_body {
        // A body may come with all others, so its absence is said.
        let bodiless = matches!(
            head.method,
            Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
        );
        if !bodiless {
            output.extend_from_slice(b"content-length: 0\r\n");
        }
        Framing::None
    } else if let Some(length) = known {
        output.extend_from_slice(b"content-length: ");
        put_number(output, length);
        output.extend_from_slice(b"\r\n");
        Framing::Length(length)
    } else {
        output.extend_from_slice(b"transfer-encoding: chunked\r\n");
        Framing::Chunked
    };
    for (name, value) in &head.headers {
        if name != TRANSFER_ENCODING {
            put_header(output, name, value);
        }
    }
    if let Some((name, value)) = extra {
        put_header(output, name, value);
    }
    output.extend_from_slice(b"\r\n");
    framing
}

/// A piece of the body.
///
/// # Errors
/// When it is longer than was announced.
pub(super) fn piece(
    output: &mut Vec<u8>,
    framing: &mut Framing,
    data: &Bytes,
) -> Result<(), BodyError> {
    match framing {
        Framing::None => Ok(()),
        Framing::Length(left) => {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or(BodyError::Length)?;
            output.extend_from_slice(data);
            Ok(())
        }
        Framing::UntilClose => {
            output.extend_from_slice(data);
            Ok(())
        }
        Framing::Chunked => {
            // An empty chunk would be the end.
            if !data.is_empty() {
                let _ = write!(output, "{:x}\r\n", data.len());
                output.extend_from_slice(data);
                output.extend_from_slice(b"\r\n");
            }
            Ok(())
        }
    }
}

/// The body's end.
///
/// # Errors
/// When it is shorter than was announced.
pub(super) fn end(output: &mut Vec<u8>, framing: Framing) -> Result<(), BodyError> {
    match framing {
        Framing::None | Framing::UntilClose | Framing::Length(0) => Ok(()),
        Framing::Length(_) => Err(BodyError::Length),
        Framing::Chunked => {
            output.extend_from_slice(b"0\r\n\r\n");
            Ok(())
        }
    }
}
