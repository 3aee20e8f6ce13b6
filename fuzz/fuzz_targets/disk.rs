//! See `hv_fuzz::disk`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::disk::run(bytes));
