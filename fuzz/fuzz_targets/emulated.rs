//! See `hv_fuzz::emulated`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::emulated::run(bytes));
