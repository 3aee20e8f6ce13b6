//! How far a long command is, on standard error.

use std::io::Write;
use std::time::{Duration, Instant};

/// How often a line is written anew.
const EVERY: Duration = Duration::from_millis(100);

/// A bar on a terminal; nothing elsewhere.
pub(super) struct Bar {
    what: &'static str,
    size: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Bar {
    /// A bar for so many bytes.
    pub(super) fn new(what: &'static str, size: u64) -> Self {
        Bar { what, size, shown: None, terminal: crate::colour::can_overwrite(&std::io::stderr()) }
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u64) {
        const WIDTH: u64 = 30;
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let size = self.size.max(1);
        let full = (done.min(size) as u128 * u128::from(WIDTH) / u128::from(size)) as usize;
        let percent = done.min(size) as u128 * 100 / u128::from(size);
        let empty = WIDTH as usize - full;
        // Standard error may be closed: an error of the write is ignored.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[Khv disk: {} [{}{}] {percent} %",
            self.what,
            "#".repeat(full),
            " ".repeat(empty)
        );
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
