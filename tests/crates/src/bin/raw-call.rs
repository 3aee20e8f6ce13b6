//! Asks Linux for random bytes by an instruction of its own, which no library can answer.
#![no_std]
#![no_main]

use hv_guest::prelude::*;

#[hv_guest::entry]
fn main() {
    let mut bytes = [0; 32];
    let answer = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    println!("unexpected: {answer:?}");
}
