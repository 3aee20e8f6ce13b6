//! See `hv_fuzz::net`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::net::run(bytes));
