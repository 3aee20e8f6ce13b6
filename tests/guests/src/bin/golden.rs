//! The guest of the golden snapshot: `tests/golden/README.md` says how it was made.
//!
//! It has something in every kind of memory before it is saved, and looks for it afterwards.
#![no_std]
#![no_main]

use hv_guest::prelude::*;
use hv_guest::{generation, random, time};

static mut COUNTER: u64 = 41;

#[hv_guest::entry]
fn main() -> u8 {
    let heap = vec![0x5a_u8; 3000];
    let before = time::now_nanos();
    let mut first = [0; 32];
    random::fill(&mut first);
    // SAFETY: the guest has one thread, and no other reference to it.
    unsafe { COUNTER += 1 };
    println!("golden: saved here");
    hv_guest::ready();
    let mut second = [0; 32];
    random::fill(&mut second);
    let right = [
        ("heap", heap.iter().all(|&byte| byte == 0x5a)),
        // SAFETY: as above.
        ("data", unsafe { (&raw const COUNTER).read_volatile() } == 42),
        ("clock", time::now_nanos() >= before && time::now_nanos() - before < 3_600_000_000_000),
        ("wall clock", time::wall_nanos() > 1_700_000_000_000_000_000),
        ("generation", generation() != [0; 16]),
        ("random", first != second),
        ("argument", env::args().nth(1) == Some("kept")),
    ];
    right.iter().filter(|(_, right)| !right).for_each(|(what, _)| println!("golden: wrong {what}"));
    println!("golden: went on");
    if right.iter().all(|(_, right)| *right) { 7 } else { 1 }
}
