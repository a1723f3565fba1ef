//! Chunks mean the same however they arrive.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
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

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let cut = usize::from(cut).min(bytes.len());
    let whole = decode(&[bytes]);
    let halves = decode(&[&bytes[..cut], &bytes[cut..]]);
    if let (Some(whole), Some(halves)) = (whole, halves) {
        assert_eq!(whole, halves);
    }
});
