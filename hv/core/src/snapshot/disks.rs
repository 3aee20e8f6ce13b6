//! The disks of a restored guest: named by the user, and compared with what was recorded.
#![forbid(unsafe_code)]

use super::Snapshot;
use crate::device::block::{Disk, DiskRecord, RecordError};
use hv_abi::device::{BLOCK, NET};

/// Why a guest cannot go on with these disks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DisksError {
    /// More or fewer than it had.
    #[error("the guest was saved with {}, and gets {}", list(*.saved, .records), number(*.given))]
    Count {
        /// How many it had.
        saved: usize,
        /// What is recorded of the first ones: enough to know which are meant.
        records: Vec<String>,
        /// How many it would get.
        given: usize,
    },
    /// Nothing to compare with.
    #[error("the snapshot does not say which disks fit; make it again with `hv snapshot`")]
    NoRecord,
    /// Another disk than it had.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn number(count: usize) -> String {
    match count {
        0 => "none".into(),
        count => count.to_string(),
    }
}

/// Disks that are named in a message.
const NAMED: usize = 4;

fn list(count: usize, records: &[String]) -> String {
    let records = records.join("; ");
    match count {
        0 => "no disks".into(),
        1 => format!("a disk ({records})"),
        _ if count > NAMED => format!("{count} disks ({records}; …)"),
        _ => format!("{count} disks ({records})"),
    }
}

impl Snapshot {
    /// What was recorded of the guest's disks, in their order.
    pub fn disks(&self) -> &[DiskRecord] {
        &self.disks
    }

    /// Records the guest's disks, all of them and in their order: what
    /// [`check_disks`](Self::check_disks) compares with.
    pub fn set_disks(&mut self, disks: Vec<DiskRecord>) {
        self.disks = disks;
    }

    /// How many disks the guest has.
    pub fn disk_count(&self) -> usize {
        self.saved.count(BLOCK)
    }

    /// How many networks the guest has.
    pub fn network_count(&self) -> usize {
        self.saved.count(NET)
    }

    /// Whether a guest that gets so many disks gets as many as it had.
    ///
    /// # Errors
    ///
    /// [`DisksError::Count`] if not.
    pub fn check_disk_count(&self, given: usize) -> Result<(), DisksError> {
        let saved = self.disk_count();
        if given != saved {
            let records = self.disks.iter().take(NAMED).map(DiskRecord::to_string).collect();
            return Err(DisksError::Count { saved, records, given });
        }
        Ok(())
    }

    /// Whether these are the guest's disks, all of them, in their order, and as they were.
    ///
    /// # Errors
    ///
    /// Which is not, and why; [`DisksError::NoRecord`] if the snapshot does not say.
    pub fn check_disks(&self, disks: &[Disk]) -> Result<(), DisksError> {
        self.check_disk_count(disks.len())?;
        if self.disks.len() != disks.len() {
            return Err(DisksError::NoRecord);
        }
        self.disks.iter().zip(disks).try_for_each(|(record, disk)| Ok(record.check(disk)?))
    }
}
