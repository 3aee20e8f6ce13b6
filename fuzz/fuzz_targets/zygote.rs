//! See `hv_fuzz::zygote`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::zygote::run(bytes));
