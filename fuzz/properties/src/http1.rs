//! HTTP/1.1 as the proxy reads it.

use bytes::{Bytes, BytesMut};
use trireme_proxy::h1::head::{HeadEnd, Limits, MAX_HEAD_BYTES, request, response};
use trireme_proxy::h1::{Decoder, Step};

fn decode(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut buffer, mut data) = (Decoder::chunked(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.step(&mut buffer).ok()? {
                Step::Data(more) => data.extend_from_slice(&more),
                Step::More => break,
                Step::End => return Some((data, true)),
            }
        }
    }
    Some((data, false))
}

/// Chunks mean the same however they arrive. The first two bytes say where they are cut.
pub fn chunks(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_be_bytes(*cut)).min(bytes.len());
    let whole = decode(&[bytes]);
    let halves = decode(&[&bytes[..cut], &bytes[cut..]]);
    if let (Some(whole), Some(halves)) = (whole, halves) {
        assert_eq!(whole, halves);
    }
}

/// What is taken as a request has one framing and one host, and its end is found wherever it is looked for.
pub fn request_head(bytes: &[u8]) {
    let mut end = HeadEnd::new(MAX_HEAD_BYTES);
    let Ok(Some(length)) = end.found(bytes) else {
        return;
    };
    assert!(length <= bytes.len());
    let mut slowly = HeadEnd::new(MAX_HEAD_BYTES);
    let first = (0..=bytes.len()).find_map(|so_far| match slowly.found(&bytes[..so_far]) {
        Ok(found) => found.map(Ok),
        Err(error) => Some(Err(error)),
    });
    assert!(matches!(first, Some(Ok(found)) if found == length));
    if let Ok(head) = request(
        &Bytes::copy_from_slice(&bytes[..length]),
        &Limits::default(),
    ) {
        let lengths = head.headers.get_all("content-length").iter().count();
        let codings = head.headers.get_all("transfer-encoding").iter().count();
        assert!(lengths + codings <= 1);
        assert!(head.old || head.headers.get_all("host").iter().count() == 1);
    }
}

/// Any bytes of an upstream give an answer.
pub fn response_head(bytes: &[u8]) {
    for method in [http::Method::GET, http::Method::HEAD, http::Method::CONNECT] {
        let _ = response(&Bytes::copy_from_slice(bytes), &method);
    }
}
