//! Validation of images: from bytes to an [`Image`] whose every number was checked.

use super::{
    Image, ImageError, LoadSegment, MAX_ALIGNMENT, MAX_IMAGE_SIZE, MAX_SEGMENTS, Segment, page_down, page_up,
    relocate,
};
use crate::crash::SymbolCache;
use crate::memory::Access;
use hv_abi::note::{NOTE_NAME, NOTE_TYPE, NoteDesc};
use hv_abi::tasks::{TASKS_NOTE_TYPE, TASKS_VERSION, TasksNote};
use hv_abi::{ABI_VERSION, PAGE_SIZE};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod;
use object::read::elf::NoteIterator;
use object::{LittleEndian as LE, Pod};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::OnceLock;
use zerocopy::FromBytes;

type ElfHeader = ProgramHeader64<LE>;

/// Most program headers of any kind; linkers make about a dozen.
const MAX_HEADERS: usize = 64;

/// Validates a whole file.
pub(super) fn image(bytes: Vec<u8>) -> Result<Image, ImageError> {
    let file = file_header(&bytes)?;
    let headers = program_headers(&bytes, file)?;
    let kinds = Kinds::sort(headers)?;
    // The version comes before all that a version might change.
    let (note, tasks) = notes(&bytes, &kinds.notes)?;
    if let Some(header) = kinds.tls {
        return Err(ImageError::ThreadLocal { address: header.p_vaddr.get(LE) });
    }
    if kinds.stack.is_some_and(|header| header.p_flags.get(LE).0 & elf::PF_X.0 != 0) {
        return Err(ImageError::ExecutableStack);
    }
    let (loads, alignment) = loads(&bytes, &kinds.loads)?;
    let size = page_up(loads.last().map_or(0, |load| load.memory.end));
    let segments = segments(&loads, kinds.relro)?;
    let entry = file.e_entry.get(LE);
    if !loads.iter().any(|load| load.access.contains(Access::EXECUTE) && load.memory.contains(&entry)) {
        return Err(ImageError::Entry { entry });
    }
    let relocations = match kinds.dynamic {
        Some(header) => {
            relocate::relocations(&bytes, file_range(&bytes, header, "PT_DYNAMIC")?, &loads, size)?
        }
        None => Vec::new(),
    };
    let (file, whole, known) = (None, OnceLock::new(), SymbolCache::default());
    Ok(Image { file, whole, known, note, tasks, size, alignment, entry, loads, segments, relocations, bytes })
}

/// How many bytes of a file that begins like `bytes` its program headers name:
/// more cannot change the validation.
pub(super) fn needed(bytes: &[u8]) -> u64 {
    let headers = match file_header(bytes).and_then(|file| program_headers(bytes, file)) {
        Ok(headers) => headers,
        // The headers themselves may be anywhere.
        Err(ImageError::Truncated { .. }) => return u64::MAX,
        Err(_) => return 0,
    };
    let ends = headers.iter().map(|header| header.p_offset.get(LE).saturating_add(header.p_filesz.get(LE)));
    ends.max().unwrap_or(0)
}

/// `count` structs of the file at `offset`.
pub(super) fn table<'a, T: Pod>(
    bytes: &'a [u8],
    what: &'static str,
    offset: u64,
    count: usize,
) -> Result<&'a [T], ImageError> {
    let size = (count as u64).saturating_mul(size_of::<T>() as u64);
    let range = range(bytes, what, offset, size)?;
    // Every struct of the format is made of bytes, so alignment cannot fail.
    pod::slice_from_bytes(&bytes[range], count).map(|(table, _)| table).map_err(|()| ImageError::Truncated {
        what,
        offset,
        size,
        len: bytes.len() as u64,
    })
}

fn range(bytes: &[u8], what: &'static str, offset: u64, size: u64) -> Result<Range<usize>, ImageError> {
    let len = bytes.len() as u64;
    match offset.checked_add(size) {
        Some(end) if end <= len => Ok(offset as usize..end as usize),
        _ => Err(ImageError::Truncated { what, offset, size, len }),
    }
}

fn file_range(bytes: &[u8], header: &ElfHeader, what: &'static str) -> Result<Range<usize>, ImageError> {
    range(bytes, what, header.p_offset.get(LE), header.p_filesz.get(LE))
}

fn file_header(bytes: &[u8]) -> Result<&FileHeader64<LE>, ImageError> {
    let start = &bytes[..bytes.len().min(4)];
    if start != elf::ELFMAG {
        return Err(ImageError::NotElf { start: start.to_vec() });
    }
    // The identification says how to read the rest, so it is validated before the size is.
    match bytes.get(4) {
        Some(&class) if class != elf::ELFCLASS64.0 => return Err(ImageError::NotClass64 { class }),
        _ => {}
    }
    match bytes.get(5) {
        Some(&encoding) if encoding != elf::ELFDATA2LSB.0 => {
            return Err(ImageError::NotLittleEndian { encoding });
        }
        _ => {}
    }
    let header = &table::<FileHeader64<LE>>(bytes, "the ELF header", 0, 1)?[0];
    let machine = header.e_machine.get(LE);
    if machine != elf::EM_X86_64 {
        return Err(ImageError::Machine { machine: machine.0, name: machine_name(machine) });
    }
    let file_type = header.e_type.get(LE);
    if file_type != elf::ET_DYN {
        let name = match file_type {
            elf::ET_EXEC => "a program for a fixed address",
            elf::ET_REL => "an object file that is not linked yet",
            elf::ET_CORE => "a core dump",
            _ => "something else",
        };
        return Err(ImageError::NotPie { file_type: file_type.0, name });
    }
    Ok(header)
}

fn machine_name(machine: elf::Machine) -> &'static str {
    match machine {
        elf::EM_AARCH64 => "64-bit ARM",
        elf::EM_ARM => "32-bit ARM",
        elf::EM_386 => "32-bit x86",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "64-bit PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_LOONGARCH => "LoongArch",
        elf::EM_MIPS => "MIPS",
        elf::EM_SPARCV9 => "64-bit SPARC",
        elf::EM_BPF => "BPF",
        _ => "an unknown processor",
    }
}

fn program_headers<'a>(bytes: &'a [u8], file: &FileHeader64<LE>) -> Result<&'a [ElfHeader], ImageError> {
    let count = file.e_phnum.get(LE) as usize;
    if count == 0 {
        return Err(ImageError::NoSegments);
    }
    let size = file.e_phentsize.get(LE);
    if size as usize != size_of::<ElfHeader>() {
        return Err(ImageError::HeaderSize { size });
    }
    if count > MAX_HEADERS {
        return Err(ImageError::TooMany { what: "program headers", count, limit: MAX_HEADERS });
    }
    table(bytes, "the program header table", file.e_phoff.get(LE), count)
}

/// The program headers by kind. Unknown kinds do not concern the loader.
#[derive(Default)]
struct Kinds<'a> {
    loads: Vec<&'a ElfHeader>,
    notes: Vec<&'a ElfHeader>,
    dynamic: Option<&'a ElfHeader>,
    relro: Option<&'a ElfHeader>,
    stack: Option<&'a ElfHeader>,
    tls: Option<&'a ElfHeader>,
}

impl<'a> Kinds<'a> {
    fn sort(headers: &'a [ElfHeader]) -> Result<Self, ImageError> {
        let mut kinds = Kinds::default();
        for header in headers {
            let (slot, what) = match header.p_type.get(LE) {
                elf::PT_INTERP => return Err(ImageError::Dynamic { what: "PT_INTERP" }),
                elf::PT_LOAD => {
                    kinds.loads.push(header);
                    continue;
                }
                elf::PT_NOTE => {
                    kinds.notes.push(header);
                    continue;
                }
                elf::PT_DYNAMIC => (&mut kinds.dynamic, "PT_DYNAMIC"),
                elf::PT_GNU_RELRO => (&mut kinds.relro, "PT_GNU_RELRO"),
                elf::PT_GNU_STACK => (&mut kinds.stack, "PT_GNU_STACK"),
                elf::PT_TLS => (&mut kinds.tls, "PT_TLS"),
                _ => continue,
            };
            if slot.replace(header).is_some() {
                return Err(ImageError::Duplicate { what });
            }
        }
        if kinds.loads.is_empty() {
            return Err(ImageError::NoSegments);
        }
        if kinds.loads.len() > MAX_SEGMENTS {
            let count = kinds.loads.len();
            return Err(ImageError::TooMany { what: "loadable segments", count, limit: MAX_SEGMENTS });
        }
        Ok(kinds)
    }
}

/// Finds the hv note, and validates the version in it; and where the list of tasks is, if another note says so.
fn notes(bytes: &[u8], headers: &[&ElfHeader]) -> Result<(NoteDesc, Option<u64>), ImageError> {
    let (mut found, mut tasks) = (None, None);
    for header in headers {
        let offset = header.p_offset.get(LE);
        let segment = &bytes[file_range(bytes, header, "a note segment")?];
        let malformed = |reason| ImageError::MalformedNote { offset, reason };
        let notes = NoteIterator::<FileHeader64<LE>>::new(LE, header.p_align.get(LE), segment)
            .map_err(|_| malformed("its alignment is neither 4 nor 8"))?;
        for note in notes {
            let note = note.map_err(|_| malformed("a note in it is longer than the segment"))?;
            // `name` is without the NUL that `NOTE_NAME` ends in.
            if note.name() != &NOTE_NAME[..NOTE_NAME.len() - 1] {
                continue;
            }
            match note.n_type(LE).0 {
                NOTE_TYPE if found.replace(note.desc()).is_some() => {
                    return Err(ImageError::Duplicate { what: "the hv note" });
                }
                TASKS_NOTE_TYPE => {
                    let offset = note.desc().as_ptr().addr() - segment.as_ptr().addr();
                    tasks = task_list(note.desc(), header.p_vaddr.get(LE).wrapping_add(offset as u64));
                }
                _ => {}
            }
        }
    }
    let desc = found.ok_or(ImageError::NoNote)?;
    // A later version may append fields, which do not concern this one.
    let (desc, _) = NoteDesc::read_from_prefix(desc)
        .map_err(|_| ImageError::NoteSize { size: desc.len(), expected: size_of::<NoteDesc>() })?;
    if !ABI_VERSION.can_run(desc.version()) {
        return Err(ImageError::version(desc.version()));
    }
    Ok((desc, tasks))
}

/// Where the head of the list of tasks is by a note at this address, from the image's base. Only people
/// want to know, so a note that is not understood does no harm.
fn task_list(desc: &[u8], address: u64) -> Option<u64> {
    let (note, _) = TasksNote::read_from_prefix(desc).ok()?;
    let field = address.wrapping_add(offset_of!(TasksNote, distance) as u64);
    (note.version == TASKS_VERSION).then(|| field.wrapping_add_signed(note.distance))
}

/// Validates the loadable segments; also gives the greatest alignment of any.
fn loads(bytes: &[u8], headers: &[&ElfHeader]) -> Result<(Vec<LoadSegment>, u64), ImageError> {
    let mut loads = Vec::<LoadSegment>::with_capacity(headers.len());
    let mut alignment = PAGE_SIZE;
    for header in headers {
        let (address, size) = (header.p_vaddr.get(LE), header.p_memsz.get(LE));
        let (file_size, align) = (header.p_filesz.get(LE), header.p_align.get(LE).max(1));
        let flags = header.p_flags.get(LE).0;
        if file_size > size {
            return Err(ImageError::FileSize { address, file_size, memory_size: size });
        }
        let end = match address.checked_add(size) {
            Some(end) if end <= MAX_IMAGE_SIZE => end,
            _ => return Err(ImageError::OutsideImage { address, size, limit: MAX_IMAGE_SIZE }),
        };
        if !align.is_power_of_two() || align > MAX_ALIGNMENT {
            return Err(ImageError::Alignment { address, align, limit: MAX_ALIGNMENT });
        }
        let offset = header.p_offset.get(LE);
        if offset % align != address % align {
            return Err(ImageError::Congruence { address, offset, align });
        }
        let file = file_range(bytes, header, "a segment")?;
        let access = match (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0) {
            (true, true) => return Err(ImageError::WritableCode { address }),
            (true, false) => Access::READ | Access::WRITE,
            (false, true) => Access::READ | Access::EXECUTE,
            (false, false) if flags & elf::PF_R.0 != 0 => Access::READ,
            // Address space that the guest keeps free of everything.
            (false, false) => continue,
        };
        if size == 0 {
            continue;
        }
        if let Some(last) = loads.last() {
            if address < last.memory.end {
                return Err(ImageError::Overlap { address, end: last.memory.end });
            }
            if page_down(address) < page_up(last.memory.end) && access != last.access {
                return Err(ImageError::SharedPage { address });
            }
        }
        alignment = alignment.max(align);
        loads.push(LoadSegment { memory: address..end, file, access });
    }
    if loads.is_empty() {
        return Err(ImageError::NoSegments);
    }
    Ok((loads, alignment))
}

/// The pages of the segments with what the guest may do there once relocation is over.
fn segments(loads: &[LoadSegment], relro: Option<&ElfHeader>) -> Result<Vec<Segment>, ImageError> {
    let relro = match relro {
        Some(header) => protected(loads, header)?,
        None => 0..0,
    };
    // Each segment may fall apart into three.
    let mut segments = Vec::<Segment>::with_capacity(loads.len() + 2);
    let mut push = |range: Range<u64>, access| match segments.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.range.end == range.start && last.access == access => last.range.end = range.end,
        _ => segments.push(Segment { range, access }),
    };
    let mut end = 0;
    for load in loads {
        // Two segments of the same permissions may share a page; it counts once.
        let range = page_down(load.memory.start).max(end)..page_up(load.memory.end);
        end = range.end;
        if load.access.contains(Access::WRITE) {
            let from = relro.start.clamp(range.start, range.end);
            let to = relro.end.clamp(range.start, range.end);
            push(range.start..from, load.access);
            push(from..to, Access::READ);
            push(to..range.end, load.access);
        } else {
            push(range, load.access);
        }
    }
    Ok(segments)
}

/// The whole pages that PT_GNU_RELRO covers.
fn protected(loads: &[LoadSegment], header: &ElfHeader) -> Result<Range<u64>, ImageError> {
    let (address, size) = (header.p_vaddr.get(LE), header.p_memsz.get(LE));
    let outside = ImageError::Relro { address, size };
    if size == 0 {
        return Ok(0..0);
    }
    let Some(end) = address.checked_add(size) else { return Err(outside) };
    // Linkers round the end up to a page, which may be behind the segment's last byte.
    let inside = |load: &LoadSegment| load.memory.start <= address && end <= page_up(load.memory.end);
    let Some(at) = loads.iter().position(inside) else { return Err(outside) };
    if loads.get(at + 1).is_some_and(|next| next.memory.start < end) {
        return Err(outside);
    }
    let load = &loads[at];
    // What shares the segment's first page with the start is padding; in any
    // other page it may be data that the guest writes.
    let start = if address == load.memory.start { page_down(address) } else { page_up(address) };
    Ok(start..page_down(end).max(start))
}
