//! See `hv_fuzz::function`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::function::run(bytes));
