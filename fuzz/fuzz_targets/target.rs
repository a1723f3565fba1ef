//! The property that has the binary's name, for any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trireme_fuzz::check(env!("CARGO_BIN_NAME"), bytes));
