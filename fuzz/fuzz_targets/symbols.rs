//! See `hv_fuzz::symbols`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::symbols::run(bytes));
