//! ⚠ The guest's clock: a linear function of the time-stamp counter.
#![allow(unsafe_code, reason = "`rdtsc`")]

use hv_abi::shared_info::Clock;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time-stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and nothing on Linux
    // forbids it to this process (PR_SET_TSC is off by default).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Frequency of the TSC in kHz: from CPUID where the processor or the
/// hypervisor below says it, else measured once against the monotonic clock.
pub fn tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| from_cpuid().unwrap_or_else(measure))
}

fn from_cpuid() -> Option<u32> {
    use std::arch::x86_64::__cpuid;
    // Leaf 0x15: TSC = crystal * ebx / eax (Intel SDM volume 2, CPUID).
    if __cpuid(0).eax >= 0x15 {
        let leaf = __cpuid(0x15);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
            return u32::try_from(hz / 1000).ok();
        }
    }
    // Leaf 0x40000010: the convention of VMware, which KVM and Xen follow.
    let hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    if hypervisor && (0x4000_0010..0x4001_0000).contains(&__cpuid(0x4000_0000).eax) {
        let khz = __cpuid(0x4000_0010).eax;
        return (khz != 0).then_some(khz);
    }
    None
}

/// Ten milliseconds give an accuracy of about 10 ppm, which is better than that of the oscillator. Sleeping
/// would be a system call, which no thread of a jailed hv may make.
fn measure() -> u32 {
    let (start, first) = (Instant::now(), tsc());
    while start.elapsed() < Duration::from_millis(10) {
        std::hint::spin_loop();
    }
    let (last, elapsed) = (tsc(), start.elapsed());
    let khz = u128::from(last - first) * 1_000_000 / elapsed.as_nanos().max(1);
    khz as u32
}

/// Nanoseconds since 1970-01-01 UTC on this host.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// The clock of a guest that runs from now on and whose time is `ns` then
/// (nanoseconds since its start), for a TSC of this frequency.
pub fn resume(khz: u32, ns: u64) -> Clock {
    const SHIFT: u32 = 32;
    let multiplier = ((1_000_000u128 << SHIFT) / u128::from(khz.max(1))) as u64;
    Clock {
        version: 0,
        shift: SHIFT,
        multiplier,
        tsc_base: tsc(),
        ns_base: ns,
        wall_base: wall_clock().wrapping_sub(ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_clock_keeps_pace_with_the_hosts() {
        let clock = resume(tsc_khz(), 0);
        let host = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        let (guest, host) = (clock.time_at(tsc()), host.elapsed().as_nanos() as u64);
        assert!(guest.abs_diff(host) < host / 100, "guest {guest} ns, host {host} ns");
    }
}
