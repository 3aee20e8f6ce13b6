//! See `hv_fuzz::services`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::services::run(bytes));
