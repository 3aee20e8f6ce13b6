//! Names for a guest's addresses, from the debug information and symbols of its image.
//!
//! The image is the guest's, so nothing in it is believed: sizes and nesting
//! are bounded before `addr2line` sees them, and text loses its control
//! characters before a terminal does.

use super::unwind::{self, Section, Unwinder};
use super::{Frame, MAX_FRAMES, UnwindRegs};
use addr2line::Context;
use addr2line::gimli::{self, EndianSlice, LittleEndian};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Mutex;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Most bytes of debug information that are looked at: a guest built with full
/// information has a tenth of it.
const MAX_DEBUG_SIZE: u64 = 64 << 20;

/// Deepest nesting of debug information entries that is looked at, because
/// `addr2line` follows it by recursion.
const MAX_DEBUG_DEPTH: isize = 256;

/// Longest name that is shown, in characters.
const MAX_NAME: usize = 400;

/// Most instructions of an image whose names are remembered.
const MAX_KNOWN: usize = 256;

/// What was found out about an image's instructions.
///
/// To read debug information takes milliseconds, and a function that crashes at every
/// request crashes at the same few places.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<u64, Vec<Frame>>>);

impl Known {
    fn get(&self, probe: u64) -> Option<Vec<Frame>> {
        self.0.lock().expect("no panic while held").get(&probe).cloned()
    }

    fn put(&self, probe: u64, frames: &[Frame]) {
        let mut known = self.0.lock().expect("no panic while held");
        if known.len() < MAX_KNOWN {
            known.insert(probe, frames.to_vec());
        }
    }
}

/// The symbols of an image that is loaded somewhere. Making one reads only
/// headers; the rest is read when it is asked for.
pub struct Symbols<'a> {
    file: Option<ElfFile64<'a>>,
    base: u64,
    size: u64,
    known: &'a Known,
}

impl<'a> Symbols<'a> {
    /// The symbols in the bytes of an ELF file whose address 0 is at guest
    /// address `base`, with what is known of the same file. Bytes that are no ELF file have none.
    pub fn new(bytes: &'a [u8], base: u64, known: &'a Known) -> Self {
        let file = ElfFile64::parse(bytes).ok();
        let ends = file.iter().flat_map(|file| file.segments());
        let size = ends.map(|segment| segment.address().saturating_add(segment.size())).max().unwrap_or(0);
        Symbols { file, base, size, known }
    }

    /// The functions that were running, innermost first, at most [`MAX_FRAMES`].
    ///
    /// `read` gives the 8 bytes at a guest address, or `None` where there is
    /// no memory. Without call frame information only the innermost function
    /// is known, without debug information only names, without symbols only
    /// addresses.
    pub fn backtrace(&self, regs: &UnwindRegs, read: &mut dyn FnMut(u64) -> Option<u64>) -> Vec<Frame> {
        let unwinder =
            self.section(".eh_frame").map(|frames| Unwinder::new(frames, self.section(".eh_frame_hdr")));
        let addresses = unwind::walk(unwinder, self.base, self.size, regs, read);
        let context = OnceCell::new();
        let mut frames = Vec::new();
        for (index, address) in addresses.into_iter().enumerate() {
            self.describe(&context, address, index != 0, &mut frames);
            if frames.len() >= MAX_FRAMES {
                break;
            }
        }
        frames.truncate(MAX_FRAMES);
        frames
    }

    /// The functions that the instruction at a guest address belongs to,
    /// innermost first: the last one is not inlined. Never empty.
    pub fn lookup(&self, address: u64) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.describe(&OnceCell::new(), address, false, &mut frames);
        frames
    }

    fn describe(
        &self,
        context: &OnceCell<Option<Context<Slice<'a>>>>,
        address: u64,
        is_return: bool,
        frames: &mut Vec<Frame>,
    ) {
        let offset = address.checked_sub(self.base).filter(|offset| *offset < self.size);
        let Some(offset) = offset else { return frames.push(Frame::bare(address, None)) };
        // The call itself, not what follows it.
        let probe = if is_return { offset.saturating_sub(1) } else { offset };
        let found = self.known.get(probe).unwrap_or_else(|| {
            let found = self.find(context.get_or_init(|| self.context()).as_ref(), probe);
            self.known.put(probe, &found);
            found
        });
        let here = |frame| Frame { address, offset: Some(offset), ..frame };
        frames.extend(found.into_iter().map(here));
    }

    /// The functions at an offset. Never empty.
    fn find(&self, context: Option<&Context<Slice<'a>>>, probe: u64) -> Vec<Frame> {
        let bare = Frame::bare(self.base + probe, Some(probe));
        let mut frames = Vec::new();
        let found = context.and_then(|context| context.find_frames(probe).skip_all_loads().ok());
        if let Some(mut found) = found {
            while let Ok(Some(frame)) = found.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
                let location = frame.location.as_ref();
                frames.push(Frame {
                    function: name.map(|name| printable(&name)),
                    file: location.and_then(|location| location.file).map(printable),
                    line: location.and_then(|location| location.line),
                    inlined: true,
                    ..bare.clone()
                });
                if frames.len() >= MAX_FRAMES {
                    break;
                }
            }
        }
        if frames.is_empty() {
            frames.push(bare);
        }
        if let Some(last) = frames.last_mut() {
            last.inlined = false;
            // Line tables alone have the name without its path; the symbol has both.
            let short = last.function.take();
            let base = short.as_deref().and_then(|name| name.split('<').next()).unwrap_or("");
            last.function = self.symbol(probe).filter(|full| full.contains(base)).or(short);
        }
        frames
    }

    /// The name of the function symbol that covers an offset; else of the
    /// nearest one before it that has no size, as in assembly.
    fn symbol(&self, offset: u64) -> Option<String> {
        let file = self.file.as_ref()?;
        let code = file.sections().find(|s| s.address() <= offset && offset - s.address() < s.size())?;
        let before = |symbol: &object::read::elf::ElfSymbol64<'a, '_>| {
            matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label)
                && symbol.section_index() == Some(code.index())
                && symbol.address() <= offset
        };
        let covers =
            |symbol: &object::read::elf::ElfSymbol64<'a, '_>| offset - symbol.address() < symbol.size();
        let symbols = file.symbols().filter(before);
        let symbol = symbols.max_by_key(|symbol| (covers(symbol), symbol.address()))?;
        if !covers(&symbol) && symbol.size() != 0 {
            return None;
        }
        let name = String::from_utf8_lossy(symbol.name_bytes().ok()?);
        Some(printable(&addr2line::demangle_auto(name, None))).filter(|name| !name.is_empty())
    }

    fn section(&self, name: &str) -> Option<Section<'a>> {
        let section = self.file.as_ref()?.section_by_name(name)?;
        Some((section.address(), section.data().ok()?))
    }

    /// The debug information, if there is any that is fit to be read.
    fn context(&self) -> Option<Context<Slice<'a>>> {
        let mut size = 0u64;
        let load = |id: gimli::SectionId| {
            let bytes = self.section(id.name()).map_or(&[][..], |(_, bytes)| bytes);
            size = size.saturating_add(bytes.len() as u64);
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(load).ok()?;
        if size > MAX_DEBUG_SIZE || !is_shallow(&dwarf).unwrap_or(false) {
            return None;
        }
        Context::from_dwarf(dwarf).ok()
    }
}

/// Whether no entry of the debug information is too deep.
fn is_shallow(dwarf: &gimli::Dwarf<Slice<'_>>) -> gimli::Result<bool> {
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_DEBUG_DEPTH {
                return Ok(false);
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
    }
    Ok(true)
}

/// Text of the image, made fit for a terminal.
fn printable(text: &str) -> String {
    let text = strip_hash(text);
    text.chars()
        .take(MAX_NAME)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// A name without the hash that old manglings append, as in `main::h0123456789abcdef`.
fn strip_hash(name: &str) -> Cow<'_, str> {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path.into(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_a_terminal() {
        assert_eq!(printable("core::fmt::write::h0123456789abcdef"), "core::fmt::write");
        assert_eq!(printable("core::fmt::hash"), "core::fmt::hash");
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable(&"x".repeat(10_000)).len(), MAX_NAME);
    }

    #[test]
    fn an_address_without_symbols_is_an_offset() {
        let frames = Symbols::new(b"not an image", 0x1000, &Known::default()).lookup(0x1234);
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
        let known = Known::default();
        let symbols = Symbols::new(&bytes, base, &known);
        let frames = symbols.lookup(address);
        assert_eq!(symbols.lookup(address), frames, "what is remembered is what was found");
        let last = frames.last().unwrap();
        assert!(last.function.as_ref().unwrap().contains("landmark"), "{last:?}");
        assert!(last.file.as_ref().unwrap().ends_with("symbols.rs") && !last.inlined);
        assert!(last.line.unwrap().abs_diff(landmark()) <= 2);
        assert_eq!(last.offset, Some(address - base));
    }
}
