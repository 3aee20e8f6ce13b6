//! Keys, values, and when they go.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Bytes that keeping a key takes besides the key and its value, roughly.
const OVERHEAD: usize = 128;

struct Value {
    bytes: Box<[u8]>,
    /// In milliseconds on the caller's clock.
    expires: Option<u64>,
}

/// The keys and values. Times are in milliseconds on the caller's clock, which
/// tells them to [`expire`](Self::expire).
pub struct Store {
    values: BTreeMap<Box<[u8]>, Value>,
    expiries: BTreeSet<(u64, Box<[u8]>)>,
    bytes: usize,
    limit: usize,
}

/// There is no room for a value.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Store {
    /// An empty store for at most this many bytes.
    pub fn new(limit: usize) -> Self {
        Store { values: BTreeMap::new(), expiries: BTreeSet::new(), bytes: 0, limit }
    }

    /// Removes every key whose time has come.
    pub fn expire(&mut self, now: u64) {
        while self.expiries.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiries.pop_first() {
                self.remove(&key);
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).map(|value| &*value.bytes)
    }

    /// When a key goes, if it is there, and if it ever does.
    pub fn expiry(&self, key: &[u8]) -> Option<Option<u64>> {
        self.values.get(key).map(|value| value.expires)
    }

    /// Sets a key.
    pub fn set(&mut self, key: &[u8], bytes: &[u8], expires: Option<u64>) -> Result<(), Full> {
        let before = self.values.get(key).map_or(0, |value| key.len() + value.bytes.len() + OVERHEAD);
        let size = key.len() + bytes.len() + OVERHEAD;
        if self.bytes - before + size > self.limit {
            return Err(Full);
        }
        self.set_expiry(key, expires);
        self.bytes = self.bytes - before + size;
        match self.values.get_mut(key) {
            // Of the same length, as counters mostly are: no need to allocate.
            Some(value) if value.bytes.len() == bytes.len() => value.bytes.copy_from_slice(bytes),
            Some(value) => value.bytes = bytes.into(),
            None => {
                self.values.insert(key.into(), Value { bytes: bytes.into(), expires });
                if let Some(at) = expires {
                    self.expiries.insert((at, key.into()));
                }
            }
        }
        Ok(())
    }

    /// Says when a key goes. False if there is no such key.
    pub fn set_expiry(&mut self, key: &[u8], expires: Option<u64>) -> bool {
        let Some(value) = self.values.get_mut(key) else { return false };
        if value.expires != expires {
            if let Some(before) = value.expires {
                self.expiries.remove(&(before, key.into()));
            }
            if let Some(at) = expires {
                self.expiries.insert((at, key.into()));
            }
            value.expires = expires;
        }
        true
    }

    /// Removes a key. False if there was no such key.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.values.remove(key) else { return false };
        self.bytes -= key.len() + value.bytes.len() + OVERHEAD;
        if let Some(at) = value.expires {
            self.expiries.remove(&(at, key.into()));
        }
        true
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        *self = Store::new(self.limit);
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes in use, and the most there may be.
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.limit)
    }

    /// The keys that a test holds of, in order.
    pub fn keys(&self, test: impl Fn(&[u8]) -> bool) -> Vec<&[u8]> {
        self.values.keys().map(|key| &**key).filter(|key| test(key)).collect()
    }
}
