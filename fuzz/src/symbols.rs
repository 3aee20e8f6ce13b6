//! Crash reports: names and callers from an image that may lie, and a stack that may, too.

use crate::image::changed;
use crate::{Input, Seed};
use hv::crash::{Known, MAX_FRAMES, Symbols, UnwindRegs};

/// A small program with debug information: see `program.c` beside it.
const PROGRAM: &[u8] = include_bytes!("../fixtures/program.elf");
const BASE: u64 = 0x7000_0000;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let rip = BASE + u64::from(input.half());
    let stack: [u64; 16] = std::array::from_fn(|_| match input.half() {
        0 => 0,
        half => BASE + u64::from(half),
    });
    let file = match mode % 2 {
        0 => input.rest().to_vec(),
        _ => changed(PROGRAM, &mut input),
    };
    let known = Known::default();
    let symbols = Symbols::new(&file, BASE, &known);
    let regs = UnwindRegs { rip, rsp: 0x100, rbp: 0x100 + u64::from(mode), ..Default::default() };
    let mut read = |address: u64| stack.get((address.checked_sub(0x100)? / 8) as usize).copied();
    let frames = symbols.backtrace(&regs, &mut read);
    assert!(!frames.is_empty() && frames.len() <= MAX_FRAMES);
    for frame in frames {
        for text in [frame.function, frame.file].into_iter().flatten() {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
    assert!(!symbols.lookup(BASE + u64::from(mode)).is_empty());
}

/// The program as it is, at some of its addresses, and a part of it by itself.
pub fn seeds() -> Vec<Vec<u8>> {
    let at = |rip: u16, stack: u16| {
        let seed = Seed::default().byte(1).half(rip);
        (0..16).fold(seed, |seed, _| seed.half(stack))
    };
    let text = 0x1000u16;
    let mut seeds: Vec<_> = (0..12).map(|n| at(text + 8 * n, text + 4 * n).done()).collect();
    seeds.push(at(text, text).half(0x40).byte(3).bytes(&[0; 8]).done());
    seeds
}
