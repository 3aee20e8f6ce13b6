//! See `hv_fuzz::share`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::share::run(bytes));
