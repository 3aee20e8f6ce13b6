//! The ELF note that makes a program a guest of hv.
//!
//! It stands in a `PT_NOTE` segment with the owner `hv` and type [`NOTE_TYPE`],
//! and is checked before anything of the image is loaded.

use crate::{ABI_VERSION, AbiVersion, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Owner name of the note, with the NUL that ELF asks for.
pub const NOTE_NAME: [u8; 3] = *b"hv\0";

/// Type of the note.
pub const NOTE_TYPE: u32 = 1;

/// What the guest's builder tells the host; the note's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NoteDesc {
    /// Major version of the ABI that the guest was built for.
    pub abi_major: u16,
    /// Minor version of the ABI that the guest was built for.
    pub abi_minor: u16,
    /// Bytes of stack that the guest wants, rounded up to pages; 0 leaves it to the host.
    pub stack_size: u32,
    /// Bytes of memory below which the guest cannot start; 0 when it does not care.
    pub min_memory: u64,
}

layout!(NoteDesc: 16 { abi_major @ 0, abi_minor @ 2, stack_size @ 4, min_memory @ 8 });

impl NoteDesc {
    /// The ABI version asked for.
    pub const fn version(&self) -> AbiVersion {
        AbiVersion { major: self.abi_major, minor: self.abi_minor }
    }
}

/// The whole note as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Note {
    name_size: u32,
    desc_size: u32,
    note_type: u32,
    name: [u8; 4],
    /// The descriptor.
    pub desc: NoteDesc,
}

layout!(Note: 32 { name_size @ 0, desc_size @ 4, note_type @ 8, name @ 12, desc @ 16 });

impl Note {
    /// A note for this version of the ABI.
    pub const fn new(stack_size: u32, min_memory: u64) -> Note {
        Note {
            name_size: NOTE_NAME.len() as u32,
            desc_size: core::mem::size_of::<NoteDesc>() as u32,
            note_type: NOTE_TYPE,
            name: *b"hv\0\0",
            desc: NoteDesc {
                abi_major: ABI_VERSION.major,
                abi_minor: ABI_VERSION.minor,
                stack_size,
                min_memory,
            },
        }
    }
}
