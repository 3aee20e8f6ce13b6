//! The saved state of a guest besides its memory, each part in its own form.

use super::life::State;
use super::vcpu::VcpuHandle;
use super::{Domain, Guest, Snapshot};
use crate::loader::Image;
use crate::memory::{Template, TemplateError};
use crate::platform::{CpuState, HypercallPage, PlatformError};
use crate::reactor::SourceId;
use hv_abi::device::DeviceInfo;
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_host::clock;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the things in a guest's memory are that the host needs again: offsets from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offsets {
    /// Address 0 of the image.
    pub image: u64,
    /// The lowest byte of the stack.
    pub stack: u64,
    /// The device table.
    pub devices: u64,
    /// Its entries.
    pub device_count: u64,
    /// The hypercall page.
    pub hypercall_page: u64,
    /// The shared-info page.
    pub shared_info: u64,
    /// The handler of upcalls when the guest was saved; 0 if it had none.
    pub upcall: u64,
    /// The free map of the heap; 0 in guests before ABI 1.5, which have none.
    pub free_map: u64,
    /// The heap, which ends with the memory; 0 in guests before ABI 1.5.
    pub heap: u64,
}

/// Bytes of this structure in snapshots of guests before ABI 1.2, which have no upcalls, and before ABI 1.5, which
/// have no free map.
const OLDER: [usize; 2] = [offset_of!(Offsets, upcall), offset_of!(Offsets, free_map)];

impl Offsets {
    /// Reads the saved form of this or an older version.
    pub(crate) fn load(bytes: &[u8]) -> Option<Self> {
        if !OLDER.contains(&bytes.len()) {
            return Self::read_from_bytes(bytes).ok();
        }
        let mut whole = [0; size_of::<Offsets>()];
        whole[..bytes.len()].copy_from_slice(bytes);
        Some(zerocopy::transmute!(whole))
    }

    /// Bytes of the stack: it ends where the page of start-info and the device table begins.
    pub(super) fn stack_size(&self) -> u64 {
        (self.devices / PAGE_SIZE * PAGE_SIZE).saturating_sub(self.stack)
    }

    /// The hypercall pages of a guest with so many virtual CPUs.
    pub(crate) fn hypercall_pages(&self, vcpus: usize) -> Vec<HypercallPage> {
        HypercallPage::all(self.hypercall_page, vcpus).collect()
    }

    /// Address of the handler in memory with this base.
    pub(super) fn handler(&self, base: GuestAddr) -> Option<GuestAddr> {
        (self.upcall != 0).then(|| GuestAddr(base.0 + self.upcall))
    }
}

/// A paused guest without its memory.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// Guest address of the first byte of its memory.
    pub base: u64,
    /// Its virtual CPUs: at least one.
    pub cpus: Vec<CpuState>,
    /// Its clock, in nanoseconds since its start.
    pub time: u64,
    /// Where things are in its memory.
    pub places: Offsets,
    /// Its device table.
    pub devices: Vec<DeviceInfo>,
}

impl Saved {
    /// How many devices of a kind it has.
    pub fn count(&self, kind: u32) -> usize {
        self.devices.iter().filter(|device| device.kind == kind).count()
    }

    /// The pages (ranges of offsets) that the host writes whenever a guest resumes, and that the guest writes soon after:
    /// results of hypercalls, shared-info, and the beginnings of the rings.
    pub(crate) fn pages_of_the_host(&self) -> Vec<Range<u64>> {
        let base = self.base;
        let rings = self.devices.iter().flat_map(|device| &device.rings);
        let rings = rings.filter(|ring| ring.address != GuestAddr(0)).map(|ring| ring.address.0 - base);
        let mut pages: Vec<_> = [self.places.hypercall_page - 1, self.places.shared_info]
            .into_iter()
            .chain(rings)
            .map(|offset| offset / PAGE_SIZE * PAGE_SIZE)
            .collect();
        pages.sort_unstable();
        pages.dedup();
        pages.into_iter().map(|page| page..page + PAGE_SIZE).collect()
    }
}

/// How long the devices of a guest that is being saved may take to finish the requests that they have accepted.
const SETTLING: Duration = Duration::from_secs(10);

/// Why a guest could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// It runs, or has ended.
    #[error("the guest is not paused: pause it first")]
    NotPaused,
    /// Its devices do not finish the requests that they have accepted.
    #[error("the guest's devices have not finished its requests within {0:?}: a disk does not answer")]
    Busy(Duration),
    /// The host has no memory for the copy of its memory.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The platform failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl Guest {
    pub(super) fn sources(&self) -> Vec<SourceId> {
        self.domain.sources.lock().expect("no panic while held").clone()
    }

    /// Saves a guest that is [paused](Self::wait_paused): its devices finish the requests that they have accepted, and
    /// its complete state goes into the snapshot. The guest stays paused.
    ///
    /// # Errors
    ///
    /// [`CaptureError::NotPaused`] if it runs or has ended, [`CaptureError::Busy`] if a device does not finish in time.
    /// It also fails if the host has no memory for the copy, or the platform cannot save a virtual CPU at its current position.
    pub fn capture(&self) -> Result<Snapshot, CaptureError> {
        let captured = self.capture_and_end();
        for source in self.sources() {
            self.engine.inner.reactor.resume(source);
        }
        captured
    }

    /// [`capture`](Self::capture) of a guest that will not resume here: its devices are paused from then on. Requests
    /// that the devices had not seen yet are carried out where the guest is restored, and not here as well.
    ///
    /// # Errors
    ///
    /// As those of [`capture`](Self::capture).
    pub fn capture_and_end(&self) -> Result<Snapshot, CaptureError> {
        if !self.engine.inner.reactor.pause(&self.sources(), SETTLING) {
            return Err(CaptureError::Busy(SETTLING));
        }
        let (saved, template, image) = self.domain.capture(&*self.engine.inner.platform)?;
        Ok(Snapshot::new(saved, template, image))
    }
}

impl Domain {
    fn capture(
        &self,
        platform: &dyn crate::platform::Platform,
    ) -> Result<(Saved, Arc<Template>, Arc<Image>), CaptureError> {
        let mut cpus: Vec<_> = self.vcpus.iter().map(VcpuHandle::cpu).collect();
        if self.life.state() != State::Paused {
            return Err(CaptureError::NotPaused);
        }
        self.drain.finish();
        let states = cpus.iter_mut().map(|cpu| {
            if let Some(state) = self.state_before_start(cpu.number) {
                return Ok(state);
            }
            if cpu.blocked.is_some() {
                // After a restore, it returns from its wait at once and checks again.
                cpu.vcpu.set_result(0);
            }
            cpu.vcpu.save()
        });
        let states = states.collect::<Result<Vec<_>, _>>()?;
        let clock = *self.clock.lock().expect("no panic while held");
        let upcall = self.hub.handler().map_or(0, |handler| handler.0 - self.memory.base().0);
        let saved = Saved {
            name: self.name.clone(),
            base: self.memory.base().0,
            cpus: states,
            time: clock.time_at(clock::tsc()),
            places: Offsets { upcall, ..self.places },
            devices: self.table.clone(),
        };
        let mut made = Template::make(self.memory.base(), self.memory.size())?;
        for (range, access) in self.memory.map() {
            made.allow(range.clone(), *access);
        }
        let free = self.places.free_map(&self.memory).map(|map| map.free_pages(&self.memory));
        let copied: Result<(), std::convert::Infallible> = self.memory.for_each_piece(|offset, bytes| {
            for (page, bytes) in (offset..).step_by(PAGE_SIZE as usize).zip(bytes.chunks(PAGE_SIZE as usize))
            {
                if !free.as_ref().is_some_and(|free| free.contains(page)) {
                    made.host_write_pages(page, bytes);
                }
            }
            Ok(())
        });
        let Ok(()) = copied;
        // The host's own, whatever the guest has written there.
        self.targets().write(&made, &self.places);
        platform.prepare(&made, &self.places.hypercall_pages(self.vcpus.len()))?;
        Ok((saved, Arc::new(Template::seal(made)?), self.image.clone()))
    }
}

#[cfg(test)]
mod tests;
