//! What is taken as a request has one framing and one host.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trireme_proxy::h1::head::{HeadEnd, Limits, MAX_HEAD_BYTES, request};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(length)) = HeadEnd::new(MAX_HEAD_BYTES).found(bytes) else { return };
    if let Ok(head) = request(&Bytes::copy_from_slice(&bytes[..length]), &Limits::default()) {
        let lengths = head.headers.get_all("content-length").iter().count();
        let codings = head.headers.get_all("transfer-encoding").iter().count();
        assert!(lengths + codings <= 1);
        assert!(head.old || head.headers.get_all("host").iter().count() == 1);
    }
});
