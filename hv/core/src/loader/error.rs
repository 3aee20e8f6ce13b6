//! What can be wrong with an image: each defect by name, with the offending value and a remedy.

use super::missing::{self, MissingFunction};
use hv_abi::{ABI_VERSION, AbiVersion};
use hv_host::escape::escape;
use std::path::PathBuf;

/// Why the file of an image cannot be used; one line, with the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageOpenError {
    /// The file cannot be opened or read.
    #[error("cannot read the image {}: {source}", escape(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is a directory, a pipe, a device …
    #[error("the image {} is {kind}, not a file: name the guest's ELF file", escape(path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// It is larger than any guest can be.
    #[error("the image {} is larger than {} MiB: strip its debug information", escape(path), limit >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that an image may have.
        limit: u64,
    },
    /// It was read, and is not an image that this host can load.
    #[error("cannot load {}: {source}", escape(path))]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with its contents.
        source: ImageError,
    },
}

/// Why bytes are not an image of a guest that this host can load.
///
/// Addresses are those of the image, as `readelf -l` shows them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The first bytes are not those of an ELF file.
    #[error("it is not an ELF file (it begins with {start:02x?}): give a guest program")]
    NotElf {
        /// The file's first bytes, at most four.
        start: Vec<u8>,
    },
    /// The ELF class is not 64-bit.
    #[error("it is not a 64-bit program (ELF class {class}): build for x86_64-unknown-linux-gnu")]
    NotClass64 {
        /// `e_ident[EI_CLASS]`.
        class: u8,
    },
    /// The data encoding is not little-endian.
    #[error("it is not little-endian (ELF encoding {encoding}): build for x86_64-unknown-linux-gnu")]
    NotLittleEndian {
        /// `e_ident[EI_DATA]`.
        encoding: u8,
    },
    /// It was built for another processor.
    #[error("it is built for {name} (ELF machine {machine}): build for x86_64-unknown-linux-gnu")]
    Machine {
        /// `e_machine`.
        machine: u16,
        /// The processor's name, where known.
        name: &'static str,
    },
    /// It has a fixed address, or is not a program.
    #[error("it is {name} (ELF type {file_type}), not a static PIE: link with -static-pie")]
    NotPie {
        /// `e_type`.
        file_type: u16,
        /// What such a file is, with its article.
        name: &'static str,
    },
    /// It needs a dynamic linker or shared libraries.
    #[error("it is dynamically linked ({what} is present): link with -static-pie, as docs/guests.md does")]
    Dynamic {
        /// The entry that says so.
        what: &'static str,
    },
    /// Crates in it call functions of Linux's C library that the SDK does not have.
    #[error(
        "it calls C functions that a guest does not have: {}: leave the crate or its feature out, or define the \
         function in the guest (docs/guests.md has those that work)",
        missing::list(missing, *more)
    )]
    Missing {
        /// The first functions in the order of their names.
        missing: Vec<MissingFunction>,
        /// How many more there are.
        more: usize,
    },
    /// Program headers of another size than the format's.
    #[error("its program headers have {size} bytes each instead of 56: the file is damaged, build it again")]
    HeaderSize {
        /// `e_phentsize`.
        size: u16,
    },
    /// Something reaches behind the end of the file.
    #[error(
        "{what} at file offset {offset:#x} with {size:#x} bytes reaches behind the end of the file \
         ({len:#x} bytes): the file is truncated, build or copy it again"
    )]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Where it begins in the file.
        offset: u64,
        /// Its size in bytes.
        size: u64,
        /// Bytes that the file has.
        len: u64,
    },
    /// Nothing to load.
    #[error("it has no loadable segment: it is not a linked program")]
    NoSegments,
    /// More headers than any linker makes.
    #[error("it has {count} {what}, more than the limit of {limit}: link with the default linker script")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Something that must be unique is there twice.
    #[error("it has two of {what}, which leaves open which one counts: link only one copy of hv-guest")]
    Duplicate {
        /// What is there twice.
        what: &'static str,
    },
    /// It is a program, but not one for this host.
    #[error("it is not a guest of hv (there is no hv note in it): depend on the SDK, the crate hv-guest")]
    NoNote,
    /// A note segment that does not follow the format.
    #[error("the note segment at file offset {offset:#x} is malformed: {reason}; build the guest again")]
    MalformedNote {
        /// Where the segment begins in the file.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The hv note's descriptor is too short.
    #[error("its hv note has {size} bytes instead of {expected}: build it with a released hv-guest")]
    NoteSize {
        /// Bytes of the descriptor.
        size: usize,
        /// Bytes that it should have.
        expected: usize,
    },
    /// Built for an ABI that this host cannot run.
    #[error("it needs version {guest} of the guest ABI and this host has {host}: {}", version_remedy(*guest, *host))]
    Version {
        /// What the guest was built for.
        guest: AbiVersion,
        /// [`ABI_VERSION`].
        host: AbiVersion,
    },
    /// Its segments allow code to be changed.
    #[error("the segment at {address:#x} is writable and executable: keep code and data apart")]
    WritableCode {
        /// The segment's address.
        address: u64,
    },
    /// An executable stack is asked for.
    #[error("it asks for an executable stack (PT_GNU_STACK): link with -z noexecstack")]
    ExecutableStack,
    /// Thread-local storage, which guests do not have.
    #[error("it has thread-local storage (PT_TLS at {address:#x}), which guests do not have: use statics")]
    ThreadLocal {
        /// The segment's address.
        address: u64,
    },
    /// A segment's numbers are impossible.
    #[error(
        "the segment at {address:#x} has {file_size:#x} bytes in the file but {memory_size:#x} in memory: \
         the file is damaged, build it again"
    )]
    FileSize {
        /// The segment's address.
        address: u64,
        /// Bytes in the file.
        file_size: u64,
        /// Bytes in memory.
        memory_size: u64,
    },
    /// A segment lies outside the addresses that an image may use.
    #[error(
        "the segment at {address:#x} with {size:#x} bytes ends behind the limit of {limit:#x}: make statics smaller"
    )]
    OutsideImage {
        /// The segment's address.
        address: u64,
        /// Bytes in memory.
        size: u64,
        /// First address that an image cannot use.
        limit: u64,
    },
    /// Segments share bytes, or are not in the order of their addresses.
    #[error(
        "the segment at {address:#x} begins before the one in front of it ends ({end:#x}): link with the default linker script"
    )]
    Overlap {
        /// The later segment's address.
        address: u64,
        /// Where the one before it ends.
        end: u64,
    },
    /// Segments of different permissions need the same page.
    #[error(
        "the segment at {address:#x} shares a page with one of other permissions: link with -z separate-code"
    )]
    SharedPage {
        /// The later segment's address.
        address: u64,
    },
    /// An alignment that the loader cannot give.
    #[error(
        "the segment at {address:#x} has an alignment of {align:#x}: use a power of two up to {limit:#x} (-z max-page-size)"
    )]
    Alignment {
        /// The segment's address.
        address: u64,
        /// `p_align`.
        align: u64,
        /// The greatest alignment allowed.
        limit: u64,
    },
    /// Address and file offset disagree modulo the alignment.
    #[error(
        "the segment at {address:#x} is at file offset {offset:#x}, which does not match modulo its alignment \
         of {align:#x}: the file is damaged, build it again"
    )]
    Congruence {
        /// The segment's address.
        address: u64,
        /// `p_offset`.
        offset: u64,
        /// `p_align`.
        align: u64,
    },
    /// The entry point is not code.
    #[error(
        "its entry point {entry:#x} is in no executable segment: name it with -e, as the SDK's build script does"
    )]
    Entry {
        /// `e_entry`.
        entry: u64,
    },
    /// The part that becomes read-only is not inside one segment.
    #[error(
        "PT_GNU_RELRO at {address:#x} with {size:#x} bytes is not inside one segment: link with -z norelro"
    )]
    Relro {
        /// Where it begins.
        address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A dynamic entry whose value does not fit the format.
    #[error("its dynamic entry {tag} is {value:#x}, which {reason}: the file is damaged, build it again")]
    DynamicEntry {
        /// The entry's name.
        tag: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A relocation that needs more than the load address.
    #[error("the relocation of {target:#x} is of kind {kind}; only R_X86_64_RELATIVE is possible: {remedy}")]
    RelocationKind {
        /// The address to relocate.
        target: u64,
        /// The kind's number and, where known, name.
        kind: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A relocation of a word that does not begin at a multiple of 8.
    #[error("the relocation of {target:#x} is not aligned to 8 bytes: keep addresses out of packed statics")]
    RelocationAlignment {
        /// The address to relocate.
        target: u64,
    },
    /// A relocation of memory that no segment has.
    #[error("the relocation of {target:#x} is outside every segment: the file is damaged, build it again")]
    RelocationTarget {
        /// The address to relocate.
        target: u64,
    },
    /// A relocation of code or constants.
    #[error("the relocation of {target:#x} is in a read-only segment: link with -z text to find the culprit")]
    TextRelocation {
        /// The address to relocate.
        target: u64,
    },
    /// A relocated word that would point outside the image.
    #[error(
        "the relocation of {target:#x} points to {addend:#x}, outside the image ({size:#x} bytes): build it again"
    )]
    RelocationAddend {
        /// The address to relocate.
        target: u64,
        /// Where it points to.
        addend: u64,
        /// Bytes of the image.
        size: u64,
    },
}

fn version_remedy(guest: AbiVersion, host: AbiVersion) -> &'static str {
    if (guest.major, guest.minor) > (host.major, host.minor) {
        "update hv, or build the guest with an older hv-guest"
    } else {
        "build the guest with a newer hv-guest"
    }
}

impl ImageError {
    pub(super) fn version(guest: AbiVersion) -> ImageError {
        ImageError::Version { guest, host: ABI_VERSION }
    }
}
