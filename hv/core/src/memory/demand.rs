//! The pages of a template that a clone's memory file takes when they are needed.
//!
//! Two processes cannot share private changes of a file. So the file of a clone that another process maps begins without
//! the template's pages. Pages that the guest can only read are mapped from the template there. The others come into the file
//! before their first use: by the guest, whose process reports that it lacks a page, or by the host, before it writes to it.

use super::shared::copy;
use super::{Access, GuestMemory, Template};
use hv_abi::{GuestAddr, PAGE_SIZE};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Bits of a word.
const BITS: u64 = u64::BITS as u64;

/// Which pages the file of a clone has of its own.
#[derive(Debug)]
pub(super) struct Demand {
    template: Arc<Template>,
    file: Arc<File>,
    /// A bit for each page below the tail: set if the file says what is in it. Those that the template does not have are set from the start.
    own: Box<[AtomicU64]>,
    /// Held while pages come and go.
    changing: Mutex<()>,
    /// Whether the guest's process cannot say what it lacks: then all that it can write is in the file.
    complete: AtomicBool,
    /// Whether the host has refused a page.
    failed: AtomicBool,
}

/// Where a process that maps a clone's memory finds some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the memory's file.
    File,
    /// In the memory's file, once it was asked for: see [`GuestMemory::bring`].
    OnDemand,
    /// In the template's file.
    Template,
}

/// A range of offsets with one access and one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    pub(crate) access: Access,
    pub(crate) source: Source,
}

/// The pages that a range of bytes touches.
fn pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE)
}

impl Demand {
    pub(super) fn new(template: &Arc<Template>, file: &Arc<File>) -> Self {
        let mut own = vec![u64::MAX; (template.size() / PAGE_SIZE).div_ceil(BITS) as usize];
        for page in template.data().flat_map(|data| pages(&data)) {
            own[(page / BITS) as usize] &= !(1 << (page % BITS));
        }
        Demand {
            template: template.clone(),
            file: file.clone(),
            own: own.into_iter().map(AtomicU64::new).collect(),
            changing: Mutex::new(()),
            complete: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// The bit of a page; `None` in the tail, which no template concerns.
    fn bit(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        (page < self.template.size() / PAGE_SIZE)
            .then(|| (&self.own[(page / BITS) as usize], 1 << (page % BITS)))
    }

    /// Whether the file says what is in a page.
    fn has(&self, page: u64) -> bool {
        self.bit(page).is_none_or(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Copies what the file lacks of a range (offsets).
    fn take(&self, range: &Range<u64>) -> io::Result<()> {
        let pages = pages(range);
        if pages.clone().all(|page| self.has(page)) {
            return Ok(());
        }
        let _held = self.changing.lock().expect("no panic while held");
        let mut from = pages.start;
        while let Some(start) = (from..pages.end).find(|&page| !self.has(page)) {
            let end = (start..pages.end).find(|&page| self.has(page)).unwrap_or(pages.end);
            // Pages become visible whole: the kernel keeps each one locked while it is written.
            copy(&self.template, &self.file, start * PAGE_SIZE..end * PAGE_SIZE)?;
            for (word, bit) in (start..end).filter_map(|page| self.bit(page)) {
                word.fetch_or(bit, Ordering::Release);
            }
            from = end;
        }
        Ok(())
    }

    /// Makes the pages of a range the template's again, by `remove`, which takes pages out of the file.
    pub(super) fn give_back(&self, range: Range<u64>, remove: impl Fn(Range<u64>)) {
        let _held = self.changing.lock().expect("no panic while held");
        if self.complete.load(Ordering::SeqCst) {
            let mut at = range.start;
            // Nobody would say that a page with contents is missing.
            for data in self.template.data_within(range.clone()) {
                remove(at..data.start);
                at = data.end;
            }
            remove(at..range.end);
            return;
        }
        let data = self.template.data_within(range.clone()).flat_map(|data| pages(&data));
        for (word, bit) in data.filter_map(|page| self.bit(page)) {
            word.fetch_and(!bit, Ordering::Release);
        }
        remove(range);
    }

    /// Runs of pages of a range (offsets of whole pages), each with whether the file says what is in them.
    fn runs(&self, range: &Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut runs = Vec::<(Range<u64>, bool)>::new();
        for page in pages(range) {
            let (has, end) = (self.has(page), (page + 1) * PAGE_SIZE);
            match runs.last_mut() {
                Some((run, same)) if *same == has => run.end = end,
                _ => runs.push((page * PAGE_SIZE..end, has)),
            }
        }
        runs
    }
}

impl GuestMemory {
    /// Has the file say what is in a range (offsets) from now on, before the host writes there. A thread that does that for
    /// the first time copies pages of the template. If the host refuses that, the
    /// guest is [incomplete](Self::is_incomplete).
    pub(crate) fn own(&self, offset: u64, len: u64) {
        let Some(demand) = &self.demand else { return };
        if let Err(error) = demand.take(&(offset..offset + len)) {
            tracing::error!("no memory for pages of a guest: {error}");
            demand.failed.store(true, Ordering::SeqCst);
        }
    }

    /// The same for all that the guest can write, from its start to its end: for a process that cannot say what it lacks.
    ///
    /// # Errors
    ///
    /// What the host says of the copy.
    pub(crate) fn complete(&self) -> io::Result<()> {
        let Some(demand) = &self.demand else { return Ok(()) };
        demand.complete.store(true, Ordering::SeqCst);
        let mut writable = self.map.iter().filter(|(_, access)| access.contains(Access::WRITE));
        writable.try_for_each(|(range, _)| demand.take(range))
    }

    /// Whether the guest's process has to say which pages it lacks.
    pub(crate) fn is_on_demand(&self) -> bool {
        self.demand.as_ref().is_some_and(|demand| !demand.complete.load(Ordering::SeqCst))
    }

    /// Whether pages are missing that the host has refused. The guest must not go on then.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.demand.as_ref().is_some_and(|demand| demand.failed.load(Ordering::SeqCst))
    }

    /// Brings the page that the guest's process lacks, for an access that the guest has tried. Returns false if that is not why the access failed.
    ///
    /// # Errors
    ///
    /// If the host has no memory for the page.
    pub(crate) fn bring(&self, address: GuestAddr, access: Access) -> io::Result<bool> {
        let (Some(demand), Ok(offset)) = (&self.demand, self.check(address, 1, access)) else {
            return Ok(false);
        };
        let page = offset / PAGE_SIZE * PAGE_SIZE;
        demand.take(&(page..page + PAGE_SIZE))?;
        // A page that the template does not have, or that was given back meanwhile: of zeros.
        rustix::fs::fallocate(&demand.file, FallocateFlags::KEEP_SIZE, page, PAGE_SIZE)?;
        Ok(true)
    }

    /// Copies bytes out, those that the file lacks from the template.
    pub(super) fn copy_out(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        let lacks = |demand: &&Demand| pages(&(offset..end)).any(|page| !demand.has(page));
        let Some(demand) = self.demand.as_ref().filter(lacks) else {
            self.slice(offset, bytes.len()).copy_to(bytes);
            return;
        };
        for (run, has) in demand.runs(&(offset..end)) {
            let (from, to) = (run.start.max(offset), run.end.min(end));
            let part = &mut bytes[(from - offset) as usize..(to - offset) as usize];
            if has || demand.template.read(from, part).is_err() {
                self.slice(from, part.len()).copy_to(part);
            }
        }
    }

    /// The access map in pieces with one source each. There are at most `more` pieces beyond the map's own ranges, if possible:
    /// where the template has many small holes, they count as data, which costs a fault at their first touch.
    pub(crate) fn pieces(&self, more: usize) -> Vec<Piece> {
        let Some(demand) = &self.demand else {
            let whole = |(range, access): &(Range<u64>, Access)| Piece {
                range: range.clone(),
                access: *access,
                source: Source::File,
            };
            return self.map.iter().map(whole).collect();
        };
        let mut pieces = Vec::new();
        for (range, access) in self.map.iter() {
            let mut add = |range: Range<u64>, source| {
                if !range.is_empty() {
                    pieces.push(Piece { range, access: *access, source });
                }
            };
            if !access.contains(Access::WRITE) {
                for (run, has) in demand.runs(range) {
                    add(run, if has { Source::File } else { Source::Template });
                }
            } else if demand.complete.load(Ordering::SeqCst) {
                add(range.clone(), Source::File);
            } else {
                let mut at = range.start;
                for data in demand.template.data_within(range.clone()) {
                    add(at..data.start, Source::File);
                    at = data.end;
                    add(data, Source::OnDemand);
                }
                add(at..range.end, Source::File);
            }
        }
        without_small_holes(pieces, self.map.len() + more)
    }
}

/// Joins neighbours across holes, the smallest ones first, until there are at most so many pieces, if possible.
fn without_small_holes(pieces: Vec<Piece>, most: usize) -> Vec<Piece> {
    let len = |range: &Range<u64>| range.end - range.start;
    let is_hole = |[before, hole, after]: &[Piece; 3]| {
        hole.source == Source::File
            && before.source == Source::OnDemand
            && after.source == Source::OnDemand
            && before.range.end == hole.range.start
            && hole.range.end == after.range.start
    };
    let excess = pieces.len().saturating_sub(most).div_ceil(2);
    let mut holes: Vec<_> = pieces
        .array_windows::<3>()
        .filter(|three| is_hole(three))
        .map(|three| len(&three[1].range))
        .collect();
    holes.sort_unstable();
    let Some(largest) = excess.checked_sub(1).map(|last| holes.get(last).copied().unwrap_or(u64::MAX)) else {
        return pieces;
    };
    let mut joined = Vec::<Piece>::new();
    for (n, piece) in pieces.iter().enumerate() {
        let hole = |n: usize| {
            let three = n.checked_sub(1).and_then(|first| pieces.get(first..first + 3)?.try_into().ok());
            three.is_some_and(|three: &[Piece; 3]| is_hole(three) && len(&three[1].range) <= largest)
        };
        match joined.last_mut() {
            Some(last) if hole(n) || n.checked_sub(1).is_some_and(hole) => last.range.end = piece.range.end,
            _ => joined.push(piece.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
