//! Guest images: validated, relocated and laid out, before any of it runs.
//!
//! An image is a static position-independent ELF program for x86-64 with the
//! note of [`hv_abi::note`]. The format is that of the System V gABI (chapters
//! "Object Files" and "Program Loading"), the relocations those of its
//! processor supplement for AMD64.
//!
//! The file is not trusted: [`Image::parse`] validates everything that the rest relies on, and there is no
//! other way to make an [`Image`]. It reads the program headers and the dynamic section only; sections and
//! symbols are for [`crate::crash`], and for the message to the author of an image that lacks functions
//! (`missing`).
//!
//! This module does not know where a guest's memory is: [`Image::load`] passes offsets and bytes to the
//! caller, which writes them.
#![forbid(unsafe_code)]

mod error;
mod missing;
mod parse;
mod relocate;
#[cfg(test)]
mod tests;

pub use error::{ImageError, ImageOpenError};
pub use missing::{FunctionUser, MissingFunction};

use crate::crash::SymbolCache;
use crate::memory::Access;
use hv_abi::PAGE_SIZE;
use hv_abi::note::NoteDesc;
use relocate::Relocation;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

/// Most bytes that the file of an image may have.
pub const MAX_FILE_SIZE: u64 = 256 << 20;

/// Most bytes of address space that an image may take.
pub const MAX_IMAGE_SIZE: u64 = 1 << 30;

/// Most segments that an image may have; linkers make four or five.
pub const MAX_SEGMENTS: usize = 16;

/// Greatest alignment that a segment may ask for: a huge page.
pub const MAX_ALIGNMENT: u64 = 2 << 20;

/// Most words of an image that may hold an address. It bounds what a small
/// file can make the host remember; a large Rust program has some thousands.
pub const MAX_RELOCATIONS: usize = 1 << 20;

/// Bytes that are read before it is known how many are needed; enough for a small guest.
const FIRST_READ: u64 = 64 << 10;

/// A range of the image's memory, and what the guest may do there once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bytes from the image's base; page-aligned, not empty.
    pub range: Range<u64>,
    /// Always with `READ`; never `WRITE` together with `EXECUTE`.
    pub access: Access,
}

/// A loadable segment as the file has it.
#[derive(Clone, Debug)]
struct LoadSegment {
    /// Bytes from the image's base.
    memory: Range<u64>,
    /// Where its first bytes stand in the file; the rest is zero.
    file: Range<usize>,
    /// While the host loads; the guest's permissions are in [`Segment`].
    access: Access,
}

/// A guest's program, ready to be loaded any number of times.
#[derive(Debug)]
pub struct Image {
    /// At least everything that the program headers name.
    bytes: Vec<u8>,
    /// Where the rest of the bytes is, if not in `bytes`. It stays open, so
    /// that a crash is not explained with the symbols of a later build.
    file: Option<File>,
    whole: OnceLock<Vec<u8>>,
    known: SymbolCache,
    note: NoteDesc,
    /// Where the head of the list of tasks is, from the image's base; nothing that was checked.
    tasks: Option<u64>,
    size: u64,
    alignment: u64,
    entry: u64,
    /// In ascending order, disjoint.
    loads: Vec<LoadSegment>,
    segments: Vec<Segment>,
    /// In ascending order of their targets.
    relocations: Vec<Relocation>,
}

impl Image {
    /// Reads and validates the image in the file at `path`, of at most [`MAX_FILE_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// If there is no such file, it is none or too large, or it cannot be read; [`ImageOpenError::Image`] if it is no image that hv can run.
    pub fn open(path: &Path) -> Result<Image, ImageOpenError> {
        let failed = |source| ImageOpenError::Read { path: path.to_owned(), source };
        // So that a pipe without a writer does not block; for files it changes nothing.
        let mut file =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            let kind = match () {
                () if kind.is_dir() => "a directory",
                () if kind.is_fifo() => "a pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(ImageOpenError::NotAFile { path: path.to_owned(), kind });
        }
        if metadata.len() > MAX_FILE_SIZE {
            return Err(ImageOpenError::TooLarge { path: path.to_owned(), limit: MAX_FILE_SIZE });
        }
        // What follows the segments is for debuggers and often several times as large: it is not read at
        // every boot.
        let mut bytes = Vec::new();
        file.by_ref().take(FIRST_READ).read_to_end(&mut bytes).map_err(failed)?;
        let rest = parse::needed(&bytes).min(MAX_FILE_SIZE).saturating_sub(bytes.len() as u64);
        bytes.reserve_exact(rest.min(metadata.len()) as usize);
        file.by_ref().take(rest).read_to_end(&mut bytes).map_err(failed)?;
        match Image::parse(bytes) {
            Ok(image) => Ok(Image { file: Some(file), ..image }),
            Err(source) => {
                let source = missing::explain(source, || read_whole(&file).unwrap_or_default());
                Err(ImageOpenError::Image { path: path.to_owned(), source })
            }
        }
    }

    /// Validates the bytes of an ELF file. No bytes whatsoever make it panic.
    ///
    /// # Errors
    ///
    /// What about the bytes is not as in an image that hv can run.
    pub fn parse(bytes: Vec<u8>) -> Result<Image, ImageError> {
        parse::image(bytes)
    }

    /// The whole file, for what reads its symbols; read when it is first
    /// asked for. Without the symbols if that fails.
    pub fn bytes(&self) -> &[u8] {
        let Some(file) = &self.file else { return &self.bytes };
        self.whole.get_or_init(|| read_whole(file).unwrap_or_else(|_| self.bytes.clone()))
    }

    /// What was found in its symbols so far.
    pub(crate) fn known(&self) -> &SymbolCache {
        &self.known
    }

    /// Where the image says that the head of its list of tasks is, from the image's base. Nothing that was checked.
    pub(crate) fn tasks(&self) -> Option<u64> {
        self.tasks
    }

    /// The guest's note: what its build tells the host.
    pub fn note(&self) -> NoteDesc {
        self.note
    }

    /// Bytes of address space from the image's base to its end, a multiple of
    /// the page size, at most [`MAX_IMAGE_SIZE`] rounded up.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the base must be a multiple of: a page, or more if a static of the
    /// guest asks for it; a power of two, at most [`MAX_ALIGNMENT`].
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where the guest starts, in bytes from the image's base; inside an executable segment.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What the guest may do with which pages, in ascending order and
    /// disjoint. What only relocation changes is already read-only here, and
    /// pages between the segments are not the guest's.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Number of words that hold an address and are relocated by [`Image::load`].
    pub fn relocations(&self) -> usize {
        self.relocations.len()
    }

    /// Calls `write` with offsets from the image's base and the bytes that
    /// belong there when the base is at guest address `base`.
    ///
    /// Every write is inside one segment. What is not written is zero, which
    /// the memory must be already.
    pub fn load(&self, base: u64, write: &mut dyn FnMut(u64, &[u8])) {
        debug_assert!(base.is_multiple_of(self.alignment));
        let mut rest = &self.relocations[..];
        let mut copy = Vec::new();
        for load in &self.loads {
            let start = load.memory.start;
            let mine;
            (mine, rest) = rest.split_at(rest.partition_point(|r| r.target() < load.memory.end));
            let file = &self.bytes[load.file.clone()];
            // A word in the part that is not in the file has no place in the copy.
            let in_file = mine.partition_point(|r| r.target() + 8 <= start + file.len() as u64);
            let (in_file, behind) = mine.split_at(in_file);
            if in_file.is_empty() {
                if !file.is_empty() {
                    write(start, file);
                }
            } else {
                copy.clear();
                copy.extend_from_slice(file);
                for relocation in in_file {
                    let at = (relocation.target() - start) as usize;
                    copy[at..at + 8].copy_from_slice(&relocation.value(base).to_le_bytes());
                }
                write(start, &copy);
            }
            for relocation in behind {
                write(relocation.target(), &relocation.value(base).to_le_bytes());
            }
        }
    }
}

/// The bytes of a file, whatever was read of it before.
fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    const CHUNK: usize = 1 << 20;
    let mut whole = Vec::new();
    while (whole.len() as u64) < MAX_FILE_SIZE {
        let have = whole.len();
        whole.resize(have + CHUNK, 0);
        let count = file.read_at(&mut whole[have..], have as u64)?;
        whole.truncate(have + count);
        if count == 0 {
            break;
        }
    }
    whole.shrink_to_fit();
    Ok(whole)
}

/// The first page boundary at or behind `value`, which is below [`MAX_IMAGE_SIZE`].
fn page_up(value: u64) -> u64 {
    value.next_multiple_of(PAGE_SIZE)
}

/// The last page boundary at or before `value`.
fn page_down(value: u64) -> u64 {
    value - value % PAGE_SIZE
}
