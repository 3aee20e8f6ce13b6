//! Small files, kept in memory.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;

/// Files by the path they were asked for, up to a number of bytes.
#[derive(Default)]
pub(super) struct Cache {
    files: BTreeMap<String, (u64, Rc<[u8]>)>,
    /// The paths by their last use.
    uses: BTreeMap<u64, String>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

impl Cache {
    /// A cache of at most this many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Cache { limit, ..Cache::default() }
    }

    pub(super) fn get(&mut self, path: &str) -> Option<Rc<[u8]>> {
        let (used, bytes) = self.files.get_mut(path)?;
        self.clock += 1;
        if let Some(path) = self.uses.remove(used) {
            self.uses.insert(self.clock, path);
        }
        *used = self.clock;
        Some(bytes.clone())
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets files until it takes at most so many bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some((_, bytes)) = self.files.remove(&oldest) {
                self.bytes -= cost(&oldest, &bytes);
            }
        }
    }

    pub(super) fn insert(&mut self, path: &str, bytes: Rc<[u8]>) {
        let size = cost(path, &bytes);
        if size > self.limit || self.files.contains_key(path) {
            return;
        }
        self.shrink(self.limit - size);
        self.clock += 1;
        self.bytes += size;
        self.uses.insert(self.clock, path.to_owned());
        self.files.insert(path.to_owned(), (self.clock, bytes));
    }
}

/// Bytes that a file takes, with what keeping track of it takes.
fn cost(path: &str, bytes: &[u8]) -> usize {
    bytes.len() + 2 * path.len() + 128
}

#[cfg(test)]
mod tests;
