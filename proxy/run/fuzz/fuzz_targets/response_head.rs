//! Any bytes of an upstream give an answer.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trireme_proxy::h1::head::response;

fuzz_target!(|bytes: &[u8]| {
    for method in [http::Method::GET, http::Method::HEAD] {
        let _ = response(&Bytes::copy_from_slice(bytes), &method);
    }
});
