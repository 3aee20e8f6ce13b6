//! See `hv_fuzz::hypercall`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::hypercall::run(bytes));
