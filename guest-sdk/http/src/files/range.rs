//! Parts of files.

use crate::request::digits;
use core::ops::Range;

/// The bytes that a Range field asks for; an error if there are none such.
/// `None` for what a server may ignore: other units, several ranges, nonsense.
pub(super) fn range(value: &str, len: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    let range = match (first, last) {
        ("", "") => return None,
        ("", suffix) => len.saturating_sub(digits(suffix)?)..len,
        (first, "") => digits(first)?..len,
        (first, last) => {
            let (first, last) = (digits(first)?, digits(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

#[cfg(test)]
mod tests;
