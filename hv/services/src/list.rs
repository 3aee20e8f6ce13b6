//! Lists of keys, as guests get them.

use hv_abi::io::services::Entry;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

/// Most entries of one answer: a guest asks again for more.
pub(crate) const PAGE: usize = 256;

/// The first entries in ascending order, of all that are offered.
pub(crate) struct Page {
    most: usize,
    after: String,
    entries: BTreeMap<String, u64>,
}

impl Page {
    /// At most `wanted` entries, whose keys come after this one.
    pub(crate) fn new(wanted: u64, after: &str) -> Page {
        let most = usize::try_from(wanted).unwrap_or(PAGE).min(PAGE);
        Page { most, after: after.into(), entries: BTreeMap::new() }
    }

    /// How many entries it has room for.
    pub(crate) fn lacks(&self) -> usize {
        self.most - self.entries.len()
    }

    /// Whether an entry of this key would be kept now.
    pub(crate) fn wants(&self, key: &str) -> bool {
        let last = self.entries.last_key_value().map(|(last, _)| last.as_str());
        self.most > 0
            && key > self.after.as_str()
            && (self.entries.len() < self.most || last.is_some_and(|last| key < last))
    }

    pub(crate) fn offer(&mut self, key: String, size: u64) {
        if self.wants(&key) {
            self.entries.insert(key, size);
            if self.entries.len() > self.most {
                self.entries.pop_last();
            }
        }
    }

    /// The keys, to look at each.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    pub(crate) fn set_size(&mut self, key: &str, size: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = size;
        }
    }

    /// As data of a call.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, size) in &self.entries {
            bytes.extend(Entry { size: *size, key_len: key.len() as u32, reserved: 0 }.as_bytes());
            bytes.extend(key.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_first_keys_after_one() {
        let mut page = Page::new(2, "b");
        for key in ["e", "a", "c", "b", "d", "f"] {
            page.offer(key.into(), 1);
        }
        assert_eq!(page.keys().collect::<Vec<_>>(), ["c", "d"]);
        assert_eq!(page.to_bytes().len(), 2 * 17);
        let mut none = Page::new(0, "");
        none.offer("a".into(), 1);
        assert!(none.to_bytes().is_empty());
        assert_eq!(Page::new(u64::MAX, "").most, PAGE);
    }
}
