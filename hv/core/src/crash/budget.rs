//! What one crash report may cost: every loop over the tables of an image is charged here.

/// How much of an image may still be looked at for one report.
///
/// A guest's author controls its debug information, so its size does not bound the work that it causes. What
/// is charged is the work, not the size. Memory follows: nothing is kept but what the report shows, and one
/// table of abbreviations of at most 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Instructions of line number programs; each makes at most one row.
    pub rows: u64,
    /// Entries of all other tables: units, debug information entries and their
    /// attributes, ranges, files, symbols, call frame information.
    pub entries: u64,
    /// Bytes of names, abbreviations and call frame instructions.
    pub bytes: u64,
}

impl Default for Budget {
    /// Enough for ten different callers in a guest with 8 MiB of debug information; some tenths of a second at most.
    fn default() -> Self {
        Budget { rows: 2_000_000, entries: 8_000_000, bytes: 16 << 20 }
    }
}

/// Why a table was not read to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// The budget is used up.
    UsedUp,
    /// It is not what it should be.
    Malformed,
}

impl From<gimli::Error> for Incomplete {
    fn from(_: gimli::Error) -> Self {
        Incomplete::Malformed
    }
}

impl Budget {
    pub(super) fn row(&mut self) -> Result<(), Incomplete> {
        take(&mut self.rows, 1)
    }

    pub(super) fn entry(&mut self) -> Result<(), Incomplete> {
        self.entries(1)
    }

    pub(super) fn entries(&mut self, count: usize) -> Result<(), Incomplete> {
        take(&mut self.entries, count)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<(), Incomplete> {
        take(&mut self.bytes, count)
    }
}

/// Takes what is there; less than asked for leaves nothing.
fn take(left: &mut u64, count: usize) -> Result<(), Incomplete> {
    let enough = left.checked_sub(count as u64);
    *left = enough.unwrap_or(0);
    enough.map(drop).ok_or(Incomplete::UsedUp)
}
