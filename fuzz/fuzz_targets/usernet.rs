//! See `hv_fuzz::usernet`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::usernet::run(bytes));
