//! Names as FAT stores them: a short one that is unique in its folder, and the
//! real one beside it unless the short one says it all.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

/// Bytes of a slot of a folder.
pub(super) const SLOT: usize = 32;
/// UTF-16 units of a long name that one slot holds, and where.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const LONG_NAME: u8 = 0x0f;
const LAST: u8 = 0x40;

/// The name of one entry.
#[derive(Debug)]
pub(super) struct Name {
    /// Eight characters and three of extension, filled up with spaces.
    pub(super) short: [u8; 11],
    /// The real name, if that is another one.
    long: Option<Vec<u16>>,
}

impl Name {
    /// Slots of the entry: those of the long name and one.
    pub(super) fn slots(&self) -> usize {
        1 + self.long.as_ref().map_or(0, |long| long.len().div_ceil(UNITS.len()))
    }

    /// Appends the slots of the long name, which come first, last part first.
    pub(super) fn push_long(&self, slots: &mut Vec<u8>) {
        let Some(long) = &self.long else { return };
        let checksum = self.short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let parts = long.chunks(UNITS.len());
        let count = parts.len();
        for (index, part) in parts.enumerate().rev() {
            let mut slot = [0; SLOT];
            slot[0] = (index as u8 + 1) | if index + 1 == count { LAST } else { 0 };
            slot[11] = LONG_NAME;
            slot[13] = checksum;
            for (i, at) in UNITS.into_iter().enumerate() {
                // One zero ends the name, all ones fill it up.
                let unit = part.get(i).copied().unwrap_or(if i == part.len() { 0 } else { 0xffff });
                slot[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            slots.extend_from_slice(&slot);
        }
    }
}

/// The names of one folder, in the same order.
pub(super) fn names<'a>(real: impl Iterator<Item = &'a str> + Clone) -> Vec<Name> {
    // Names that are short already come first: a generated name must differ from them.
    let mut taken: HashSet<[u8; 11]> = real.clone().filter_map(plain).collect();
    // Where to go on counting: a thousand similar names must not take a million comparisons.
    let mut next: HashMap<[u8; 11], u32> = HashMap::new();
    real.map(|name| {
        if let Some(short) = plain(name) {
            return Name { short, long: None };
        }
        let base = squeeze(name);
        let number = next.entry(base).or_insert(1);
        let short = loop {
            let short = numbered(base, *number);
            *number += 1;
            if taken.insert(short) {
                break short;
            }
        };
        Name { short, long: Some(name.encode_utf16().collect()) }
    })
    .collect()
}

/// What a short name may consist of, besides its dot.
fn is_short(c: u8) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&c)
}

fn put(stem: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..stem.len()].copy_from_slice(stem);
    short[8..][..extension.len()].copy_from_slice(extension);
    short
}

/// The short form of a name that loses nothing by it.
fn plain(name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (name, ""),
    };
    let fits = (1..=8).contains(&stem.len()) && extension.len() <= 3;
    let short = fits && stem.bytes().chain(extension.bytes()).all(is_short);
    short.then(|| put(stem.as_bytes(), extension.as_bytes()))
}

/// The characters of a long name that its short form keeps: up to six and three.
fn squeeze(name: &str) -> [u8; 11] {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, extension),
        _ => (name, ""),
    };
    let keep = |part: &str, most: usize| -> Vec<u8> {
        let upper = part.bytes().map(|c| c.to_ascii_uppercase());
        upper.filter(|c| is_short(*c)).take(most).collect()
    };
    let stem = keep(stem, 6);
    put(if stem.is_empty() { b"_" } else { &stem }, &keep(extension, 3))
}

/// `BASE~12` out of `BASE`, shortened as needed.
fn numbered(base: [u8; 11], number: u32) -> [u8; 11] {
    let tail = format!("~{number}");
    let len = base[..8].iter().take_while(|c| **c != b' ').count().min(8 - tail.len());
    let mut short = base;
    short[len..8].fill(b' ');
    short[len..][..tail.len()].copy_from_slice(tail.as_bytes());
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(real: &[&str]) -> Vec<String> {
        names(real.iter().copied()).iter().map(|n| String::from_utf8(n.short.to_vec()).unwrap()).collect()
    }

    #[test]
    fn short_names_are_made_up_where_needed_and_are_unique() {
        assert_eq!(
            short(&[
                "README.TXT",
                "readme.txt.bak",
                "a long name.html",
                "a long nail.htm",
                "über",
                ".x",
                "A~1",
                "a"
            ]),
            [
                "README  TXT",
                "README~1BAK",
                "ALONGN~1HTM",
                "ALONGN~2HTM",
                "BER~1      ",
                "X~1        ",
                "A~1        ",
                "A~2        "
            ]
        );
        let many: Vec<_> = (0..20_000).map(|i| format!("the same beginning {i}.txt")).collect();
        let short: HashSet<_> = names(many.iter().map(String::as_str)).iter().map(|n| n.short).collect();
        assert_eq!(short.len(), many.len());
    }

    #[test]
    fn a_long_name_takes_a_slot_for_each_13_characters() {
        for (len, slots) in [(1, 1), (13, 1), (14, 2), (26, 2), (255, 20)] {
            let name = "x".repeat(len);
            let [name] = &names([name.as_str()].into_iter())[..] else { panic!() };
            let mut bytes = Vec::new();
            name.push_long(&mut bytes);
            assert_eq!((bytes.len(), name.slots()), (slots * SLOT, slots + 1));
            assert_eq!(bytes[0], LAST | slots as u8);
        }
    }
}
