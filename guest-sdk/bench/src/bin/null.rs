//! Ends at once: the least that a guest can do.
#![no_std]
#![no_main]

#[hv_guest::entry]
fn main() {}
