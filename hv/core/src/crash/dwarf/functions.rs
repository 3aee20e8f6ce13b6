//! The functions of a unit that an address belongs to.

use super::unit::{Extent, Unit};
use super::{Dwarf, Value};
use crate::crash::MAX_FRAMES;
use crate::crash::budget::{Budget, Incomplete};
use gimli::{AttributeValue, UnitOffset, constants as dw};

/// Most steps from an entry to the one that has the name.
const MAX_ORIGINS: usize = 8;

/// A function, or one that is inlined in the one before.
pub(super) struct Function {
    /// Its entry in the unit.
    pub(super) entry: UnitOffset,
    /// File and line of the call, if it is inlined.
    pub(super) call: Option<(u64, Option<u32>)>,
    depth: isize,
}

/// The function around an address, then what is inlined there, outermost first.
pub(super) fn containing<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    address: u64,
    budget: &mut Budget,
) -> Result<Vec<Function>, Incomplete> {
    let mut entries = unit.header.entries_raw(&unit.abbreviations, None)?;
    let mut chain: Vec<Function> = Vec::new();
    // What is below an inlined function that is somewhere else is so, too.
    let mut elsewhere = None;
    while !entries.is_empty() {
        let (entry, depth) = (entries.next_offset(), entries.next_depth());
        budget.entry()?;
        if chain.first().is_some_and(|function| depth <= function.depth) {
            break;
        }
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        budget.entries(abbreviation.attributes().len())?;
        elsewhere = elsewhere.filter(|above| depth > *above);
        let is_function = abbreviation.tag() == dw::DW_TAG_subprogram;
        let is_inlined = abbreviation.tag() == dw::DW_TAG_inlined_subroutine && !chain.is_empty();
        if !is_function && (elsewhere.is_some() || !is_inlined) {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        let (mut extent, mut file, mut line) = (Extent::default(), None, None);
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            extent.note(&attribute);
            match (attribute.name(), attribute.value()) {
                (dw::DW_AT_call_file, AttributeValue::FileIndex(index)) => file = Some(index),
                (dw::DW_AT_call_file, value) => file = value.udata_value(),
                (dw::DW_AT_call_line, value) => line = value.udata_value(),
                _ => {}
            }
        }
        if !extent.contains(dwarf, unit, address, budget)? {
            elsewhere = Some(depth);
            continue;
        }
        elsewhere = None;
        if is_function {
            chain.clear();
        }
        while chain.last().is_some_and(|above| above.depth >= depth) {
            chain.pop();
        }
        if chain.len() >= MAX_FRAMES {
            break;
        }
        let line = line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line != 0);
        chain.push(Function { entry, call: file.map(|file| (file, line)).filter(|_| is_inlined), depth });
    }
    Ok(chain)
}

/// The name of a function: the linker's, else the source's; its own, or that of what it is made from.
pub(super) fn name<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    entry: UnitOffset,
    budget: &mut Budget,
) -> Result<Option<&'a [u8]>, Incomplete> {
    let mut other: Option<Unit<'a>> = None;
    let mut entry = entry;
    for _ in 0..MAX_ORIGINS {
        let current = other.as_ref().unwrap_or(unit);
        let (mut linkage, mut plain, mut origin) = (None, None, None);
        let mut entries = current.header.entries_raw(&current.abbreviations, Some(entry))?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(None) };
        budget.entries(1 + abbreviation.attributes().len())?;
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            let place: &mut Option<Value<'a>> = match attribute.name() {
                dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => &mut linkage,
                dw::DW_AT_name => &mut plain,
                dw::DW_AT_abstract_origin | dw::DW_AT_specification => &mut origin,
                _ => continue,
            };
            *place = Some(attribute.value());
        }
        if let Some(name) = linkage.or(plain.filter(|_| origin.is_none())) {
            return dwarf.string(current, &name, budget).map(Some);
        }
        let fallback = plain;
        match origin {
            Some(AttributeValue::UnitRef(offset)) => entry = offset,
            Some(AttributeValue::DebugInfoRef(offset)) => {
                let header = dwarf.header_around(offset, budget)?;
                entry = offset.to_unit_offset(&header).ok_or(Incomplete::Malformed)?;
                other = Some(Unit::read(dwarf, header, budget)?);
            }
            _ => {
                return match fallback {
                    Some(name) => dwarf.string(current, &name, budget).map(Some),
                    None => Ok(None),
                };
            }
        }
    }
    Ok(None)
}
