//! Names for a guest's addresses, from the debug information and symbols of its image.
//!
//! The image comes from the guest's author and is not trusted. All work is charged to a [`Budget`], and
//! control characters are removed from all text.

use super::budget::{Budget, Incomplete};
use super::dwarf::{Dwarf, Location};
use super::elf::Elf;
use super::unwind::{self, Unwinder};
use super::{Frame, MAX_FRAMES, UnwindRegs};
use std::collections::HashMap;
use std::sync::Mutex;

/// Most frames of an image that are remembered.
const MAX_KNOWN: usize = 1024;

/// What was found out about an image's instructions.
///
/// To read debug information takes milliseconds, and a function that crashes at every
/// request crashes at the same few places.
#[derive(Debug, Default)]
pub struct SymbolCache(Mutex<CacheEntries>);

#[derive(Debug, Default)]
struct CacheEntries {
    /// By offset of the instruction.
    names: HashMap<u64, CachedFrames>,
    /// Frames in all of them.
    frames: usize,
}

/// The functions at an offset.
#[derive(Clone, Debug)]
struct CachedFrames {
    /// Innermost first; never empty.
    frames: Vec<Frame>,
    /// The budget was used up before all was found.
    cut: bool,
}

impl SymbolCache {
    fn get(&self, probe: u64) -> Option<CachedFrames> {
        self.0.lock().expect("no panic while held").names.get(&probe).cloned()
    }

    fn put(&self, probe: u64, names: &CachedFrames) {
        let known = &mut *self.0.lock().expect("no panic while held");
        if known.frames + names.frames.len() <= MAX_KNOWN {
            known.frames += names.frames.len();
            known.names.insert(probe, names.clone());
        }
    }
}

/// A backtrace, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backtrace {
    /// Innermost first, at most [`MAX_FRAMES`].
    pub frames: Vec<Frame>,
    /// Why names are missing that might be there, if so.
    pub missing: Option<&'static str>,
}

/// The symbols of an image that is loaded somewhere. Making one reads only
/// headers; the rest is read when it is asked for.
pub struct Symbols<'a> {
    elf: Option<Elf<'a>>,
    base: u64,
    size: u64,
    known: &'a SymbolCache,
}

impl<'a> Symbols<'a> {
    /// The symbols in the bytes of an ELF file whose address 0 is at guest
    /// address `base`, with what is known of the same file. Bytes that are no ELF file have none.
    pub fn new(bytes: &'a [u8], base: u64, known: &'a SymbolCache) -> Self {
        let elf = Elf::parse(bytes);
        let size = elf.map_or(0, |elf| elf.size());
        Symbols { elf, base, size, known }
    }

    /// The functions that were running, innermost first, at most [`MAX_FRAMES`], found with what is left of the
    /// budget.
    ///
    /// `read` gives the 8 bytes at a guest address, or `None` where there is
    /// no memory. Without call frame information only the innermost function
    /// is known, without debug information only names, without symbols only
    /// addresses.
    pub fn backtrace(
        &self,
        regs: &UnwindRegs,
        budget: &mut Budget,
        read: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Backtrace {
        let section = |name| self.elf.and_then(|elf| elf.section(name));
        let unwinder = section(".eh_frame").map(|frames| Unwinder::new(frames, section(".eh_frame_hdr")));
        let addresses = unwind::walk(unwinder, self.base, self.size, regs, budget, read);
        self.describe(&addresses, budget)
    }

    /// The functions that the instruction at a guest address belongs to,
    /// innermost first: the last one is not inlined. Never empty.
    pub fn lookup(&self, address: u64, budget: &mut Budget) -> Backtrace {
        self.describe(&[address], budget)
    }

    /// The functions at an address of code, then those at return addresses.
    fn describe(&self, addresses: &[u64], budget: &mut Budget) -> Backtrace {
        let places: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(index, &address)| {
                let offset = address.checked_sub(self.base).filter(|offset| *offset < self.size);
                // The call itself, not what follows it.
                let probe = offset.map(|offset| if index == 0 { offset } else { offset.saturating_sub(1) });
                (address, offset, probe)
            })
            .collect();
        let names = self.names(places.iter().filter_map(|(.., probe)| *probe), budget);
        let (mut frames, mut cut) = (Vec::new(), false);
        for (address, offset, probe) in places {
            match probe.and_then(|probe| names.get(&probe)) {
                Some(names) => {
                    cut |= names.cut;
                    frames.extend(names.frames.iter().cloned().map(|frame| Frame {
                        address,
                        offset,
                        ..frame
                    }));
                }
                None => frames.push(Frame::bare(address, None)),
            }
        }
        frames.truncate(MAX_FRAMES);
        let missing = if cut {
            Some("the image's debug information takes more work than a report may cost")
        } else if self.elf.is_some_and(|elf| elf.is_compressed()) {
            Some("the image's debug information is compressed, which hv does not read")
        } else {
            None
        };
        Backtrace { frames, missing }
    }

    /// What is at these offsets: remembered, or found out now.
    fn names(&self, probes: impl Iterator<Item = u64>, budget: &mut Budget) -> HashMap<u64, CachedFrames> {
        let mut names = HashMap::new();
        let mut unknown = Vec::new();
        for probe in probes {
            match self.known.get(probe) {
                Some(known) => drop(names.insert(probe, known)),
                None if unknown.contains(&probe) => {}
                None => unknown.push(probe),
            }
        }
        if unknown.is_empty() {
            return names;
        }
        // These first: they need little, and name most of what runs.
        let symbols: Vec<_> =
            unknown.iter().map(|probe| self.elf.map_or(Ok(None), |elf| elf.symbol(*probe, budget))).collect();
        let dwarf = self.elf.as_ref().and_then(Dwarf::new);
        let units =
            dwarf.as_ref().map_or(Ok(vec![None; unknown.len()]), |dwarf| dwarf.units(&unknown, budget));
        let mut cut = units.is_err();
        let units = units.unwrap_or_else(|_| vec![None; unknown.len()]);
        for ((probe, unit), symbol) in unknown.into_iter().zip(units).zip(symbols) {
            let locations = match (&dwarf, unit) {
                (Some(dwarf), Some(unit)) => dwarf.locations(unit, probe, budget),
                _ => Ok(Vec::new()),
            };
            cut |= matches!(locations, Err(Incomplete::UsedUp)) || matches!(symbol, Err(Incomplete::UsedUp));
            let frames = self.frames(probe, locations.unwrap_or_default(), symbol.unwrap_or_default());
            let found = CachedFrames { frames, cut };
            self.known.put(probe, &found);
            names.insert(probe, found);
        }
        names
    }

    /// The functions at an offset. Never empty.
    fn frames(&self, probe: u64, locations: Vec<Location>, symbol: Option<String>) -> Vec<Frame> {
        let bare = Frame::bare(self.base + probe, Some(probe));
        let frame = |location: Location| Frame {
            function: location.function,
            file: location.file,
            line: location.line,
            inlined: true,
            ..bare.clone()
        };
        let mut frames: Vec<_> = locations.into_iter().take(MAX_FRAMES).map(frame).collect();
        if frames.is_empty() {
            frames.push(bare);
        }
        if let Some(last) = frames.last_mut() {
            last.inlined = false;
            // Line tables alone have the name without its path; the symbol has both.
            let short = last.function.take();
            let base = short.as_deref().and_then(|name| name.split('<').next()).unwrap_or("");
            last.function = symbol.filter(|full| full.contains(base)).or(short);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_symbols_is_an_offset() {
        let frames = Symbols::new(b"not an image", 0x1000, &SymbolCache::default())
            .lookup(0x1234, &mut Budget::default());
        let frames = frames.frames;
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].address, frames[0].offset), (0x1234, None));
    }

    #[inline(never)]
    fn landmark() -> u32 {
        std::hint::black_box(line!())
    }

    /// Where the test program itself is loaded.
    fn own_base() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = std::env::current_exe().unwrap();
        let first = maps.lines().find(|line| line.ends_with(own.to_str().unwrap())).unwrap();
        u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
    }

    #[test]
    fn the_test_program_finds_its_own_functions() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let base = own_base();
        let address = landmark as fn() -> u32 as usize as u64;
        let known = SymbolCache::default();
        let symbols = Symbols::new(&bytes, base, &known);
        // A program with the standard library has far more than a guest.
        let mut budget = Budget { rows: u64::MAX, entries: u64::MAX, bytes: u64::MAX };
        let found = symbols.lookup(address, &mut budget);
        let mut none = Budget { rows: 0, entries: 0, bytes: 0 };
        assert_eq!(symbols.lookup(address, &mut none), found, "what is remembered is what was found");
        assert_eq!(found.missing, None);
        let last = found.frames.last().unwrap();
        assert!(last.function.as_ref().unwrap().contains("landmark"), "{last:?}");
        assert!(last.file.as_ref().unwrap().ends_with("symbols.rs") && !last.inlined);
        assert!(last.line.unwrap().abs_diff(landmark()) <= 2);
        assert_eq!(last.offset, Some(address - base));
    }
}
