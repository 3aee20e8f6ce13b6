//! Making, going back to and deleting internal snapshots, of an image that no guest has.
//!
//! Counts are raised before anything names a cluster once more, and lowered after nothing does: whenever that ends, no cluster
//! is counted too low. The marks of entries that have a cluster alone are made right last; `check` repairs them.
#![forbid(unsafe_code)]

use super::Qcow2;
use super::entry::{COPIED, Content, Entry, OFFSET};
use super::header::MAX_SNAPSHOTS;
use super::refcounts::corrupt;
use super::snapshots::{Snapshot, snapshots};
use std::io::{self, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what.to_owned())
}

impl Qcow2 {
    /// Keeps what the disk has now under a name. The image is to be opened again afterwards, as after all of these.
    ///
    /// # Errors
    ///
    /// If there is such a name, a refcount is at its end, or the file cannot be written.
    pub fn take_snapshot(&self, name: &str) -> io::Result<()> {
        let mut list = self.list()?;
        if list.iter().any(|known| known.name == name) {
            return Err(invalid("there is a snapshot of that name"));
        }
        if list.len() as u32 >= MAX_SNAPSHOTS || name.is_empty() || name.len() > 255 {
            return Err(invalid("a name has 1 to 255 bytes, and an image at most 65536 snapshots"));
        }
        let l1 = self.active().tables.l1.clone();
        self.count(&l1, 1)?;
        let l1_offset = self.write_table(&l1.iter().map(|word| word & OFFSET).collect::<Vec<_>>())?;
        let number = list.iter().filter_map(|known| known.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        list.push(Snapshot {
            id: number.to_string(),
            name: name.into(),
            disk_size: self.header.size,
            vm_state_size: 0,
            date: (now.as_secs() as u32, now.subsec_nanos()),
            vm_clock: 0,
            l1_offset,
            l1_entries: l1.len() as u32,
            bytes: 0,
            raw: Vec::new(),
        });
        self.put_list(&list)?;
        self.make_marks_right()
    }

    /// Gives up what was kept under a name or number.
    ///
    /// # Errors
    ///
    /// If there is none, or the file cannot be written.
    pub fn delete_snapshot(&self, which: &str) -> io::Result<()> {
        let mut list = self.list()?;
        let gone = list.remove(find(&list, which)?);
        let l1 = self.l1_of(&gone)?;
        self.put_list(&list)?;
        self.count(&l1, -1)?;
        self.free(gone.l1_offset, u64::from(gone.l1_entries) * 8)?;
        self.make_marks_right()
    }

    /// Has the disk as it was kept under a name or number. What it has now is gone, unless that was kept as well.
    ///
    /// # Errors
    ///
    /// If there is none, it is one of a disk of another size, or the file cannot be written.
    pub fn apply_snapshot(&self, which: &str) -> io::Result<()> {
        let list = self.list()?;
        let kept = &list[find(&list, which)?];
        if kept.disk_size != self.header.size {
            return Err(invalid("the disk had another size; resize it first"));
        }
        let mut l1 = self.l1_of(kept)?;
        let old = self.active().tables.l1.clone();
        if l1.len() > old.len() {
            return Err(corrupt("a snapshot with a longer table than its image"));
        }
        l1.resize(old.len(), 0);
        self.count(&l1, 1)?;
        let bytes: Vec<u8> = l1.iter().flat_map(|word| (word & OFFSET).to_be_bytes()).collect();
        self.file.write(&bytes, self.header.l1_offset)?;
        self.file.sync()?;
        self.count(&old, -1)?;
        self.make_marks_right()
    }

    /// The snapshots, with everything else in the file.
    fn list(&self) -> io::Result<Vec<Snapshot>> {
        self.check_writable(0, 0)?;
        if self.data.is_some() {
            return Err(invalid("its data is in another file, which keeps no snapshots"));
        }
        self.commit()?;
        self.finish()?;
        let header = Qcow2::read_header(&self.file).map_err(|error| corrupt(&error.to_string()))?;
        snapshots(&self.file, &header)
    }

    fn l1_of(&self, snapshot: &Snapshot) -> io::Result<Vec<u64>> {
        self.words_at(snapshot.l1_offset, snapshot.l1_entries.into())
    }

    fn words_at(&self, offset: u64, count: u64) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count as usize * 8];
        self.file.read(&mut bytes, offset)?;
        Ok(bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight"))).collect())
    }

    /// Counts everything below an L1 table once more, or once less, and has that on the host's disk.
    fn count(&self, l1: &[u64], change: i64) -> io::Result<()> {
        let (size, width) = (self.header.cluster_size(), if self.header.is_extended() { 2 } else { 1 });
        for table in l1.iter().map(|word| word & OFFSET).filter(|table| *table != 0) {
            if !table.is_multiple_of(size) {
                return Err(corrupt("an L2 table is not at a cluster of the file"));
            }
            let words = self.words_at(table, size / 8)?;
            let mut refcounts = self.refcounts();
            for words in words.chunks_exact(width) {
                let entry = Entry { word: words[0], bits: words.get(1).copied().unwrap_or(0) };
                let clusters = match (entry.content(0, &self.header), entry.cluster(&self.header)) {
                    (Content::Packed(at, most), _) => self.cluster_of(at)..self.cluster_of(at + most - 1) + 1,
                    (_, Some((at, _))) => self.cluster_of(at)..self.cluster_of(at) + 1,
                    _ => continue,
                };
                for cluster in clusters {
                    refcounts.add(&self.file, cluster, change)?;
                }
            }
            refcounts.add(&self.file, self.cluster_of(table), change)?;
        }
        self.refcounts().write_out(&self.file)?;
        self.file.sync()
    }

    /// A table in clusters of its own.
    fn write_table(&self, words: &[u64]) -> io::Result<u64> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.write_clusters(&bytes)
    }

    fn write_clusters(&self, bytes: &[u8]) -> io::Result<u64> {
        let size = self.header.cluster_size();
        let clusters = (bytes.len() as u64).div_ceil(size).max(1);
        let mut whole = bytes.to_vec();
        whole.resize((clusters * size) as usize, 0);
        let mut refcounts = self.refcounts();
        let (first, _) = refcounts.allocate(&self.file, clusters, clusters)?;
        self.file.write(&whole, self.start_of(first))?;
        refcounts.write_out(&self.file)?;
        self.file.sync()?;
        Ok(self.start_of(first))
    }

    fn free(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut refcounts = self.refcounts();
        for cluster in self.cluster_of(offset)..self.cluster_of(offset + bytes.max(1) - 1) + 1 {
            refcounts.add(&self.file, cluster, -1)?;
        }
        refcounts.write_out(&self.file)
    }

    /// Another table of snapshots, in another place.
    fn put_list(&self, list: &[Snapshot]) -> io::Result<()> {
        let header = Qcow2::read_header(&self.file).map_err(|error| corrupt(&error.to_string()))?;
        let old: u64 = snapshots(&self.file, &header)?.iter().map(|snapshot| snapshot.bytes).sum();
        let bytes: Vec<u8> = list.iter().flat_map(Snapshot::encode).collect();
        let place = if list.is_empty() { 0 } else { self.write_clusters(&bytes)? };
        let mut fields = [0; 12];
        fields[..4].copy_from_slice(&(list.len() as u32).to_be_bytes());
        fields[4..].copy_from_slice(&place.to_be_bytes());
        self.file.write(&fields, 60)?;
        self.file.sync()?;
        if old > 0 { self.free(header.snapshots_offset, old) } else { Ok(()) }
    }

    /// Has each entry of the active tables say whether its cluster is its alone.
    fn make_marks_right(&self) -> io::Result<()> {
        let (size, width) = (self.header.cluster_size(), if self.header.is_extended() { 2 } else { 1 });
        let mut l1 = self.words_at(self.header.l1_offset, self.header.l1_entries.into())?;
        for word in &mut l1 {
            let table = *word & OFFSET;
            if table == 0 {
                continue;
            }
            let mut words = self.words_at(table, size / 8)?;
            let old = words.clone();
            for word in words.iter_mut().step_by(width) {
                let entry = Entry { word: *word, bits: 0 };
                if !entry.is_packed() && *word & OFFSET != 0 {
                    *word = self.marked(*word)?;
                }
            }
            if words != old {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                self.file.write(&bytes, table)?;
            }
            *word = self.marked(*word)?;
        }
        let bytes: Vec<u8> = l1.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.file.write(&bytes, self.header.l1_offset)?;
        self.file.sync()
    }

    fn marked(&self, word: u64) -> io::Result<u64> {
        let count = self.refcounts().get(&self.file, self.cluster_of(word & OFFSET))?;
        Ok(if count == 1 { word | COPIED } else { word & !COPIED })
    }
}

/// A snapshot by its name, or else its number.
fn find(list: &[Snapshot], which: &str) -> io::Result<usize> {
    let by_name = list.iter().position(|snapshot| snapshot.name == which);
    let found = by_name.or_else(|| list.iter().position(|snapshot| snapshot.id == which));
    found.ok_or_else(|| invalid("there is no such snapshot"))
}
