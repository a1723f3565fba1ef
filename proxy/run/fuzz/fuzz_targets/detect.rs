//! A decision stands, whatever follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trireme_proxy::detect::{Detected, http, is_tls};

fuzz_target!(|bytes: &[u8]| {
    for judge in [http, is_tls] {
        let whole = judge(bytes);
        for cut in 0..bytes.len() {
            let early = judge(&bytes[..cut]);
            assert!(early == Detected::Undecided || early == whole);
        }
    }
});
