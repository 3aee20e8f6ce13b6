//! ⚠ The shared-info page: the fields that the host and this guest read and write while the guest runs.
//!
//! Their meaning is in `docs/abi.md`. The modules above build events, clocks and generations on them.
#![allow(unsafe_code, reason = "the page of shared-info, which the host writes as well")]

use crate::per_cpu;
use crate::start_info::start_info;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use hv_abi::shared_info::{Clock, EVENT_WORDS, SharedInfo};
use hv_abi::vcpu::VcpuInfo;

fn address(offset: usize) -> usize {
    start_info().shared_info.0 as usize + offset
}

/// The address of a field that each virtual CPU has: in the page for the first one, in a structure of their own for the others.
fn own(first: usize, other: usize) -> usize {
    match per_cpu::current() {
        0 => address(first),
        cpu => start_info().vcpu_info.0 as usize + (cpu - 1) * size_of::<VcpuInfo>() + other,
    }
}

/// `N` words of 8 bytes of the page.
fn words<const N: usize>(offset: usize) -> &'static [AtomicU64; N] {
    assert!(offset.is_multiple_of(8) && offset + 8 * N <= size_of::<SharedInfo>());
    // SAFETY: the host mapped the page for good; the words are in it and
    // aligned (just checked), and both sides access them atomically only.
    unsafe { &*(address(offset) as *const [AtomicU64; N]) }
}

/// Pending events of the guest, one bit each.
pub(crate) fn pending() -> &'static [AtomicU64; EVENT_WORDS] {
    words(offset_of!(SharedInfo, pending))
}

/// Events that this virtual CPU does not listen to, one bit each.
pub(crate) fn mask() -> &'static [AtomicU64; EVENT_WORDS] {
    let address = own(offset_of!(SharedInfo, mask), offset_of!(VcpuInfo, mask));
    // SAFETY: the host mapped both pages for good; the words are in one of them and aligned (`layout!` in the ABI), and both sides
    // access them atomically only.
    unsafe { &*(address as *const [AtomicU64; EVENT_WORDS]) }
}

/// Whether upcalls of this virtual CPU are masked.
pub(crate) fn upcall_mask() -> &'static AtomicU32 {
    let address = own(offset_of!(SharedInfo, upcall_mask), offset_of!(VcpuInfo, upcall_mask));
    // SAFETY: as above.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }
}

/// 1 while the host looks into the free map by itself.
pub(crate) fn free_map_watched() -> &'static AtomicU32 {
    // SAFETY: as above; the field is aligned (`layout!` in the ABI).
    unsafe { AtomicU32::from_ptr(address(offset_of!(SharedInfo, free_map_watched)) as *mut u32) }
}

/// How many virtual CPUs the host wants this guest to use; 0 from a host that does not say it.
pub(crate) fn vcpus_target() -> &'static AtomicU32 {
    // SAFETY: the host mapped the page for good; the word is in it and aligned (`layout!` in the ABI), and both sides access it atomically only.
    unsafe { AtomicU32::from_ptr(address(offset_of!(SharedInfo, vcpus_target)) as *mut u32) }
}

/// How many bytes of memory the host wants this guest to use at most; 0 if it does not care.
pub(crate) fn memory_target() -> &'static AtomicU64 {
    &words::<1>(offset_of!(SharedInfo, memory_target))[0]
}

/// The number of a restored or cloned guest. The host writes it while the guest is paused.
pub(crate) fn generation() -> &'static [AtomicU64; 2] {
    words(offset_of!(SharedInfo, generation))
}

/// The random bytes that come with [`generation`].
pub(crate) fn seed() -> &'static [AtomicU64; 4] {
    words(offset_of!(SharedInfo, seed))
}

/// The clock's parameters, read without tearing, and what the counter read meanwhile.
///
/// The host may change the parameters at any time. A reading of the counter that came after such a change does not go with the old ones: the time
/// would jump back.
pub(crate) fn clock(counter: impl Fn() -> u64) -> (Clock, u64) {
    let address = address(offset_of!(SharedInfo, clock));
    let clock = address as *const Clock;
    loop {
        // SAFETY: the page is mapped for good; `version` is the clock's first
        // word, is aligned, and is only accessed atomically.
        let version = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        let before = version.load(Ordering::Acquire);
        // SAFETY: mapped and aligned; a torn copy is discarded below.
        let copy = unsafe { clock.read_volatile() };
        let now = counter();
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
            return (copy, now);
        }
        core::hint::spin_loop();
    }
}
