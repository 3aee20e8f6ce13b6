//! A line number program: from an address to file and line (DWARF 5, section 6.2).
//!
//! It is run from its start until the row is found; no row is kept. `gimli` would
//! keep the tables of files and folders, whose sizes an image is free to claim.

use super::unit::Unit;
use super::{Dwarf, SectionReader};
use crate::crash::budget::{Budget, Incomplete};
use crate::crash::names;
use gimli::{Format, LittleEndian, Reader, constants as dw};

/// Longest path of a file, in bytes.
const MAX_PATH: usize = 4096;

/// A program and the tables before it.
pub(super) struct Lines<'a> {
    version: u16,
    format: Format,
    /// From the table of folders on.
    tables: SectionReader<'a>,
    program: SectionReader<'a>,
    /// Bytes of the shortest instruction of the processor.
    step: u64,
    line_base: i8,
    line_range: u8,
    opcode_base: u8,
    /// How many operands each standard opcode has.
    operands: SectionReader<'a>,
    /// The folder that the compiler ran in.
    folder: Option<&'a [u8]>,
    str: &'a [u8],
    line_str: &'a [u8],
}

/// The registers of the state machine, as far as they matter.
#[derive(Clone, Copy)]
struct Row {
    address: u64,
    file: u64,
    line: u64,
}

impl Row {
    const START: Row = Row { address: 0, file: 1, line: 1 };
}

/// A column of the tables of version 5: what it says, and in which form.
type Column = (u64, u16);

/// What is in a table of version 5.
struct LineEntry<'a> {
    path: &'a [u8],
    folder: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn parse(dwarf: &Dwarf<'a>, unit: &Unit<'a>, offset: usize) -> Result<Self, Incomplete> {
        let bytes = dwarf.line.get(offset..).ok_or(Incomplete::Malformed)?;
        let mut input = SectionReader::new(bytes, LittleEndian);
        let (length, format) = input.read_initial_length()?;
        let mut input = input.split(length)?;
        let version = input.read_u16()?;
        if !(2..=5).contains(&version) {
            return Err(Incomplete::Malformed);
        }
        if version >= 5 {
            // The sizes of addresses and of segment selectors.
            if (input.read_u8()?, input.read_u8()?) != (8, 0) {
                return Err(Incomplete::Malformed);
            }
        }
        let length = input.read_length(format)?;
        let mut tables = input.split(length)?;
        let program = input;
        let step = tables.read_u8()?;
        if version >= 4 && tables.read_u8()? != 1 {
            // Several operations in an instruction: no processor of ours.
            return Err(Incomplete::Malformed);
        }
        tables.read_u8()?;
        let line_base = tables.read_i8()?;
        let line_range = tables.read_u8()?;
        let opcode_base = tables.read_u8()?;
        if line_range == 0 || opcode_base == 0 {
            return Err(Incomplete::Malformed);
        }
        let operands = tables.split(usize::from(opcode_base) - 1)?;
        let mut budget = Budget { rows: 0, entries: 0, bytes: MAX_PATH as u64 };
        let folder = unit.folder.as_ref().and_then(|folder| dwarf.string(unit, folder, &mut budget).ok());
        Ok(Lines {
            version,
            format,
            tables,
            program,
            step: step.into(),
            line_base,
            line_range,
            opcode_base,
            operands,
            folder,
            str: dwarf.str,
            line_str: dwarf.line_str,
        })
    }

    /// File and line of the code at an address.
    pub(super) fn row(
        &self,
        address: u64,
        budget: &mut Budget,
    ) -> Result<Option<(u64, Option<u32>)>, Incomplete> {
        let mut program = self.program;
        let mut row = Row::START;
        let mut before: Option<Row> = None;
        while !program.is_empty() {
            budget.row()?;
            let Some(ends) = self.execute(&mut program, &mut row)? else { continue };
            // What linkers have left out begins at zero.
            if let Some(before) = before.filter(|before| before.address != 0)
                && (before.address..row.address).contains(&address)
            {
                let line = u32::try_from(before.line).ok().filter(|line| *line != 0);
                return Ok(Some((before.file, line)));
            }
            before = Some(row);
            if ends {
                (row, before) = (Row::START, None);
            }
        }
        Ok(None)
    }

    /// Carries out one instruction. If that makes a row: whether it ends its sequence.
    fn execute(&self, program: &mut SectionReader<'a>, row: &mut Row) -> Result<Option<bool>, Incomplete> {
        let opcode = program.read_u8()?;
        if opcode >= self.opcode_base {
            let adjusted = opcode - self.opcode_base;
            self.advance(row, (adjusted / self.line_range).into());
            let lines = i64::from(self.line_base) + i64::from(adjusted % self.line_range);
            row.line = row.line.wrapping_add_signed(lines);
            return Ok(Some(false));
        }
        match dw::DwLns(opcode) {
            dw::DwLns(0) => {
                let length = program.read_uleb128()?;
                let mut extended =
                    program.split(usize::try_from(length).map_err(|_| Incomplete::Malformed)?)?;
                match dw::DwLne(extended.read_u8()?) {
                    dw::DW_LNE_end_sequence => return Ok(Some(true)),
                    dw::DW_LNE_set_address => row.address = extended.read_u64()?,
                    _ => {}
                }
            }
            dw::DW_LNS_copy => return Ok(Some(false)),
            dw::DW_LNS_advance_pc => {
                let count = program.read_uleb128()?;
                self.advance(row, count);
            }
            dw::DW_LNS_advance_line => row.line = row.line.wrapping_add_signed(program.read_sleb128()?),
            dw::DW_LNS_set_file => row.file = program.read_uleb128()?,
            dw::DW_LNS_const_add_pc => {
                self.advance(row, ((255 - self.opcode_base) / self.line_range).into());
            }
            dw::DW_LNS_fixed_advance_pc => {
                row.address = row.address.wrapping_add(program.read_u16()?.into());
            }
            _ => {
                let count = self.operands.get(usize::from(opcode) - 1).copied().unwrap_or(0);
                for _ in 0..count {
                    program.read_uleb128()?;
                }
            }
        }
        Ok(None)
    }

    fn advance(&self, row: &mut Row, steps: u64) {
        row.address = row.address.wrapping_add(steps.wrapping_mul(self.step));
    }

    /// The path of a file.
    pub(super) fn file(&self, index: u64, budget: &mut Budget) -> Result<String, Incomplete> {
        let mut path = String::new();
        self.folder.into_iter().for_each(|folder| push(&mut path, folder));
        let (entry, folder) =
            if self.version >= 5 { self.entry5(index, budget)? } else { self.entry4(index, budget)? };
        folder.into_iter().for_each(|folder| push(&mut path, folder));
        push(&mut path, entry.path);
        Ok(path)
    }

    /// The entry of a file, and its folder if that is not the compiler's. Both tables count from one.
    fn entry4(
        &self,
        index: u64,
        budget: &mut Budget,
    ) -> Result<(LineEntry<'a>, Option<&'a [u8]>), Incomplete> {
        let mut input = self.tables;
        while !string(&mut input, budget)?.is_empty() {}
        let mut number = 1;
        let entry = loop {
            let path = string(&mut input, budget)?;
            let folder =
                if path.is_empty() { return Err(Incomplete::Malformed) } else { input.read_uleb128()? };
            input.read_uleb128()?;
            input.read_uleb128()?;
            if number == index {
                break LineEntry { path, folder };
            }
            number += 1;
        };
        let mut folders = self.tables;
        for number in 1..=entry.folder {
            let folder = string(&mut folders, budget)?;
            if folder.is_empty() {
                break;
            }
            if number == entry.folder {
                return Ok((entry, Some(folder)));
            }
        }
        Ok((entry, None))
    }

    /// The same of version 5, where tables count from zero.
    fn entry5(
        &self,
        index: u64,
        budget: &mut Budget,
    ) -> Result<(LineEntry<'a>, Option<&'a [u8]>), Incomplete> {
        let mut input = self.tables;
        // Over the folders first, to the files behind them.
        self.nth(&mut input, None, budget)?;
        let entry = self.nth(&mut input, Some(index), budget)?.ok_or(Incomplete::Malformed)?;
        if entry.folder == 0 {
            return Ok((entry, None));
        }
        let folder = self.nth(&mut self.tables.clone(), Some(entry.folder), budget)?;
        Ok((entry, folder.map(|folder| folder.path)))
    }

    /// One entry of a table of version 5, or none: then the input is behind the table.
    fn nth(
        &self,
        input: &mut SectionReader<'a>,
        index: Option<u64>,
        budget: &mut Budget,
    ) -> Result<Option<LineEntry<'a>>, Incomplete> {
        let mut columns = [(0, 0); u8::MAX as usize];
        let columns: &mut [Column] = &mut columns[..input.read_u8()?.into()];
        for column in &mut *columns {
            *column = (input.read_uleb128()?, input.read_uleb128_u16()?);
        }
        let count = input.read_uleb128()?;
        for number in 0..count {
            budget.entries(1 + columns.len())?;
            let mut entry = LineEntry { path: &[], folder: 0 };
            let wanted = index == Some(number);
            for (content, form) in &*columns {
                let value = self.value(input, dw::DwForm(*form), wanted, budget)?;
                match (dw::DwLnct(*content as u16), value) {
                    (dw::DW_LNCT_path, Some(Content::Text(path))) => entry.path = path,
                    (dw::DW_LNCT_directory_index, Some(Content::Number(folder))) => entry.folder = folder,
                    _ => {}
                }
            }
            if wanted {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Reads a value, or, unless it is wanted, skips it.
    fn value(
        &self,
        input: &mut SectionReader<'a>,
        form: dw::DwForm,
        wanted: bool,
        budget: &mut Budget,
    ) -> Result<Option<Content<'a>>, Incomplete> {
        let mut elsewhere = |section, offset| {
            if !wanted {
                return Ok(None);
            }
            names::text(section, offset, budget).map(|text| Some(Content::Text(text)))
        };
        Ok(Some(match form {
            dw::DW_FORM_string => Content::Text(string(input, budget)?),
            dw::DW_FORM_line_strp => return elsewhere(self.line_str, input.read_offset(self.format)?),
            dw::DW_FORM_strp => return elsewhere(self.str, input.read_offset(self.format)?),
            dw::DW_FORM_udata => Content::Number(input.read_uleb128()?),
            dw::DW_FORM_data1 => Content::Number(input.read_u8()?.into()),
            dw::DW_FORM_data2 => Content::Number(input.read_u16()?.into()),
            dw::DW_FORM_data4 => Content::Number(input.read_u32()?.into()),
            dw::DW_FORM_data8 => Content::Number(input.read_u64()?),
            dw::DW_FORM_data16 => {
                input.skip(16)?;
                return Ok(None);
            }
            dw::DW_FORM_block => {
                let length = input.read_uleb128()?;
                input.skip(usize::try_from(length).map_err(|_| Incomplete::Malformed)?)?;
                return Ok(None);
            }
            _ => return Err(Incomplete::Malformed),
        }))
    }
}

enum Content<'a> {
    Text(&'a [u8]),
    Number(u64),
}

/// A string in a table itself.
fn string<'a>(input: &mut SectionReader<'a>, budget: &mut Budget) -> Result<&'a [u8], Incomplete> {
    budget.entry()?;
    let text = names::text(input.slice(), 0, budget)?;
    input.skip(text.len() + 1)?;
    Ok(text)
}

/// Appends to a path, or begins it anew at the root.
fn push(path: &mut String, part: &[u8]) {
    let part = String::from_utf8_lossy(&part[..part.len().min(MAX_PATH)]);
    if part.starts_with('/') || path.len() > MAX_PATH {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(&part);
}
