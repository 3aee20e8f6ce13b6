//! See `hv_fuzz::snapshot_record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hv_fuzz::snapshot_record::run(bytes));
