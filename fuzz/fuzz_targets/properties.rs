//! The property that the environment names, for any bytes.
#![no_main]

use std::sync::LazyLock;

static NAME: LazyLock<String> = LazyLock::new(|| {
    std::env::var("TRIREME_PROPERTY").expect("TRIREME_PROPERTY names one of fuzz/properties")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trireme_fuzz::check(&NAME, bytes));
