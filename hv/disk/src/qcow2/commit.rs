//! From memory to the file; the order is explained in the [parent](super).
#![forbid(unsafe_code)]

use super::Qcow2;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Qcow2 {
    pub(super) fn commit(&self) -> io::Result<()> {
        let _one = self.committing.lock().expect("no panic while held");
        self.check_sound()?;
        let changes = self.changes.load(Ordering::SeqCst);
        let (l1, slices, unlinked) = {
            let mut active = self.active();
            let (l1, slices) = active.tables.take_dirty();
            (l1, slices, mem::take(&mut active.unlinked))
        };
        let written = || {
            self.refcounts().write_out(&self.file)?;
            self.sync()?;
            if l1.is_empty() && slices.is_empty() {
                return Ok(());
            }
            for slice in &slices {
                self.file.write(&slice.bytes, slice.offset)?;
            }
            for (index, word) in &l1 {
                self.file.write(&word.to_be_bytes(), self.header.l1_offset + 8 * *index as u64)?;
            }
            self.sync()
        };
        let result = written();
        let mut active = self.active();
        if let Err(error) = result {
            let (l1, slices) = (l1.into_keys(), slices.into_iter().map(|slice| slice.number));
            active.tables.mark_dirty(l1, slices);
            active.unlinked.extend(unlinked);
            return Err(error);
        }
        active.tables.written();
        if !unlinked.is_empty() {
            let old = mem::take(&mut active.generation);
            active.retired.push_back((old, unlinked));
        }
        drop(active);
        self.committed.fetch_max(changes, Ordering::SeqCst);
        self.reclaim()
    }

    fn sync(&self) -> io::Result<()> {
        let data = self.data.as_ref().map_or(Ok(()), |data| data.sync());
        let synced = data.and_then(|()| self.file.sync());
        if synced.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        synced
    }

    /// Gives away what the file no longer names, and nobody moves bytes to.
    pub(super) fn reclaim(&self) -> io::Result<()> {
        loop {
            let mut active = self.active();
            // Generations end in their order: who holds an older one may still use what a younger one has.
            match active.retired.front() {
                Some((generation, _)) if Arc::strong_count(generation) == 1 => {}
                _ => return Ok(()),
            }
            let (_, clusters) = active.retired.pop_front().expect("looked at");
            drop(active);
            let mut refcounts = self.refcounts();
            for cluster in clusters.iter().flat_map(|c| c.first..c.first + c.count) {
                if refcounts.add(&self.file, cluster, -1)? == 0 {
                    refcounts.taken.remove(&cluster);
                    self.file.punch(self.start_of(cluster), self.header.cluster_size());
                }
            }
        }
    }

    /// The last commit: refcounts of what it frees reach the file, too.
    pub(super) fn finish(&self) -> io::Result<()> {
        if !self.refcounts().is_dirty()
            && self.changes.load(Ordering::SeqCst) == self.committed.load(Ordering::SeqCst)
        {
            return Ok(());
        }
        self.commit()?;
        self.refcounts().write_out(&self.file)
    }
}
