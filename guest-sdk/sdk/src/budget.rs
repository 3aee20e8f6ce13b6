//! Memory that several users share: each asks before it uses some.
//!
//! An allocation that fails ends the guest. If clients decide how much memory a server needs, the server gives them a
//! budget instead, and refuses requests beyond it.
#![forbid(unsafe_code)]

use core::cell::Cell;

/// Bytes that may be in use at a time.
#[derive(Debug)]
pub struct Budget {
    left: Cell<usize>,
}

impl Budget {
    /// A budget of this many bytes.
    pub const fn new(bytes: usize) -> Self {
        Budget { left: Cell::new(bytes) }
    }

    /// Bytes that are not in use.
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// A share without any bytes, to [grow](Share::grow) later.
    pub fn share(&self) -> Share<'_> {
        Share { budget: self, bytes: 0 }
    }
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Share<'_> {
    /// Makes the share at least this large. False if the budget has not enough left.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let enough = more <= self.budget.left.get();
        if enough {
            self.budget.left.set(self.budget.left.get() - more);
            self.bytes += more;
        }
        enough
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.bytes);
    }
}
