//! ⚠ Memory that comes on demand: the first touch of a page that the memory's file does not have raises SIGBUS.
//!
//! That is a mode of userfaultfd(2) (`UFFD_FEATURE_SIGBUS`) in which nobody reads from the descriptor: it is there so that
//! the kernel keeps the mode. The guest can do nothing with it; it has no `write`, the one call for which the filter
//! would let it through.
#![allow(unsafe_code, reason = "its userfaultfd")]

use crate::sys;
use hv_stub::mapping;

/// Only faults of the guest's own code: that needs no rights (Linux 5.11).
const UFFD_USER_MODE_ONLY: u64 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
const MODE_MISSING: u64 = 1;
const EINVAL: i64 = -22;

/// Registers those of a request's mappings that have the flag. Returns an error, which is negative, or 0.
pub(crate) fn register(mappings: &[u64]) -> i64 {
    let mut wanted =
        mappings.as_chunks::<4>().0.iter().filter(|[_, _, _, flags]| flags & mapping::ON_DEMAND != 0);
    let Some(first) = wanted.next() else { return 0 };
    let descriptor = match open() {
        error @ ..0 => return error,
        descriptor => descriptor as u64,
    };
    for [address, len, ..] in core::iter::once(first).chain(wanted) {
        // `struct uffdio_register`: start, length, mode, and what is possible there.
        let mut range = [*address, *len, MODE_MISSING, 0];
        // SAFETY: the structure lives until the call returns.
        let result = unsafe { sys::ioctl(descriptor, UFFDIO_REGISTER, range.as_mut_ptr() as u64) };
        if result < 0 {
            return result;
        }
    }
    0
}

/// A userfaultfd in this mode, or an error.
fn open() -> i64 {
    // SAFETY: no memory is passed.
    let mut descriptor = unsafe { sys::userfaultfd(UFFD_USER_MODE_ONLY) };
    if descriptor == EINVAL {
        // SAFETY: likewise.
        descriptor = unsafe { sys::userfaultfd(0) };
    }
    if descriptor < 0 {
        return descriptor;
    }
    // `struct uffdio_api`: version, features, and what is possible.
    let mut api = [UFFD_API, UFFD_FEATURE_SIGBUS, 0];
    // SAFETY: the structure lives until the call returns.
    match unsafe { sys::ioctl(descriptor as u64, UFFDIO_API, api.as_mut_ptr() as u64) } {
        error @ ..0 => error,
        _ => descriptor,
    }
}
