//! Commands off the wire, replies onto it.

use alloc::vec::Vec;
use core::fmt::Write;

/// Most arguments of a command.
const MAX_ARGUMENTS: usize = 64 << 10;
/// Most bytes of an argument.
const MAX_BULK: usize = 512 << 10;
/// Most bytes of a line.
const MAX_LINE: usize = 64 << 10;

/// What some bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A command and its arguments (none, for an empty line), with the number of its bytes.
    Command(Vec<&'a [u8]>, usize),
    /// The start of a command.
    Incomplete,
    /// Not the protocol: the connection cannot go on.
    Wrong(&'static str),
}

/// A line without its end, and where the next one starts.
fn line(bytes: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, Parsed<'static>> {
    let rest = &bytes[start..];
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), start + end + 1))),
        None if rest.len() > MAX_LINE => Err(Parsed::Wrong("too big inline request")),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// The command that these bytes start with: an array of bulk strings, or words on a line.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    parse_some(bytes).unwrap_or_else(|other| other)
}

fn parse_some(bytes: &[u8]) -> Result<Parsed<'_>, Parsed<'_>> {
    let Some((first, mut at)) = line(bytes, 0)? else { return Err(Parsed::Incomplete) };
    let Some(count) = first.strip_prefix(b"*") else {
        let words = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        return Ok(Parsed::Command(words.collect(), at));
    };
    // "*-1" is nothing, as is "*0".
    let count =
        if count == b"-1" { 0 } else { number(count).ok_or(Parsed::Wrong("invalid multibulk length"))? };
    if count > MAX_ARGUMENTS {
        return Err(Parsed::Wrong("invalid multibulk length"));
    }
    let mut arguments = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        let Some((header, start)) = line(bytes, at)? else { return Err(Parsed::Incomplete) };
        let len = header.strip_prefix(b"$").ok_or(Parsed::Wrong("expected '$'"))?;
        let len = number(len).filter(|len| *len <= MAX_BULK).ok_or(Parsed::Wrong("invalid bulk length"))?;
        if bytes.len() < start + len + 2 {
            return Err(Parsed::Incomplete);
        }
        arguments.push(&bytes[start..start + len]);
        at = start + len + 2;
    }
    Ok(Parsed::Command(arguments, at))
}

/// Writes replies behind one another.
pub(super) struct Reply<'a>(pub(super) &'a mut Vec<u8>);

impl Write for Reply<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Reply<'_> {
    pub(super) fn simple(&mut self, text: &str) {
        let _ = write!(self, "+{text}\r\n");
    }
    pub(super) fn error(&mut self, text: &str) {
        let _ = write!(self, "-{text}\r\n");
    }
    pub(super) fn integer(&mut self, number: i64) {
        let _ = write!(self, ":{number}\r\n");
    }
    pub(super) fn array(&mut self, len: usize) {
        let _ = write!(self, "*{len}\r\n");
    }
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        let _ = write!(self, "${}\r\n", bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }
    pub(super) fn null(&mut self) {
        self.0.extend_from_slice(b"$-1\r\n");
    }
    pub(super) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }
}
