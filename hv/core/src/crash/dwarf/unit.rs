//! A unit of debug information: its root, and which code an entry stands for.

use super::{Dwarf, SectionReader, Value};
use crate::crash::budget::{Budget, Incomplete};
use gimli::{
    Abbreviations, AttributeValue, DebugAddrBase, DebugAddrIndex, DebugRngListsBase, DebugStrOffsetsBase,
    RangeListsOffset, Reader, UnitHeader, constants as dw,
};
use std::ops::Range;

pub(super) struct Unit<'a> {
    pub(super) header: UnitHeader<SectionReader<'a>>,
    pub(super) abbreviations: Abbreviations,
    /// The code of the unit.
    pub(super) extent: Extent<'a>,
    /// The folder that the compiler ran in.
    pub(super) folder: Option<Value<'a>>,
    /// Where its line number program is.
    pub(super) lines: Option<usize>,
    low: u64,
    pub(super) str_offsets_base: DebugStrOffsetsBase<usize>,
    addr_base: DebugAddrBase<usize>,
    rnglists_base: DebugRngListsBase<usize>,
}

impl<'a> Unit<'a> {
    /// Reads the root entry.
    pub(super) fn read(
        dwarf: &Dwarf<'a>,
        header: UnitHeader<SectionReader<'a>>,
        budget: &mut Budget,
    ) -> Result<Self, Incomplete> {
        let abbreviations = dwarf.abbreviations(header.debug_abbrev_offset().0, budget)?;
        let mut unit = Unit {
            header,
            abbreviations: Abbreviations::default(),
            extent: Extent::default(),
            folder: None,
            lines: None,
            low: 0,
            str_offsets_base: DebugStrOffsetsBase(0),
            addr_base: DebugAddrBase(0),
            rnglists_base: DebugRngListsBase(0),
        };
        let mut entries = unit.header.entries_raw(&abbreviations, None)?;
        let root = entries.read_abbreviation()?.ok_or(Incomplete::Malformed)?;
        budget.entries(1 + root.attributes().len())?;
        for spec in root.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            unit.extent.note(&attribute);
            match (attribute.name(), attribute.value()) {
                (dw::DW_AT_comp_dir, value) => unit.folder = Some(value),
                (_, AttributeValue::DebugLineRef(offset)) => unit.lines = Some(offset.0),
                (_, AttributeValue::DebugStrOffsetsBase(base)) => unit.str_offsets_base = base,
                (_, AttributeValue::DebugAddrBase(base)) => unit.addr_base = base,
                (_, AttributeValue::DebugRngListsBase(base)) => unit.rnglists_base = base,
                _ => {}
            }
        }
        unit.low = match &unit.extent.low {
            Some(low) => unit.address(dwarf, low)?,
            None => 0,
        };
        unit.abbreviations = abbreviations;
        Ok(unit)
    }

    fn address(&self, dwarf: &Dwarf<'a>, value: &Value<'a>) -> Result<u64, Incomplete> {
        match *value {
            AttributeValue::Addr(address) => Ok(address),
            AttributeValue::DebugAddrIndex(index) => self.indexed(dwarf, index),
            _ => Err(Incomplete::Malformed),
        }
    }

    fn indexed(&self, dwarf: &Dwarf<'a>, index: DebugAddrIndex<usize>) -> Result<u64, Incomplete> {
        Ok(dwarf.addr.get_address(self.header.address_size(), self.addr_base, index)?)
    }

    /// Where the list of ranges with this index begins (`gimli` adds unchecked here).
    fn list(&self, dwarf: &Dwarf<'a>, index: usize) -> Result<RangeListsOffset, Incomplete> {
        let format = self.header.format();
        let base = self.rnglists_base.0;
        let at = index.checked_mul(format.word_size().into()).and_then(|at| at.checked_add(base));
        let bytes = at.and_then(|at| dwarf.rnglists.get(at..)).ok_or(Incomplete::Malformed)?;
        let offset = SectionReader::new(bytes, gimli::LittleEndian).read_offset(format)?;
        base.checked_add(offset).map(RangeListsOffset).ok_or(Incomplete::Malformed)
    }
}

/// The attributes that say which code an entry stands for.
#[derive(Default)]
pub(super) struct Extent<'a> {
    low: Option<Value<'a>>,
    high: Option<Value<'a>>,
    ranges: Option<Value<'a>>,
}

impl<'a> Extent<'a> {
    pub(super) fn note(&mut self, attribute: &gimli::Attribute<SectionReader<'a>>) {
        let place = match attribute.name() {
            dw::DW_AT_low_pc => &mut self.low,
            dw::DW_AT_high_pc => &mut self.high,
            dw::DW_AT_ranges => &mut self.ranges,
            _ => return,
        };
        *place = Some(attribute.value());
    }

    /// Calls `each` with the ranges of code. What linkers have left out begins
    /// at zero, where no image has code.
    pub(super) fn each_range(
        &self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        budget: &mut Budget,
        each: &mut dyn FnMut(Range<u64>),
    ) -> Result<(), Incomplete> {
        let mut each = |range: Range<u64>| {
            if range.start != 0 {
                each(range);
            }
        };
        if let Some(ranges) = &self.ranges {
            let offset = match ranges {
                AttributeValue::RangeListsRef(offset) => RangeListsOffset(offset.0),
                AttributeValue::DebugRngListsIndex(index) => unit.list(dwarf, index.0)?,
                _ => return Err(Incomplete::Malformed),
            };
            let encoding = unit.header.encoding();
            let mut list = dwarf.ranges.ranges(offset, encoding, unit.low, &dwarf.addr, unit.addr_base)?;
            while let Some(raw) = list.next_raw()? {
                budget.entry()?;
                if let Some(range) = list.convert_raw(raw)? {
                    each(range.begin..range.end);
                }
            }
        } else if let (Some(low), Some(high)) = (&self.low, &self.high) {
            let low = unit.address(dwarf, low)?;
            let high = match high.udata_value() {
                Some(size) => low.checked_add(size).ok_or(Incomplete::Malformed)?,
                None => unit.address(dwarf, high)?,
            };
            each(low..high);
        }
        Ok(())
    }

    pub(super) fn contains(
        &self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        address: u64,
        budget: &mut Budget,
    ) -> Result<bool, Incomplete> {
        let mut contains = false;
        self.each_range(dwarf, unit, budget, &mut |range| contains |= range.contains(&address))?;
        Ok(contains)
    }
}
