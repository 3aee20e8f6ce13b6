//! Text of an image, made fit to be shown.

use super::budget::{Budget, Incomplete};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// Longest name that is shown, in characters.
const MAX_NAME: usize = 400;

/// Longest name that is read, in bytes: mangled ones are longer than what is shown.
const MAX_TEXT: usize = 4096;

/// The bytes at an offset up to the first zero, or as many as are read of a name.
pub(super) fn text<'a>(
    section: &'a [u8],
    offset: usize,
    budget: &mut Budget,
) -> Result<&'a [u8], Incomplete> {
    let rest = section.get(offset..).ok_or(Incomplete::Malformed)?;
    let rest = &rest[..rest.len().min(MAX_TEXT)];
    let text = &rest[..rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len())];
    budget.bytes(text.len() + 1)?;
    Ok(text)
}

/// A function's name, demangled if it is a Rust one.
pub(super) fn function(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_TEXT)]);
    match rustc_demangle::try_demangle(&name) {
        Ok(demangled) => {
            // A short name can stand for a very long one.
            let mut shown = Bounded(String::new());
            let _ = write!(shown, "{demangled:#}");
            printable(&shown.0)
        }
        Err(_) => printable(&name),
    }
}

/// Takes no more than is shown, and returns an error for the rest.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // Every character has a byte at least; the hash at the end is not shown.
        if self.0.len() + part.len() > 4 * MAX_NAME {
            let mut end = 4 * MAX_NAME - self.0.len();
            while !part.is_char_boundary(end) {
                end -= 1;
            }
            self.0.push_str(&part[..end]);
            return Err(fmt::Error);
        }
        self.0.push_str(part);
        Ok(())
    }
}

/// Text without control characters.
pub(super) fn printable(text: &str) -> String {
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
    fn names_are_demangled() {
        assert_eq!(function(b"_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(function(b"_RNvC5crash4main"), "crash::main");
        assert_eq!(function(b"memcpy"), "memcpy");
    }

    #[test]
    fn a_short_name_that_stands_for_a_long_one_is_cut() {
        // Pairs of the pair before: 2^40 letters.
        let mut name = String::from("_RINvC1a1bTaaE");
        let digit = |n: usize| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[n]);
        let mut last = 7;
        for _ in 0..5 {
            let at = name.len() - 2;
            let back = format!("B{}_", digit(last - 1));
            name += &format!("T{back}{back}E");
            last = (at + 2 + 1).min(35);
        }
        name += "E";
        assert!(function(name.as_bytes()).chars().count() <= MAX_NAME);
    }

    #[test]
    fn text_ends_at_a_zero_at_the_limit_or_with_the_budget() {
        let mut budget = Budget::default();
        assert_eq!(text(b"ab\0c", 0, &mut budget), Ok(&b"ab"[..]));
        assert_eq!(text(b"ab\0c", 3, &mut budget), Ok(&b"c"[..]));
        assert_eq!(text(b"ab\0c", 5, &mut budget), Err(Incomplete::Malformed));
        assert_eq!(text(&[b'x'; 10_000], 1, &mut budget).unwrap().len(), MAX_TEXT);
        budget.bytes = 2;
        assert_eq!(text(b"ab\0c", 0, &mut budget), Err(Incomplete::UsedUp));
    }
}
