//! Sections and function symbols of an ELF file, found without keeping a table of them.

use super::budget::{Budget, Incomplete};
use super::names;
use object::LittleEndian as Le;
use object::elf::{
    self, FileHeader64, PT_LOAD, ProgramHeader64, SHF_COMPRESSED, SHT_NOBITS, SHT_SYMTAB, STT_FUNC,
    STT_NOTYPE, SectionHeader64,
};
use object::pod;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};

/// Most sections that are looked at; linkers make some thirty.
const MAX_SECTIONS: usize = 4096;

/// A section: its address in the image, and its bytes.
pub(super) type ElfSection<'a> = (u64, &'a [u8]);

/// An ELF file.
#[derive(Clone, Copy)]
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
    segments: &'a [ProgramHeader64<Le>],
    sections: &'a [SectionHeader64<Le>],
    /// Their names.
    names: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Reads headers only. `None` if it is not an ELF file, or has too many of them.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = FileHeader64::<Le>::parse(bytes).ok()?;
        let segments = header.program_headers(Le, bytes).ok()?;
        let segments = &segments[..segments.len().min(MAX_SECTIONS)];
        let sections = header.section_headers(Le, bytes).ok().filter(|s| s.len() <= MAX_SECTIONS)?;
        let names = header.section_strings_index(Le, bytes).ok();
        let names = names.and_then(|index| sections.get(index.0)?.data(Le, bytes).ok()).unwrap_or(&[]);
        Some(Elf { bytes, segments, sections, names })
    }

    /// Bytes from address zero to the end of the last segment.
    pub(super) fn size(&self) -> u64 {
        let loads = self.segments.iter().filter(|segment| segment.p_type(Le) == PT_LOAD);
        loads.map(|segment| segment.p_vaddr(Le).saturating_add(segment.p_memsz(Le))).max().unwrap_or(0)
    }

    /// The section of this name, and whether it is compressed: then its bytes are not its content.
    fn named(&self, name: &str) -> Option<&'a SectionHeader64<Le>> {
        self.sections.iter().find(|section| {
            let rest = self.names.get(section.sh_name(Le) as usize..);
            rest.and_then(|rest| rest.strip_prefix(name.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&0))
        })
    }

    /// The section of this name, unless it is compressed.
    pub(super) fn section(&self, name: &str) -> Option<ElfSection<'a>> {
        let section = self.named(name).filter(|section| !is_compressed(section))?;
        Some((section.sh_addr(Le), section.data(Le, self.bytes).ok()?))
    }

    /// Whether its debug information is compressed. That is not read: what it
    /// grows to is not known beforehand.
    pub(super) fn is_compressed(&self) -> bool {
        self.named(".debug_info").is_some_and(is_compressed) || self.named(".zdebug_info").is_some()
    }

    /// The name of the function symbol that covers an offset; else of the
    /// nearest one before it that has no size, as in assembly.
    pub(super) fn symbol(&self, offset: u64, budget: &mut Budget) -> Result<Option<String>, Incomplete> {
        let is_code = |section: &SectionHeader64<Le>| {
            section.sh_type(Le) != SHT_NOBITS
                && section.sh_addr(Le) <= offset
                && offset - section.sh_addr(Le) < section.sh_size(Le)
        };
        let Some(code) = self.sections.iter().position(is_code) else { return Ok(None) };
        let table = self.sections.iter().find(|section| section.sh_type(Le) == SHT_SYMTAB);
        let Some(table) = table else { return Ok(None) };
        let bytes = table.data(Le, self.bytes).map_err(|_| Incomplete::Malformed)?;
        let symbols =
            pod::slice_from_bytes::<elf::Sym64<Le>>(bytes, bytes.len() / size_of::<elf::Sym64<Le>>());
        let (symbols, _) = symbols.map_err(|()| Incomplete::Malformed)?;
        let mut best = None;
        for symbol in symbols {
            budget.entry()?;
            let address = symbol.st_value(Le);
            let is_function = matches!(symbol.st_type(), STT_FUNC | STT_NOTYPE);
            if !is_function || usize::from(symbol.st_shndx(Le).0) != code || address > offset {
                continue;
            }
            let key = (offset - address < symbol.st_size(Le), address);
            if best.is_none_or(|(before, _)| before <= key) {
                best = Some((key, symbol));
            }
        }
        let Some(((covers, _), symbol)) = best else { return Ok(None) };
        if !covers && symbol.st_size(Le) != 0 {
            return Ok(None);
        }
        let strings = self.sections.get(table.sh_link(Le) as usize).ok_or(Incomplete::Malformed)?;
        let strings = strings.data(Le, self.bytes).map_err(|_| Incomplete::Malformed)?;
        let name = names::text(strings, symbol.st_name(Le) as usize, budget)?;
        Ok(Some(names::function(name)).filter(|name| !name.is_empty()))
    }
}

fn is_compressed(section: &SectionHeader64<Le>) -> bool {
    section.sh_flags(Le).contains(SHF_COMPRESSED)
}
