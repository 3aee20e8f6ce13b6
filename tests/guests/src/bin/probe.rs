//! A guest for tests.
#![no_std]
#![no_main]

#[hv_guest::entry]
fn main() {}
