//! Overlays: a guest's own writes to a disk that stays as it is.
//!
//! An overlay is a sparse temporary file without a name, as large as the disk in
//! principle and as what was written in fact, and a bitmap of the sectors
//! that it holds. Both are gone with the guest.
//!
//! The file lies in the folder for temporary files (`TMPDIR`). The bitmap takes 512
//! bytes for each 4096 sectors of which some but not all were written, so a guest
//! cannot make it grow beyond 1/4096 of its disk.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// See the [module](self).
#[derive(Debug)]
pub struct Overlay {
    /// Bytes of the disk.
    size: u64,
    sector_size: u64,
    state: Mutex<OverlayState>,
}

#[derive(Debug, Default)]
struct OverlayState {
    /// Made for the first write.
    file: Option<Arc<File>>,
    sectors: Sectors,
}

impl Overlay {
    /// An overlay that holds nothing, of a disk with so many bytes, in sectors of this size.
    pub fn new(size: u64, sector_size: u32) -> Self {
        Overlay { size, sector_size: sector_size.into(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, OverlayState> {
        self.state.lock().expect("no panic while held")
    }

    /// Whether the guest has written nothing.
    pub fn is_empty(&self) -> bool {
        self.state().sectors.groups.is_empty()
    }

    /// Forgets everything that was written. Nothing may be in flight.
    pub fn clear(&self) {
        *self.state() = OverlayState::default();
    }

    /// The file that writes go to.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        let state = &mut *self.state();
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let file = tempfile::tempfile()?;
        file.set_len(self.size)?;
        Ok(state.file.insert(Arc::new(file)).clone())
    }

    /// Whether what is at this byte offset is in the overlay, and for how many
    /// of the next `len` bytes that stays so.
    pub(super) fn run(&self, offset: u64, len: u64) -> (bool, u64) {
        let first = offset / self.sector_size;
        let end = (offset + len).div_ceil(self.sector_size);
        let (written, end) = self.state().sectors.run(first..end.max(first + 1));
        (written, len.min(end * self.sector_size - offset))
    }

    /// Notes that so many bytes were written to the overlay at this offset, the
    /// start of a sector, and returns how many of them are whole sectors, which count.
    pub(super) fn wrote(&self, offset: u64, len: u64) -> u64 {
        let whole = len - len % self.sector_size;
        let first = offset / self.sector_size;
        self.state().sectors.insert(first..first + whole / self.sector_size);
        whole
    }
}

/// Sectors of a group.
const GROUP: u64 = 4096;
const WORDS: usize = GROUP as usize / 64;

/// A set of sectors.
#[derive(Debug, Default)]
struct Sectors {
    groups: BTreeMap<u64, Group>,
}

#[derive(Debug)]
enum Group {
    Some(Box<[u64; WORDS]>),
    All,
}

impl Group {
    fn contains(&self, sector: u64) -> bool {
        match self {
            Group::All => true,
            Group::Some(words) => words[(sector % GROUP / 64) as usize] & 1 << (sector % 64) != 0,
        }
    }
}

impl Sectors {
    fn insert(&mut self, range: Range<u64>) {
        let mut sector = range.start;
        while sector < range.end {
            let number = sector / GROUP;
            let end = range.end.min((number + 1) * GROUP);
            let group = self.groups.entry(number).or_insert_with(|| Group::Some(Box::new([0; WORDS])));
            if end - sector == GROUP {
                *group = Group::All;
            }
            if let Group::Some(words) = group {
                for sector in sector..end {
                    words[(sector % GROUP / 64) as usize] |= 1 << (sector % 64);
                }
                if words.iter().all(|&word| word == u64::MAX) {
                    *group = Group::All;
                }
            }
            sector = end;
        }
    }

    /// Whether the first sector of a range that is not empty is in the set, and where that changes, or the range ends.
    fn run(&self, range: Range<u64>) -> (bool, u64) {
        let contains = |sector: u64| self.groups.get(&(sector / GROUP)).is_some_and(|g| g.contains(sector));
        let first = contains(range.start);
        let mut sector = range.start + 1;
        while sector < range.end && contains(sector) == first {
            sector += 1;
        }
        (first, sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_set_is_a_set(
            ranges in proptest::collection::vec((0..3 * GROUP, 0..2 * GROUP), 0..20),
            from in 0..5 * GROUP,
        ) {
            let (mut set, mut model) = (Sectors::default(), BTreeSet::new());
            for (start, len) in ranges {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            let (found, end) = set.run(from..from + GROUP);
            prop_assert_eq!(found, model.contains(&from));
            prop_assert!((from..end).all(|sector| model.contains(&sector) == found));
            prop_assert!(end == from + GROUP || model.contains(&end) != found);
        }
    }

    #[test]
    fn half_a_sector_does_not_count() {
        let overlay = Overlay::new(8192, 512);
        assert_eq!(overlay.wrote(1024, 700), 512);
        assert_eq!(overlay.run(1024, 4096), (true, 512));
        assert_eq!(overlay.run(1536, 4096), (false, 4096));
        assert_eq!(overlay.run(1100, 100), (true, 100));
        assert_eq!(overlay.wrote(0, 511), 0);
        assert_eq!(overlay.run(0, 512), (false, 512));
    }
}
