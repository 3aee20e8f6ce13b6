//! ⚠ Questions that only a system call answers.
#![allow(unsafe_code, reason = "questions that only a system call answers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The version of Landlock's interface.
pub(super) fn landlock() -> io::Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory, and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Whether the kernel has `PAGEMAP_SCAN` (since 6.7).
pub(super) fn pagemap_scan() -> bool {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    let Ok(pagemap) = File::open("/proc/self/pagemap") else { return false };
    // SAFETY: a kernel that knows the call reads its argument first, which a null pointer is none.
    unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, std::ptr::null_mut::<u8>()) };
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Whether this process has CAP_NET_ADMIN.
pub(super) fn has_net_admin() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & 1 << CAP_NET_ADMIN != 0)
}

/// Whether the time-stamp counter is invariant (Intel SDM volume 3, section 19.17.1).
pub(super) fn invariant_tsc() -> bool {
    use std::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}
