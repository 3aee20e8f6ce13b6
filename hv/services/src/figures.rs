//! What a function has done with its services.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Operations of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    /// `store`, `blob`, `secret`, `tcp` or `udp`.
    pub service: &'static str,
    /// The name of the binding; `-`: none.
    pub binding: String,
    /// `ok`, or why not.
    pub result: &'static str,
}

/// The counts of a function.
#[derive(Debug, Default)]
pub struct Figures {
    operations: Mutex<BTreeMap<Figure, u64>>,
    connection_bytes: [AtomicU64; 2],
}

impl Figures {
    pub(crate) fn count(&self, figure: Figure) {
        *self.operations.lock().expect("no panic while held").entry(figure).or_default() += 1;
    }

    pub(crate) fn moved(&self, direction: usize, bytes: usize) {
        self.connection_bytes[direction].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Operations so far. Bindings are those of the configuration, so there are not many kinds.
    pub fn operations(&self) -> Vec<(Figure, u64)> {
        let operations = self.operations.lock().expect("no panic while held");
        operations.iter().map(|(figure, count)| (figure.clone(), *count)).collect()
    }

    /// Bytes that connections have brought to guests, and have taken from them.
    pub fn connection_bytes(&self) -> [u64; 2] {
        [0, 1].map(|direction| self.connection_bytes[direction].load(Ordering::Relaxed))
    }
}
