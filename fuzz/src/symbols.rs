//! Crash reports: names and callers from an image that may lie, and a stack that may, too.

use crate::image::changed;
use crate::{Input, Seed};
use hv::crash::{Budget, MAX_FRAMES, SymbolCache, Symbols, UnwindRegs};

/// A small program with debug information: see `program.c` beside it.
const PROGRAM: &[u8] = include_bytes!("../fixtures/program.elf");
const BASE: u64 = 0x7000_0000;
const MISSING: &str = "the image's debug information takes more work than a report may cost";

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
    let known = SymbolCache::default();
    let symbols = Symbols::new(&file, BASE, &known);
    let regs = UnwindRegs { rip, rsp: 0x100, rbp: 0x100 + u64::from(mode), ..Default::default() };
    let mut read = |address: u64| stack.get((address.checked_sub(0x100)? / 8) as usize).copied();
    let mut budget = Budget::default();
    let found = symbols.backtrace(&regs, &mut budget, &mut read);
    let frames = found.frames;
    assert!(!frames.is_empty() && frames.len() <= MAX_FRAMES);
    for text in frames.iter().flat_map(|frame| [&frame.function, &frame.file]).flatten() {
        assert!(text.chars().count() <= 400 && !text.contains(char::is_control), "{text:?}");
    }
    // What was found with budget to spare is found again with as much as it took, and with less it is not
    // more: a table that is not charged for would show here, as a budget that is left while names are missing.
    let whole = Budget::default();
    let left_over = [budget.rows, budget.entries, budget.bytes].iter().all(|left| *left > 0);
    assert!(found.missing.is_none_or(|_| !left_over || found.missing != Some(MISSING)), "{budget:?}");
    let exactly = Budget {
        rows: whole.rows - budget.rows,
        entries: whole.entries - budget.entries,
        bytes: whole.bytes - budget.bytes,
    };
    let again = SymbolCache::default();
    let mut budget = exactly;
    assert_eq!(Symbols::new(&file, BASE, &again).backtrace(&regs, &mut budget, &mut read).frames, frames);
    let none = SymbolCache::default();
    let mut budget = Budget { rows: 0, entries: 0, bytes: 0 };
    let bare = Symbols::new(&file, BASE, &none).backtrace(&regs, &mut budget, &mut read).frames;
    assert!(bare.iter().all(|frame| frame.function.is_none() && frame.file.is_none()));
    assert!(!symbols.lookup(BASE + u64::from(mode), &mut Budget::default()).frames.is_empty());
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
