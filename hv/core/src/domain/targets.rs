//! Targets: how much of what it has a guest should use. The host can change them while the guest runs.
//!
//! A target is a request: the guest reads it in its shared-info page, and nothing happens to a guest that does not follow it. The
//! guest can overwrite the page. So the host keeps its own copy, and reads the page only in memory that a guest has not
//! run in: that of a new guest, and that of a snapshot, where the host has written its own copy when it saved the guest.

use super::{Controller, Domain, Offsets};
use crate::memory::GuestMemory;
use hv_abi::event;
use hv_abi::shared_info::SharedInfo;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

/// How much a guest should use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Its virtual CPUs with a smaller number than this: at least 1, at most all.
    pub vcpus: usize,
    /// Bytes of memory, at most its own. `None`: as many as it has.
    pub memory: Option<u64>,
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No virtual CPU, or more than the guest has.
    #[error("{asked} virtual CPUs are not possible: the guest has {most}, use 1 to {most}")]
    Vcpus {
        /// What was asked for.
        asked: usize,
        /// How many the guest has.
        most: usize,
    },
    /// No memory, or more than the guest has.
    #[error("a target of {asked} bytes of memory is not possible: the guest has {most}, use 1 to {most}")]
    Memory {
        /// What was asked for, in bytes.
        asked: u64,
        /// How much the guest has, in bytes.
        most: u64,
    },
    /// The guest has ended, or is about to.
    #[error("the guest has ended")]
    Ended,
}

impl TargetError {
    pub(super) fn check_vcpus(asked: usize, most: usize) -> Result<(), TargetError> {
        if (1..=most).contains(&asked) { Ok(()) } else { Err(TargetError::Vcpus { asked, most }) }
    }

    fn check_memory(asked: Option<u64>, most: u64) -> Result<(), TargetError> {
        match asked {
            Some(asked) if !(1..=most).contains(&asked) => Err(TargetError::Memory { asked, most }),
            _ => Ok(()),
        }
    }
}

fn vcpus_at(places: &Offsets) -> u64 {
    places.shared_info + offset_of!(SharedInfo, vcpus_target) as u64
}

fn memory_at(places: &Offsets) -> u64 {
    places.shared_info + offset_of!(SharedInfo, memory_target) as u64
}

impl Targets {
    /// The targets in the shared-info page. A value that is none counts as *all*, as do the zeros of hosts before ABI 1.5.
    pub(super) fn standing(memory: &GuestMemory, places: &Offsets, vcpus: usize) -> Targets {
        let target = memory.atomic_u32(vcpus_at(places)).load(Ordering::SeqCst) as usize;
        let bytes = memory.atomic_u64(memory_at(places)).load(Ordering::SeqCst);
        let found = Targets {
            vcpus: if (1..=vcpus).contains(&target) { target } else { vcpus },
            memory: Some(bytes).filter(|bytes| (1..=memory.size()).contains(bytes)),
        };
        found.write(memory, places);
        found
    }

    /// Writes them to the shared-info page.
    pub(super) fn write(self, memory: &GuestMemory, places: &Offsets) {
        memory.atomic_u32(vcpus_at(places)).store(self.vcpus as u32, Ordering::SeqCst);
        memory.atomic_u64(memory_at(places)).store(self.memory.unwrap_or(0), Ordering::SeqCst);
    }
}

impl Domain {
    pub(super) fn targets(&self) -> Targets {
        *self.targets.lock().expect("no panic while held")
    }

    /// The memory was reset to the snapshot: so are the targets.
    pub(super) fn take_standing_targets(&self) {
        let mut targets = self.targets.lock().expect("no panic while held");
        *targets = Targets::standing(&self.memory, &self.places, self.vcpus.len());
        if self.squeeze.load(Ordering::SeqCst) != 0 {
            self.tell_targets(*targets);
        }
    }

    /// The budget wants the guest to use at most so many bytes of memory, besides what its owner wants; or no longer.
    pub(super) fn squeeze_memory(&self, target: Option<u64>) {
        let targets = self.targets.lock().expect("no panic while held");
        if self.squeeze.swap(target.unwrap_or(0), Ordering::SeqCst) != target.unwrap_or(0) {
            self.tell_targets(*targets);
        }
    }

    /// Writes the targets where the guest reads them, the lower one of memory, and tells the guest.
    fn tell_targets(&self, targets: Targets) {
        let squeeze = Some(self.squeeze.load(Ordering::SeqCst)).filter(|bytes| *bytes != 0);
        let memory = squeeze.into_iter().chain(targets.memory).min();
        Targets { memory, ..targets }.write(&self.memory, &self.places);
        self.hub.raise(event::TARGETS);
    }

    /// Changes the targets, and tells the guest if any is another one now.
    fn change_targets(&self, change: impl FnOnce(&mut Targets)) -> Result<Targets, TargetError> {
        let mut targets = self.targets.lock().expect("no panic while held");
        let mut new = *targets;
        change(&mut new);
        TargetError::check_vcpus(new.vcpus, self.vcpus.len())?;
        TargetError::check_memory(new.memory, self.memory.size())?;
        if std::mem::replace(&mut *targets, new) != new {
            self.tell_targets(new);
        }
        Ok(new)
    }
}

impl Controller {
    /// Changes the targets of the guest, all of them or none, and returns what they are then. The guest gets an event if
    /// that is something else than before.
    ///
    /// # Errors
    ///
    /// [`TargetError::Vcpus`] or [`TargetError::Memory`] if a target is more than the guest has, or nothing, and
    /// [`TargetError::Ended`] if there is no guest any more.
    pub fn change_targets(&self, change: impl FnOnce(&mut Targets)) -> Result<Targets, TargetError> {
        self.domain.upgrade().ok_or(TargetError::Ended)?.change_targets(change)
    }

    /// Asks the guest to use its virtual CPUs with a smaller number than this, and no others.
    ///
    /// # Errors
    ///
    /// [`TargetError::Vcpus`] if that is 0 or more than it has, [`TargetError::Ended`] if there is no guest any more.
    pub fn set_vcpus_target(&self, vcpus: usize) -> Result<(), TargetError> {
        self.change_targets(|targets| targets.vcpus = vcpus).map(drop)
    }

    /// Asks the guest to use at most so many bytes of its memory, or all.
    ///
    /// # Errors
    ///
    /// [`TargetError::Memory`] if that is 0 or more than it has, [`TargetError::Ended`] if there is no guest any more.
    pub fn set_memory_target(&self, memory: Option<u64>) -> Result<(), TargetError> {
        self.change_targets(|targets| targets.memory = memory).map(drop)
    }
}

#[cfg(test)]
mod tests;
