//! Asks Linux for the size of a page. It links, with the host's libc; hv refuses it and names the crate.
#![no_std]
#![no_main]

use hv_guest::prelude::*;

#[hv_guest::entry]
fn main() {
    println!("unexpected: {}", page_size::get());
}
