//! Validates what a snapshot file says about a guest, before anything relies on it.

use super::Saved;
use crate::device;
use crate::event::vcpu_info;
use crate::loader::Image;
use crate::memory::{Access, GuestMemory};
use crate::platform::{CpuState, HypercallPage, reserved};
use hv_abi::device::{CONSOLE, RingInfo};
use hv_abi::ring::ALIGNMENT;
use hv_abi::shared_info::SharedInfo;
use hv_abi::{GuestAddr, PAGE_SIZE, event, free_map};
use std::collections::HashSet;

/// Longest name of a guest from a file.
const NAME_MAX: usize = 255;

impl Saved {
    /// Whether this can be a guest of this image in this memory, whose base, size and access map are already validated.
    /// The error says what is invalid.
    ///
    /// Validates everything that the host will read or write without another check. Memory and registers may hold
    /// anything, as they could in a guest that runs, and are not validated.
    pub(crate) fn validate(&self, memory: &GuestMemory, image: &Image) -> Result<(), &'static str> {
        let places = &self.places;
        let inside = |offset: u64, len: u64, access| {
            // This is far from an overflow: bases are below 2^47.
            offset <= memory.size() && memory.check(GuestAddr(memory.base().0 + offset), len, access).is_ok()
        };
        let write = Access::READ | Access::WRITE;
        let all = |conditions: &[(bool, &'static str)]| {
            conditions.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(*what))
        };
        let table = (self.devices.len() * size_of::<hv_abi::device::DeviceInfo>()) as u64;
        // A file that claims a million virtual CPUs has no memory for their pages.
        let calls = self.cpus.len() as u64 * PAGE_SIZE;
        let results = self.cpus.len() as u64 * HypercallPage::RESULT_SIZE;
        let shared = match self.cpus.len() {
            0 | 1 => size_of::<SharedInfo>() as u64,
            vcpus => vcpu_info(0, vcpus).end,
        };
        all(&[
            (self.base == memory.base().0, "the base"),
            (
                memory.map().first().is_some_and(|(range, _)| range.start >= reserved(self.cpus.len())),
                "the access map",
            ),
            (self.time <= i64::MAX as u64, "the clock"),
            (self.name.len() <= NAME_MAX && !self.name.contains(char::is_control), "the name"),
            (!self.cpus.is_empty(), "the virtual CPUs"),
            (
                self.cpus.iter().all(|cpu| {
                    cpu.is_stopped() || memory.check(GuestAddr(cpu.rip), 1, Access::EXECUTE).is_ok()
                }),
                "the instruction pointer",
            ),
            (!self.cpus.iter().all(CpuState::is_stopped), "the virtual CPUs"),
            (self.cpus.iter().all(|cpu| *cpu == cpu.clone().validated()), "the registers"),
            (
                places.image.is_multiple_of(PAGE_SIZE)
                    && places.image.checked_add(image.size()).is_some_and(|end| end <= memory.size()),
                "the place of the image",
            ),
            (inside(places.stack, 1, write), "the place of the stack"),
            (
                places.hypercall_page.is_multiple_of(PAGE_SIZE)
                    && inside(places.hypercall_page, calls, Access::READ | Access::EXECUTE)
                    && inside(places.hypercall_page.wrapping_sub(results), results, Access::READ),
                "the place of the hypercall page",
            ),
            (
                places.shared_info.is_multiple_of(PAGE_SIZE) && inside(places.shared_info, shared, write),
                "the place of shared-info",
            ),
            (
                places.free_map == 0
                    || places.free_map.is_multiple_of(8)
                        && places.heap.is_multiple_of(PAGE_SIZE)
                        && places.heap < memory.size()
                        && inside(places.heap, memory.size() - places.heap, write)
                        && inside(
                            places.free_map,
                            free_map::size((memory.size() - places.heap) / PAGE_SIZE),
                            write,
                        ),
                "the place of the free map",
            ),
            (places.upcall == 0 || inside(places.upcall, 1, Access::EXECUTE), "the handler of upcalls"),
            (
                places.device_count == self.devices.len() as u64
                    && places.devices.is_multiple_of(8)
                    && inside(places.devices, table, Access::READ),
                "the place of the device table",
            ),
        ])?;
        self.check_devices(&|info: &RingInfo, len: usize| {
            info.address.0.is_multiple_of(ALIGNMENT as u64)
                && memory.check(info.address, len as u64, write).is_ok()
        })
    }

    /// `inside` says whether a ring of so many bytes may be where it is.
    fn check_devices(&self, inside: &dyn Fn(&RingInfo, usize) -> bool) -> Result<(), &'static str> {
        let mut events = HashSet::new();
        for (n, device) in self.devices.iter().enumerate() {
            let before = self.devices[..n].iter().filter(|other| other.kind == device.kind).count();
            // The console is the first device, and the only console.
            if (device.kind == CONSOLE) != (n == 0) || device.index as usize != before {
                return Err("the device table");
            }
            let rings = device::kind(device.kind).ok_or("the kind of a device")?.rings;
            for (n, saved) in device.rings.iter().enumerate() {
                let Some(ring) = rings.get(n) else {
                    if *saved != RingInfo::default() {
                        return Err("the rings of a device");
                    }
                    continue;
                };
                if (saved.requests, saved.responses) != (ring.requests, ring.responses) {
                    return Err("the size of a ring");
                }
                let port = saved.event.0;
                if !(event::FIRST_DEVICE.0..event::TARGETS.0).contains(&port) || !events.insert(port) {
                    return Err("the event of a ring");
                }
                if saved.reserved != 0 || !inside(saved, ring.layout.size()) {
                    return Err("the place of a ring");
                }
            }
        }
        if self.devices.is_empty() { Err("the device table") } else { Ok(()) }
    }
}
