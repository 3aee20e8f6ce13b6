//! Relocations: which words of an image hold an address.
//!
//! A static PIE needs a single kind, `R_X86_64_RELATIVE`: the word becomes the
//! base plus an addend (psABI for AMD64, section "Relocation"). They come from
//! the tables `DT_RELA` and `DT_JMPREL`, and in the packed form `DT_RELR` of
//! the gABI, where the word itself holds the addend.

use super::parse::table;
use super::{ImageError, LoadSegment, MAX_RELOCATIONS};
use crate::memory::Access;
use object::LittleEndian as LE;
use object::elf::{self, Dyn64, Rela64};
use std::ops::Range;

/// A word that becomes the image's base plus `addend`. Offsets of an image fit
/// in 32 bits ([`super::MAX_IMAGE_SIZE`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    target: u32,
    addend: u32,
}

impl Relocation {
    /// The word's place, in bytes from the image's base.
    pub(super) fn target(self) -> u64 {
        self.target.into()
    }

    /// What the word becomes when the image's base is at `base`.
    pub(super) fn value(self, base: u64) -> u64 {
        base.wrapping_add(self.addend.into())
    }
}

/// The entries of the dynamic section that concern relocation.
#[derive(Default)]
struct Dynamic {
    rela: Option<u64>,
    rela_size: u64,
    jmprel: Option<u64>,
    jmprel_size: u64,
    relr: Option<u64>,
    relr_size: u64,
}

impl Dynamic {
    /// Reads the section until its end or a `DT_NULL`.
    fn read(bytes: &[u8], section: Range<usize>) -> Result<Dynamic, ImageError> {
        let mut dynamic = Dynamic::default();
        let count = section.len() / size_of::<Dyn64<LE>>();
        for entry in table::<Dyn64<LE>>(bytes, "PT_DYNAMIC", section.start as u64, count)? {
            let value = entry.d_val.get(LE);
            let expect = |tag, expected: u64, reason| match value {
                _ if value == expected => Ok(()),
                _ => Err(ImageError::DynamicEntry { tag, value, reason }),
            };
            match entry.d_tag.get(LE) {
                elf::DT_NULL => break,
                elf::DT_NEEDED => return Err(ImageError::Dynamic { what: "DT_NEEDED" }),
                elf::DT_RELA => dynamic.rela = Some(value),
                elf::DT_RELASZ => dynamic.rela_size = value,
                elf::DT_RELAENT => expect("DT_RELAENT", 24, "is not the size of an entry, 24")?,
                elf::DT_JMPREL => dynamic.jmprel = Some(value),
                elf::DT_PLTRELSZ => dynamic.jmprel_size = value,
                elf::DT_PLTREL => expect("DT_PLTREL", elf::DT_RELA.0 as u64, "is not DT_RELA, 7")?,
                elf::DT_RELR => dynamic.relr = Some(value),
                elf::DT_RELRSZ => dynamic.relr_size = value,
                elf::DT_RELRENT => expect("DT_RELRENT", 8, "is not the size of an entry, 8")?,
                elf::DT_REL => {
                    let reason = "is a kind of table that x86-64 does not have";
                    return Err(ImageError::DynamicEntry { tag: "DT_REL", value, reason });
                }
                _ => {}
            }
        }
        Ok(dynamic)
    }
}

/// Validates all relocations of an image of `size` bytes, and sorts them by their targets.
pub(super) fn relocations(
    bytes: &[u8],
    section: Range<usize>,
    loads: &[LoadSegment],
    size: u64,
) -> Result<Vec<Relocation>, ImageError> {
    let dynamic = Dynamic::read(bytes, section)?;
    let mut validate = Validator { loads, size, recent: 0, relocations: Vec::new() };
    let rela =
        [(dynamic.rela, dynamic.rela_size, "DT_RELA"), (dynamic.jmprel, dynamic.jmprel_size, "DT_JMPREL")];
    for (address, table_size, tag) in rela {
        let entries = validate.table::<Rela64<LE>>(bytes, tag, address, table_size)?;
        validate.relocations.reserve(entries.len());
        for entry in entries {
            validate.rela(entry)?;
        }
    }
    let entries = validate.table::<object::U64<LE>>(bytes, "DT_RELR", dynamic.relr, dynamic.relr_size)?;
    validate.relr(bytes, entries)?;
    let mut relocations = validate.relocations;
    // Linkers sort them already. A stable sort keeps the last of two for a word the last.
    if !relocations.is_sorted_by_key(|relocation| relocation.target) {
        relocations.sort_by_key(|relocation| relocation.target);
    }
    Ok(relocations)
}

struct Validator<'a> {
    loads: &'a [LoadSegment],
    size: u64,
    /// Index of the segment that the last target was in; the next one is mostly in it too.
    recent: usize,
    relocations: Vec<Relocation>,
}

impl Validator<'_> {
    /// The table of `size` bytes at an address of the image.
    fn table<'b, T: object::Pod>(
        &self,
        bytes: &'b [u8],
        tag: &'static str,
        address: Option<u64>,
        size: u64,
    ) -> Result<&'b [T], ImageError> {
        if size == 0 {
            return Ok(&[]);
        }
        let Some(address) = address else {
            let reason = "is the size of a table that is not there";
            return Err(ImageError::DynamicEntry { tag: size_tag(tag), value: size, reason });
        };
        let in_file = |load: &&LoadSegment| {
            let len = load.file.len() as u64;
            address.checked_sub(load.memory.start).is_some_and(|at| at <= len && size <= len - at)
        };
        let Some(load) = self.loads.iter().find(in_file) else {
            let reason = "with its size is not inside a segment of the file";
            return Err(ImageError::DynamicEntry { tag, value: address, reason });
        };
        if !size.is_multiple_of(size_of::<T>() as u64) {
            let reason = "is no multiple of the size of an entry";
            return Err(ImageError::DynamicEntry { tag: size_tag(tag), value: size, reason });
        }
        let count = size as usize / size_of::<T>();
        if count > MAX_RELOCATIONS {
            return Err(ImageError::TooMany { what: "relocations", count, limit: MAX_RELOCATIONS });
        }
        table(bytes, tag, load.file.start as u64 + (address - load.memory.start), count)
    }

    fn rela(&mut self, entry: &Rela64<LE>) -> Result<(), ImageError> {
        let target = entry.r_offset.get(LE);
        let info = entry.r_info.get(LE);
        match elf::RelocationType(info as u32) {
            elf::R_X86_64_NONE => Ok(()),
            elf::R_X86_64_RELATIVE => self.add(target, entry.r_addend.get(LE) as u64).map(|_| ()),
            kind => Err(refused(target, kind)),
        }
    }

    /// Entries are addresses (even), each followed by bitmaps (odd) of the 63 words behind.
    fn relr(&mut self, bytes: &[u8], entries: &[object::U64<LE>]) -> Result<(), ImageError> {
        let mut next = 0u64;
        for entry in entries {
            let entry = entry.get(LE);
            if entry & 1 == 0 {
                self.packed(bytes, entry)?;
                next = entry.wrapping_add(8);
                continue;
            }
            for bit in (0..63).filter(|bit| entry >> (bit + 1) & 1 != 0) {
                self.packed(bytes, next.wrapping_add(bit * 8))?;
            }
            next = next.wrapping_add(63 * 8);
        }
        Ok(())
    }

    fn packed(&mut self, bytes: &[u8], target: u64) -> Result<(), ImageError> {
        let load = self.validate(target)?;
        let at = load.file.start + (target - load.memory.start) as usize;
        // Memory that is not in the file holds zero.
        let word =
            bytes[..load.file.end].get(at..at + 8).map_or([0; 8], |word| word.try_into().unwrap_or([0; 8]));
        self.add(target, u64::from_le_bytes(word))
    }

    /// The segment that the word at `target` is in, if it may be relocated.
    fn validate(&mut self, target: u64) -> Result<&LoadSegment, ImageError> {
        if !target.is_multiple_of(8) {
            return Err(ImageError::RelocationAlignment { target });
        }
        let inside = |load: &LoadSegment| load.memory.start <= target && target + 8 <= load.memory.end;
        if target >= self.size {
            return Err(ImageError::RelocationTarget { target });
        }
        if !inside(&self.loads[self.recent]) {
            let found = self.loads.iter().position(inside);
            self.recent = found.ok_or(ImageError::RelocationTarget { target })?;
        }
        let load = &self.loads[self.recent];
        if !load.access.contains(Access::WRITE) {
            return Err(ImageError::TextRelocation { target });
        }
        Ok(load)
    }

    fn add(&mut self, target: u64, addend: u64) -> Result<(), ImageError> {
        self.validate(target)?;
        // The address right behind the image is where a slice may end.
        if addend > self.size {
            return Err(ImageError::RelocationAddend { target, addend, size: self.size });
        }
        if self.relocations.len() == MAX_RELOCATIONS {
            let count = MAX_RELOCATIONS + 1;
            return Err(ImageError::TooMany { what: "relocations", count, limit: MAX_RELOCATIONS });
        }
        self.relocations.push(Relocation { target: target as u32, addend: addend as u32 });
        Ok(())
    }
}

fn size_tag(tag: &str) -> &'static str {
    match tag {
        "DT_RELA" => "DT_RELASZ",
        "DT_JMPREL" => "DT_PLTRELSZ",
        _ => "DT_RELRSZ",
    }
}

fn refused(target: u64, kind: elf::RelocationType) -> ImageError {
    const LINK: &str = "link with -static-pie and no shared library";
    const TLS: &str = "guests have no thread-local storage, use statics";
    let (name, remedy) = match kind {
        elf::R_X86_64_64 => ("R_X86_64_64", LINK),
        elf::R_X86_64_COPY => ("R_X86_64_COPY", LINK),
        elf::R_X86_64_GLOB_DAT => ("R_X86_64_GLOB_DAT", LINK),
        elf::R_X86_64_JUMP_SLOT => ("R_X86_64_JUMP_SLOT", LINK),
        elf::R_X86_64_DTPMOD64 => ("R_X86_64_DTPMOD64", TLS),
        elf::R_X86_64_DTPOFF64 => ("R_X86_64_DTPOFF64", TLS),
        elf::R_X86_64_TPOFF64 => ("R_X86_64_TPOFF64", TLS),
        elf::R_X86_64_TLSDESC => ("R_X86_64_TLSDESC", TLS),
        elf::R_X86_64_IRELATIVE => {
            ("R_X86_64_IRELATIVE", "guests cannot choose functions when they are loaded, link no C library")
        }
        _ => ("unknown", LINK),
    };
    ImageError::RelocationKind { target, kind: format!("{} ({name})", kind.0), remedy }
}
