//! Functions, files and lines of code addresses, from DWARF 2 to 5 (sections 2.17, 3.3, 6.2, 7.4 of DWARF 5).
//!
//! Tables are read from their beginning for each question and never kept, so that what is used of memory
//! does not depend on what an image says. `addr2line` keeps them: a few bytes of an image may stand for any number of
//! rows. The parser is `gimli`'s where it reads one thing at a time.

mod functions;
mod lines;
mod unit;

use super::budget::{Budget, Incomplete};
use super::elf::Elf;
use super::names;
use gimli::{
    AttributeValue, DebugAbbrev, DebugAddr, DebugInfo, DebugInfoOffset, DebugRanges, DebugRngLists,
    DebugStrOffsets, EndianSlice, LittleEndian, RangeLists, UnitHeader,
};
use lines::Lines;
use unit::Unit;

/// Reads the bytes of one section.
pub(super) type SectionReader<'a> = EndianSlice<'a, LittleEndian>;
type Value<'a> = AttributeValue<SectionReader<'a>>;

/// Most bytes of one section of debug information.
const MAX_SECTION: usize = 128 << 20;

/// Sections with debug information.
pub(super) struct Dwarf<'a> {
    info: DebugInfo<SectionReader<'a>>,
    abbrev: &'a [u8],
    line: &'a [u8],
    str: &'a [u8],
    line_str: &'a [u8],
    str_offsets: DebugStrOffsets<SectionReader<'a>>,
    addr: DebugAddr<SectionReader<'a>>,
    ranges: RangeLists<SectionReader<'a>>,
    rnglists: &'a [u8],
}

/// A function that an address belongs to, and where in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
}

impl<'a> Dwarf<'a> {
    /// `None` without debug information.
    pub(super) fn new(elf: &Elf<'a>) -> Option<Self> {
        let section =
            |name| elf.section(name).map_or(&[][..], |(_, bytes)| &bytes[..bytes.len().min(MAX_SECTION)]);
        let info = section(".debug_info");
        let rnglists = section(".debug_rnglists");
        let endian = LittleEndian;
        (!info.is_empty()).then(|| Dwarf {
            info: DebugInfo::new(info, endian),
            abbrev: section(".debug_abbrev"),
            line: section(".debug_line"),
            str: section(".debug_str"),
            line_str: section(".debug_line_str"),
            str_offsets: DebugStrOffsets::from(EndianSlice::new(section(".debug_str_offsets"), endian)),
            addr: DebugAddr::from(EndianSlice::new(section(".debug_addr"), endian)),
            ranges: RangeLists::new(
                DebugRanges::new(section(".debug_ranges"), endian),
                DebugRngLists::new(rnglists, endian),
            ),
            rnglists,
        })
    }

    /// The unit that each of these addresses is in, in one pass over all units.
    pub(super) fn units(
        &self,
        addresses: &[u64],
        budget: &mut Budget,
    ) -> Result<Vec<Option<DebugInfoOffset>>, Incomplete> {
        let mut found = vec![None; addresses.len()];
        let mut headers = self.info.units();
        while let Ok(Some(header)) = headers.next() {
            budget.entry()?;
            let offset = header.debug_info_offset();
            let read = Unit::read(self, header, budget).and_then(|unit| {
                unit.extent.each_range(self, &unit, budget, &mut |range| {
                    for (address, place) in addresses.iter().zip(&mut found) {
                        if place.is_none() && range.contains(address) {
                            *place = offset;
                        }
                    }
                })
            });
            match read {
                Err(Incomplete::UsedUp) => return Err(Incomplete::UsedUp),
                // The next one may be good.
                Err(Incomplete::Malformed) | Ok(()) => {}
            }
        }
        Ok(found)
    }

    /// The functions that an address in a unit belongs to, innermost first: all but the last one are inlined.
    pub(super) fn locations(
        &self,
        unit: DebugInfoOffset,
        address: u64,
        budget: &mut Budget,
    ) -> Result<Vec<Location>, Incomplete> {
        let unit = Unit::read(self, self.header(unit)?, budget)?;
        let functions = functions::containing(self, &unit, address, budget)?;
        let lines = unit.lines.and_then(|offset| Lines::parse(self, &unit, offset).ok());
        let mut place = match &lines {
            Some(lines) => lines.row(address, budget)?,
            None => None,
        };
        let mut locations = Vec::new();
        for function in functions.iter().rev() {
            let name = functions::name(self, &unit, function.entry, budget)?;
            locations.push(self.location(name, place, lines.as_ref(), budget)?);
            place = function.call;
        }
        if locations.is_empty() && place.is_some() {
            locations.push(self.location(None, place, lines.as_ref(), budget)?);
        }
        Ok(locations)
    }

    fn location(
        &self,
        name: Option<&[u8]>,
        place: Option<(u64, Option<u32>)>,
        lines: Option<&Lines<'a>>,
        budget: &mut Budget,
    ) -> Result<Location, Incomplete> {
        let file = match (place, lines) {
            (Some((file, _)), Some(lines)) => match lines.file(file, budget) {
                Err(Incomplete::UsedUp) => return Err(Incomplete::UsedUp),
                file => file.ok().map(|path| names::printable(&path)),
            },
            _ => None,
        };
        Ok(Location { function: name.map(names::function), file, line: place.and_then(|(_, line)| line) })
    }

    fn header(&self, offset: DebugInfoOffset) -> Result<UnitHeader<SectionReader<'a>>, Incomplete> {
        Ok(self.info.header_from_offset(offset)?)
    }

    /// The unit with this offset somewhere inside.
    fn header_around(
        &self,
        offset: DebugInfoOffset,
        budget: &mut Budget,
    ) -> Result<UnitHeader<SectionReader<'a>>, Incomplete> {
        let mut headers = self.info.units();
        while let Some(header) = headers.next()? {
            budget.entry()?;
            if offset.to_unit_offset(&header).is_some() {
                return Ok(header);
            }
        }
        Err(Incomplete::Malformed)
    }

    /// Abbreviations at an offset. What is parsed of them at once is bounded, because they are kept while a unit is looked at.
    fn abbreviations(&self, offset: usize, budget: &mut Budget) -> Result<gimli::Abbreviations, Incomplete> {
        let rest = self.abbrev.get(offset..).ok_or(Incomplete::Malformed)?;
        // Where they end is not known before: mostly soon.
        for size in [1 << 10, 4 << 10, 16 << 10, 64 << 10] {
            let size = rest.len().min(size);
            budget.bytes(size)?;
            let parsed =
                DebugAbbrev::new(&rest[..size], LittleEndian).abbreviations(gimli::DebugAbbrevOffset(0));
            if parsed.is_ok() || size == rest.len() {
                return Ok(parsed?);
            }
        }
        Err(Incomplete::Malformed)
    }

    /// The text that an attribute stands for.
    fn string(
        &self,
        unit: &Unit<'a>,
        value: &Value<'a>,
        budget: &mut Budget,
    ) -> Result<&'a [u8], Incomplete> {
        match *value {
            AttributeValue::String(text) => Ok(text.slice()),
            AttributeValue::DebugStrRef(offset) => names::text(self.str, offset.0, budget),
            AttributeValue::DebugLineStrRef(offset) => names::text(self.line_str, offset.0, budget),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let format = unit.header.format();
                let offset = self.str_offsets.get_str_offset(format, unit.str_offsets_base, index)?;
                names::text(self.str, offset.0, budget)
            }
            _ => Err(Incomplete::Malformed),
        }
    }
}
