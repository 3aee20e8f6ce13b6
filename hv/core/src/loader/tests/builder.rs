//! A valid image, to be spoilt in one point by each test.
//!
//! ```text
//! 0x0000  R    ELF header, program headers, note at 0x500, relocations from 0x600
//! 0x1000  R X  code
//! 0x2000  RW   read-only after relocation; the dynamic section at 0x2100
//! 0x3000       data, in the file up to 0x3048, in memory up to 0x6000
//! ```

use super::super::{Image, ImageError};
use hv_abi::note::Note;
use object::elf;
use zerocopy::IntoBytes;

/// A program header.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file: u64,
    pub(super) memory: u64,
    pub(super) align: u64,
}

/// Offsets of the headers in [`Builder::headers`].
pub(super) const R: usize = 0;
pub(super) const X: usize = 1;
pub(super) const RW: usize = 2;
pub(super) const DYNAMIC: usize = 3;
pub(super) const RELRO: usize = 4;
pub(super) const NOTE: usize = 5;
pub(super) const STACK: usize = 6;

const NOTE_AT: u64 = 0x500;
const RELA_AT: u64 = 0x600;
const RELR_AT: u64 = 0x700;
const DYNAMIC_AT: u64 = 0x2100;
const FILE_SIZE: usize = 0x3048;

#[derive(Clone, Debug)]
pub(super) struct Builder {
    pub(super) headers: Vec<Header>,
    pub(super) note: Vec<u8>,
    /// Target, kind, addend.
    pub(super) rela: Vec<[u64; 3]>,
    pub(super) relr: Vec<u64>,
    /// Dynamic entries in front of those that the relocations need.
    pub(super) dynamic: Vec<(i64, u64)>,
    pub(super) entry: u64,
    pub(super) machine: u16,
    pub(super) file_type: u16,
    /// Words that are written last, by file offset.
    pub(super) patches: Vec<(usize, u64)>,
}

pub(super) fn header(
    kind: elf::ProgramType,
    flags: u32,
    at: u64,
    file: u64,
    memory: u64,
    align: u64,
) -> Header {
    Header { kind: kind.0, flags, offset: at, address: at, file, memory, align }
}

impl Builder {
    pub(super) fn valid() -> Builder {
        let (r, w, x) = (elf::PF_R.0, elf::PF_W.0, elf::PF_X.0);
        let note = Note::new(0x4000, 0).as_bytes().to_vec();
        Builder {
            headers: vec![
                header(elf::PT_LOAD, r, 0, 0x800, 0x800, 0x1000),
                header(elf::PT_LOAD, r | x, 0x1000, 0x800, 0x800, 0x1000),
                header(elf::PT_LOAD, r | w, 0x2000, 0x1048, 0x4000, 0x1000),
                header(elf::PT_DYNAMIC, r | w, DYNAMIC_AT, 0x100, 0x100, 8),
                header(elf::PT_GNU_RELRO, r, 0x2000, 0x1000, 0x1000, 1),
                header(elf::PT_NOTE, r, NOTE_AT, note.len() as u64, note.len() as u64, 8),
                header(elf::PT_GNU_STACK, r | w, 0, 0, 0, 16),
            ],
            note,
            rela: vec![[0x2000, 8, 0x1010], [0x3008, 8, 0x3000], [0x4000, 8, 0x6000]],
            relr: Vec::new(),
            dynamic: Vec::new(),
            entry: 0x1010,
            machine: elf::EM_X86_64.0,
            file_type: elf::ET_DYN.0,
            patches: Vec::new(),
        }
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0xd7; FILE_SIZE];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(16, &self.file_type.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        for (at, word) in [(24, self.entry), (32, 64), (40, 0), (48, 0)] {
            put(at, &word.to_le_bytes());
        }
        for (at, half) in [(52, 64), (54, 56), (56, self.headers.len() as u16), (58, 64), (60, 0), (62, 0)] {
            put(at, &half.to_le_bytes());
        }
        for (index, header) in self.headers.iter().enumerate() {
            let at = 64 + index * 56;
            put(at, &header.kind.to_le_bytes());
            put(at + 4, &header.flags.to_le_bytes());
            let Header { offset, address, file, memory, align, .. } = *header;
            for (word, value) in [offset, address, address, file, memory, align].into_iter().enumerate() {
                put(at + 8 + word * 8, &value.to_le_bytes());
            }
        }
        put(NOTE_AT as usize, &self.note);
        for (index, word) in self.rela.as_flattened().iter().enumerate() {
            put(RELA_AT as usize + index * 8, &word.to_le_bytes());
        }
        for (index, word) in self.relr.iter().enumerate() {
            put(RELR_AT as usize + index * 8, &word.to_le_bytes());
        }
        for (index, (tag, value)) in self.dynamic_entries().into_iter().enumerate() {
            let at = DYNAMIC_AT as usize + index * 16;
            put(at, &tag.to_le_bytes());
            put(at + 8, &value.to_le_bytes());
        }
        for (at, word) in &self.patches {
            put(*at, &word.to_le_bytes());
        }
        bytes
    }

    fn dynamic_entries(&self) -> Vec<(i64, u64)> {
        let mut entries = self.dynamic.clone();
        if !self.rela.is_empty() {
            let size = self.rela.len() as u64 * 24;
            entries.extend([(elf::DT_RELA.0, RELA_AT), (elf::DT_RELASZ.0, size), (elf::DT_RELAENT.0, 24)]);
        }
        if !self.relr.is_empty() {
            let size = self.relr.len() as u64 * 8;
            entries.extend([(elf::DT_RELR.0, RELR_AT), (elf::DT_RELRSZ.0, size), (elf::DT_RELRENT.0, 8)]);
        }
        entries.push((elf::DT_NULL.0, 0));
        entries
    }

    pub(super) fn parse(&self) -> Result<Image, ImageError> {
        Image::parse(self.build())
    }

    pub(super) fn refused(&self) -> ImageError {
        self.parse().unwrap_err()
    }
}
