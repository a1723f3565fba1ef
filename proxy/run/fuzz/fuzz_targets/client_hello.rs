//! Any bytes give an answer, and a prefix never asks for more than the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trireme_proxy::client_hello::{MAX_BYTES, Peeked, peek};

fuzz_target!(|bytes: &[u8]| {
    let answer = peek(bytes);
    assert!(answer != Peeked::Incomplete || bytes.len() < MAX_BYTES);
});
