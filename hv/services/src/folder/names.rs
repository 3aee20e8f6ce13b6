//! Keys as names of files. No key leads out of the folder: a name has no slash, and begins with no dot. Pure.

use std::fmt::Write;

/// The longest name.
const MAX: usize = 240;

/// The name of the file of a key; `None` if it would be too long.
pub(crate) fn encode(key: &str) -> Option<String> {
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && at > 0;
        match plain {
            true => name.push(byte as char),
            false => write!(name, "%{byte:02X}").expect("a string takes all"),
        }
    }
    (!name.is_empty() && name.len() <= MAX).then_some(name)
}

/// The key of a file of this name; `None` if it is the file of none.
pub(crate) fn decode(name: &[u8]) -> Option<String> {
    let mut key = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            key.push(byte);
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        key.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    // Each key has one name.
    String::from_utf8(key).ok().filter(|key| encode(key).is_some_and(|again| again.as_bytes() == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_in_their_folder() {
        assert_eq!(encode("a/../b").unwrap(), "a%2F..%2Fb");
        assert_eq!(encode("..").unwrap(), "%2E.");
        assert_eq!(encode(".lock").unwrap(), "%2Elock");
        assert_eq!(encode("Ä 1").unwrap(), "%C3%84%201");
        assert_eq!(encode(""), None);
        assert_eq!(encode(&"a".repeat(MAX)).unwrap().len(), MAX);
        assert_eq!(encode(&"a".repeat(MAX + 1)), None);
        for other in ["", ".lock", ".new-1", "%41", "%2e.", "%", "%2", "%+1", "a b", "%FF"] {
            assert_eq!(decode(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_key_has_a_name_of_its_own(key in "\\PC{1,60}|[/.%\0-\u{1f}]{1,20}") {
            if let Some(name) = encode(&key) {
                prop_assert!(!name.starts_with('.') && !name.contains(['/', '\0']));
                prop_assert_eq!(decode(name.as_bytes()), Some(key));
            }
        }

        #[test]
        fn what_is_decoded_is_encoded_the_same(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(key) = decode(&name) {
                prop_assert_eq!(encode(&key).unwrap().into_bytes(), name);
            }
        }
    }
}
