//! Copies the console's input to its output until the input ends.
//!
//! ```text
//! echo hello | hv run echo
//! ```
#![no_std]
#![no_main]

use hv_guest::console;

#[hv_guest::entry]
fn main() {
    let mut bytes = [0; 1024];
    loop {
        match console::read(&mut bytes) {
            0 => return,
            count => console::write(&bytes[..count]),
        }
    }
}
