//! ⚠ Start-info: the parameters that the host gives to this guest at its start.
#![allow(unsafe_code, reason = "the page of start-info, which the host has written")]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use hv_abi::start_info::StartInfo;

static START_INFO: AtomicPtr<StartInfo> = AtomicPtr::new(null_mut());

/// Stores the address of start-info.
///
/// # Safety
///
/// The address is the one that the host passed to the entry point, and [`start_info`] has not been called before.
pub(crate) unsafe fn set(info: *mut StartInfo) {
    START_INFO.store(info, Ordering::Relaxed);
}

/// The parameters that the host gave to this guest at its start. `docs/abi.md` describes them.
///
/// Addresses in it are the guest's own. Using them takes `unsafe` code that knows the ABI. For devices, arguments, memory
/// and time the SDK has safe functions.
pub fn start_info() -> &'static StartInfo {
    // SAFETY: the entry point called `set` before anything else. The page is
    // read-only and never written again, so a shared reference is valid for good.
    unsafe { &*START_INFO.load(Ordering::Relaxed) }
}

/// Bytes of memory that the guest can allocate, in total.
pub fn heap_size() -> usize {
    start_info().heap_size as usize
}
