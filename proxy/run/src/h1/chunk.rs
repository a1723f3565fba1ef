//! The chunked coding (RFC 9112 §7.1), strictly: hexadecimal sizes, CRLF and nothing else.

use bytes::{Buf, Bytes, BytesMut};

use super::decode::{BodyError, Step};

/// A chunk's size line, with extensions. Nobody needs extensions; floods of them were an attack (CVE-2023-39326).
const MAX_SIZE_LINE_BYTES: usize = 256;
/// All trailers together; as much as a head may have.
const MAX_TRAILER_BYTES: usize = 60 * 1024;

/// Where in the coding the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// At a size line.
    Size,
    /// Inside a chunk with so many bytes left.
    Data(u64),
    /// At the end of a chunk's line.
    DataEnd,
    /// In the trailers, with so many bytes of them seen.
    Trailers(usize),
}

fn line_end(buffer: &[u8]) -> Option<usize> {
    buffer.iter().position(|byte| *byte == b'\n')
}

fn size_of(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    // 15 digits hold any real size and cannot overflow.
    if digits == 0 || digits > 15 {
        return Err(BodyError::Chunk(
            "the chunk size is not a hexadecimal number",
        ));
    }
    match line.get(digits) {
        None | Some(b';') => {}
        Some(_) => {
            return Err(BodyError::Chunk(
                "the chunk size is followed by something else than an extension",
            ));
        }
    }
    if line[digits..]
        .iter()
        .any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f)
    {
        return Err(BodyError::Chunk(
            "a chunk extension has a control character",
        ));
    }
    let mut size = 0_u64;
    for digit in &line[..digits] {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => digit - b'A' + 10,
        };
        size = size * 16 + u64::from(value);
    }
    Ok(size)
}

/// Takes the next piece off the buffer. Returns the new state with it.
pub(super) fn step(state: Chunked, buffer: &mut BytesMut) -> Result<(Chunked, Step), BodyError> {
    let mut state = state;
    loop {
        match state {
            Chunked::Size => {
                let Some(end) = line_end(&buffer[..buffer.len().min(MAX_SIZE_LINE_BYTES)]) else {
                    if buffer.len() >= MAX_SIZE_LINE_BYTES {
                        return Err(BodyError::Chunk("the chunk size line is too long"));
                    }
                    return Ok((state, Step::More));
                };
                if end == 0 || buffer[end - 1] != b'\r' {
                    return Err(BodyError::Chunk(
                        "the chunk size line does not end with CRLF",
                    ));
                }
                let size = size_of(&buffer[..end - 1])?;
                buffer.advance(end + 1);
                state = if size == 0 {
                    Chunked::Trailers(0)
                } else {
                    Chunked::Data(size)
                };
            }
            Chunked::Data(left) => {
                if buffer.is_empty() {
                    return Ok((state, Step::More));
                }
                let take = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let data: Bytes = buffer.split_to(take).freeze();
                let left = left - take as u64;
                let next = if left == 0 {
                    Chunked::DataEnd
                } else {
                    Chunked::Data(left)
                };
                return Ok((next, Step::Data(data)));
            }
            Chunked::DataEnd => {
                if buffer.len() < 2 {
                    if buffer.first().is_some_and(|byte| *byte != b'\r') {
                        return Err(BodyError::Chunk("a chunk is longer than its size"));
                    }
                    return Ok((state, Step::More));
                }
                if &buffer[..2] != b"\r\n" {
                    return Err(BodyError::Chunk("a chunk is longer than its size"));
                }
                buffer.advance(2);
                state = Chunked::Size;
            }
            Chunked::Trailers(seen) => {
                let Some(end) = line_end(buffer) else {
                    if seen + buffer.len() > MAX_TRAILER_BYTES {
                        return Err(BodyError::Chunk("the trailers are too long"));
                    }
                    return Ok((state, Step::More));
                };
                if end == 0 || buffer[end - 1] != b'\r' {
                    return Err(BodyError::Chunk("a trailer does not end with CRLF"));
                }
                let last = end == 1;
                if !last {
                    let line = &buffer[..end - 1];
                    let name = line.iter().position(|byte| *byte == b':');
                    if name.is_none_or(|name| {
                        name == 0 || http::HeaderName::from_bytes(&line[..name]).is_err()
                    }) {
                        return Err(BodyError::Chunk("a trailer is malformed"));
                    }
                }
                buffer.advance(end + 1);
                if last {
                    return Ok((Chunked::Size, Step::End));
                }
                let seen = seen + end + 1;
                if seen > MAX_TRAILER_BYTES {
                    return Err(BodyError::Chunk("the trailers are too long"));
                }
                state = Chunked::Trailers(seen);
            }
        }
    }
}
