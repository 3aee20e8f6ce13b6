//! qcow2, versions 2 and 3.
//!
//! # What is in memory
//!
//! The L1 table, pieces of L2 tables (`tables`), and refcount blocks (`refcounts`). `active` is a lock that is never held
//! during I/O: the I/O thread takes it to look a cluster up.
//!
//! # In which order things reach the file
//!
//! A cluster is written before an entry in memory names it. `commit` brings entries to the file:
//!
//! ```text
//! refcounts ─▶ sync (data, refcounts, new empty tables) ─▶ L2 entries, L1 entries ─▶ sync ─▶ what they no longer name is free
//! ```
//!
//! Whenever that ends, each cluster that the file names is counted and has its content; at worst clusters are counted that
//! nothing names (leaks). What is freed is used again only when nobody moves bytes there any more: each mover
//! holds the *generation* that was current when it looked ([`Guard`]).
#![forbid(unsafe_code)]

mod check;
mod commit;
mod create;
mod edit;
mod entry;
pub mod header;
mod internal;
mod map;
mod open;
mod packed;
mod refcounts;
mod snapshots;
mod tables;
mod write;

use crate::image::{Access, Guard, Image, Numbered, Run, within};
use header::Header;
use refcounts::Refcounts;
use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use tables::Tables;

pub use check::{Checked, Repair};
pub use create::{CreateError, CreateOptions, create};
pub use edit::Layer;
pub use header::{Compression, HeaderError};
pub use snapshots::{Snapshot, snapshots};

/// A qcow2 image that is open.
#[derive(Debug)]
pub struct Qcow2 {
    header: Header,
    file: Numbered,
    /// The file with the data, if that is another.
    data: Option<Numbered>,
    backing: Option<Arc<dyn Image>>,
    writable: bool,
    active: Mutex<Active>,
    /// Held while a slice is read and taken in: one that was changed and written meanwhile is not replaced by an older one.
    loading: Mutex<()>,
    /// Of an image that is written.
    refcounts: Mutex<Refcounts>,
    /// Held while a table gets its place.
    placing: Mutex<()>,
    committing: Mutex<()>,
    /// Clusters of the guest that are getting theirs in the file.
    claimed: Mutex<HashSet<u64>>,
    unclaimed: Condvar,
    /// Changes of entries, and how many of them were brought to the file.
    changes: AtomicU64,
    committed: AtomicU64,
    /// A sync failed.
    failed: AtomicBool,
    /// Clusters that were unpacked last, by their places: they are read in small parts.
    unpacked: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
    /// Where the next compressed cluster may go, if that is within a cluster.
    next_packed: Mutex<u64>,
}

/// What is looked up without I/O.
#[derive(Debug)]
struct Active {
    tables: Tables,
    generation: Arc<()>,
    /// What entries in memory no longer name, and the file may still.
    unlinked: Vec<Clusters>,
    /// What the file no longer names, with the generation that may still use it.
    retired: VecDeque<(Arc<()>, Vec<Clusters>)>,
}

/// Clusters of the file: the first, and how many.
#[derive(Clone, Copy, Debug)]
struct Clusters {
    first: u64,
    count: u64,
}

/// A claim to clusters of the guest, given up when it is dropped.
struct Claim<'a> {
    image: &'a Qcow2,
    clusters: std::ops::Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.image.claimed.lock().expect("no panic while held");
        for cluster in self.clusters.clone() {
            claimed.remove(&cluster);
        }
        self.image.unclaimed.notify_all();
    }
}

impl Qcow2 {
    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().expect("no panic while held")
    }

    fn refcounts(&self) -> MutexGuard<'_, Refcounts> {
        self.refcounts.lock().expect("no panic while held")
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where data is.
    fn data(&self) -> &Numbered {
        self.data.as_ref().unwrap_or(&self.file)
    }

    fn cluster_of(&self, offset: u64) -> u64 {
        offset >> self.header.cluster_bits
    }

    fn start_of(&self, cluster: u64) -> u64 {
        cluster << self.header.cluster_bits
    }

    /// Waits until nobody else has one of these clusters, and takes them.
    fn claim(&self, clusters: std::ops::Range<u64>) -> Claim<'_> {
        let mut claimed = self.claimed.lock().expect("no panic while held");
        while clusters.clone().any(|cluster| claimed.contains(&cluster)) {
            claimed = self.unclaimed.wait(claimed).expect("no panic while held");
        }
        claimed.extend(clusters.clone());
        Claim { image: self, clusters }
    }

    fn check_writable(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.writable {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check_sound()?;
        within(self.header.size, offset, len)
    }

    fn check_sound(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("a sync failed before: what was written may be lost"));
        }
        Ok(())
    }

    fn guard(&self, active: &Active) -> Guard {
        Guard(self.writable.then(|| active.generation.clone()))
    }
}

impl Image for Qcow2 {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn find(&self, offset: u64, len: u64, access: Access) -> Run {
        self.find_run(offset, len, access)
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Run> {
        within(self.header.size, offset, len)?;
        self.map_run(offset, len)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        within(self.header.size, offset, bytes.len() as u64)?;
        self.read_runs(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable(offset, bytes.len() as u64)?;
        self.write_runs(bytes, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable(offset, len)?;
        self.clear(offset, len, true)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable(offset, len)?;
        self.clear(offset, len, false)
    }

    fn flush(&self) -> io::Result<()> {
        if self.writable { self.commit() } else { Ok(()) }
    }

    fn is_clean(&self) -> bool {
        self.data.is_none() && self.changes.load(Ordering::SeqCst) == self.committed.load(Ordering::SeqCst)
    }

    fn close(&self) -> io::Result<()> {
        if self.writable { self.finish() } else { Ok(()) }
    }
}
