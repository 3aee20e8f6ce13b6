//! Text from outside, made safe to print.
//!
//! File names, arguments and values of a configuration may hold any character. Printed as they are,
//! a line break forges a second line, an escape sequence colours or clears the terminal, and a bidirectional
//! override makes a name look like another one. So every message of hv prints them by [`escape`]; a test forbids
//! `.display()` elsewhere.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter, Write};

/// Text from outside as it is printed: see [`escape`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a OsStr);

/// Text from outside, to be printed: control characters, line breaks, characters that change the direction of writing
/// and invisible ones as `\n` or `\u{1b}`, bytes that are no text as `\xff`, and everything else as it is.
///
/// A backslash stays as it is: the result is for people, and is not meant to be read back. What is escaped twice
/// is as if it were escaped once.
///
/// ```
/// assert_eq!(hv_host::escape("größe 猫.img").to_string(), "größe 猫.img");
/// assert_eq!(hv_host::escape("no\nhv: \u{1b}[31m").to_string(), "no\\nhv: \\u{1b}[31m");
/// ```
pub fn escape<T: AsRef<OsStr> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped(text.as_ref())
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_encoded_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if is_hidden(character) {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    f.write_char(character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether a character does something else than to stand where it is.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            // Soft hyphen, marks and overrides of direction, joiners, separators of lines and paragraphs …
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            // … invisible operators and isolates, the byte order mark, annotations, tags.
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn ordinary_text_stays_and_the_rest_is_seen() {
        for text in ["", "a b.img", "größe", "猫", "смысл", "שלום", "e\u{301}", "\u{1f980}", "C:\\x", "\"'`$"]
        {
            assert_eq!(escape(text).to_string(), text);
        }
        for (text, seen) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[2J\u{7}\0", "\\u{1b}[2J\\u{7}\\u{0}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("x\u{202e}gmi.exe", "x\\u{202e}gmi.exe"),
            ("\u{2028}\u{2066}\u{feff}", "\\u{2028}\\u{2066}\\u{feff}"),
        ] {
            assert_eq!(escape(text).to_string(), seen);
        }
        assert_eq!(escape(OsStr::from_bytes(b"a\xff\xc3\x1b")).to_string(), "a\\xff\\xc3\\u{1b}");
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_is_one_line_without_control_characters(bytes: Vec<u8>) {
            let once = escape(OsStr::from_bytes(&bytes)).to_string();
            prop_assert!(!once.chars().any(is_hidden));
            prop_assert_eq!(escape(&once).to_string(), once);
        }
    }
}
