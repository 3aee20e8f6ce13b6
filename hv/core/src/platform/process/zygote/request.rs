//! The words of a request for a process: see [`MESSAGE_WORDS`].
#![forbid(unsafe_code)]

use crate::memory::{Access, GuestMemory};
use crate::platform::PlatformError;
use crate::platform::process::filter;
use hv_stub::{MAX_XSAVE, MESSAGE_WORDS};

/// The words of a request for a process with this memory. The nonce is filled in later.
pub(super) fn words(memory: &GuestMemory, page: u64) -> Result<Vec<u64>, PlatformError> {
    let filter = filter::program();
    let mut words = vec![0, page, xsave_size(), memory.map().len() as u64, filter.len() as u64];
    for (range, access) in memory.map() {
        let mut protection = libc::PROT_READ;
        if access.contains(Access::WRITE) {
            protection |= libc::PROT_WRITE;
        }
        if access.contains(Access::EXECUTE) {
            protection |= libc::PROT_EXEC;
        }
        let address = memory.base().0 + range.start;
        words.extend([address, range.end - range.start, range.start, protection as u64]);
    }
    // `struct sock_filter`: code, jump if true, jump if false, operand.
    words.extend(filter.iter().map(|instruction| {
        u64::from(instruction.code)
            | u64::from(instruction.jt) << 16
            | u64::from(instruction.jf) << 24
            | u64::from(instruction.k) << 32
    }));
    if words.len() > MESSAGE_WORDS {
        return Err(PlatformError::TooManyRanges(memory.map().len()));
    }
    Ok(words)
}

/// Bytes of the XSAVE area with everything that the kernel has enabled (Intel SDM volume 1, section 13.2). 0 if there is none.
fn xsave_size() -> u64 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    let size = u64::from(__cpuid_count(0xd, 0).ebx);
    if size <= MAX_XSAVE as u64 { size } else { 0 }
}
