//! Says hello and ends.
//!
//! ```text
//! hv run hello -- Ada
//! ```
#![no_std]
#![no_main]

use hv_guest::prelude::*;

#[hv_guest::entry]
fn main() {
    println!("Hello from a unikernel, {}!", env::args().nth(1).unwrap_or("world"));
}
