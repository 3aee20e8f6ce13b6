//! ⚠ The guest's clock: a linear function of the time-stamp counter.
#![allow(unsafe_code, reason = "`rdtsc`")]

use hv_abi::shared_info::Clock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time-stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and nothing on Linux
    // forbids it to this process (PR_SET_TSC is off by default).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Shortest time between two readings of both clocks from which the frequency is taken: some 30 ppm of error.
const LEAST: Duration = Duration::from_micros(400);

/// From so far apart it is taken for good: about 3 ppm, which is better than the oscillator is.
const ENOUGH: Duration = Duration::from_millis(10);

/// The counter and the monotonic clock at the same moment.
#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    time: Instant,
}

impl Reading {
    /// The closest pair of eight: a thread may lose its processor between two readings.
    fn now() -> Reading {
        let pair = |_| {
            let (before, time) = (tsc(), Instant::now());
            let apart = tsc().saturating_sub(before);
            (apart, Reading { tsc: before + apart / 2, time })
        };
        (0..8).map(pair).min_by_key(|(apart, _)| *apart).expect("eight pairs").1
    }

    /// The frequency of the counter since this reading, in kHz, and how long that was.
    fn khz(&self) -> (u32, Duration) {
        let now = Reading::now();
        let (ticks, span) = (now.tsc.saturating_sub(self.tsc), now.time - self.time);
        let khz = u128::from(ticks) * 1_000_000 / span.as_nanos().max(1);
        (khz as u32, span)
    }
}

/// The first reading of this process.
static FIRST: OnceLock<Reading> = OnceLock::new();

/// The frequency once it is known for good; 0 before.
static KHZ: AtomicU32 = AtomicU32::new(0);

/// Takes the first of the two readings that the frequency comes from, if it has to be measured. A program that calls this
/// early waits less later.
pub fn begin() {
    FIRST.get_or_init(Reading::now);
}

/// Frequency of the TSC in kHz: from CPUID where the processor or the
/// hypervisor below says it, else measured since [`begin`], or since the first call. Within 10 ms of that it is somewhat less
/// exact, and the first call may take 0.4 ms; see [`refined_at`].
pub fn tsc_khz() -> u32 {
    match KHZ.load(Ordering::Relaxed) {
        0 => estimate(),
        khz => khz,
    }
}

/// When [`tsc_khz`] will know better than now, at the earliest. `None` if it will not.
pub fn refined_at() -> Option<Instant> {
    let first = FIRST.get()?;
    (KHZ.load(Ordering::Relaxed) == 0).then(|| first.time + ENOUGH)
}

/// Waiting here is no system call: a thread of a jailed hv may not sleep.
fn estimate() -> u32 {
    let first = FIRST.get_or_init(Reading::now);
    if let Some(khz) = from_cpuid() {
        KHZ.store(khz, Ordering::Relaxed);
        return khz;
    }
    while first.time.elapsed() < LEAST {
        std::hint::spin_loop();
    }
    let (khz, span) = first.khz();
    if span >= ENOUGH {
        KHZ.store(khz, Ordering::Relaxed);
    }
    khz
}

fn from_cpuid() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    // Below a hypervisor each of these instructions is an exit.
    *KHZ.get_or_init(ask_cpuid)
}

fn ask_cpuid() -> Option<u32> {
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

/// Nanoseconds since 1970-01-01 UTC on this host.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

const SHIFT: u32 = 32;

fn multiplier(khz: u32) -> u64 {
    ((1_000_000u128 << SHIFT) / u128::from(khz.max(1))) as u64
}

/// The same clock, which goes on from its present time as it should at this frequency. Its wall clock does not jump.
pub fn refine(clock: &Clock, khz: u32) -> Clock {
    let tsc = tsc();
    Clock {
        version: clock.version.wrapping_add(2),
        shift: SHIFT,
        multiplier: multiplier(khz),
        tsc_base: tsc,
        ns_base: clock.time_at(tsc),
        wall_base: clock.wall_base,
    }
}

/// The clock of a guest that runs from now on and whose time is `ns` then
/// (nanoseconds since its start), for a TSC of this frequency.
pub fn resume(khz: u32, ns: u64) -> Clock {
    Clock {
        version: 0,
        shift: SHIFT,
        multiplier: multiplier(khz),
        tsc_base: tsc(),
        ns_base: ns,
        wall_base: wall_clock().wrapping_sub(ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_say_the_frequency_and_more_time_says_it_better() {
        let first = Reading::now();
        std::thread::sleep(LEAST);
        let (early, _) = first.khz();
        std::thread::sleep(Duration::from_millis(50));
        let (late, span) = first.khz();
        assert!(span > Duration::from_millis(50));
        // 0.2 % of 0.4 ms is 0.8 us: the closest of eight pairs is closer than that.
        assert!(early.abs_diff(late) <= late / 500, "{early} kHz, later {late} kHz");
        // Whatever CPUID says is the same frequency.
        assert!(tsc_khz().abs_diff(late) <= late / 500, "{} kHz, measured {late} kHz", tsc_khz());
    }

    #[test]
    fn a_refined_clock_goes_on_without_a_jump() {
        let clock = Clock { wall_base: 77, ..resume(2_000_000, 1000) };
        let refined = refine(&clock, 2_000_100);
        assert_eq!(refined.time_at(refined.tsc_base), clock.time_at(refined.tsc_base));
        assert_eq!((refined.version, refined.wall_base), (2, 77));
        let later = refined.tsc_base + 2_000_100_000;
        let second = refined.time_at(later) - refined.ns_base;
        assert!((999_999_990..=1_000_000_000).contains(&second), "{second} ns");
    }

    #[test]
    fn a_guests_clock_keeps_pace_with_the_hosts() {
        let clock = resume(tsc_khz(), 0);
        let host = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        let (guest, host) = (clock.time_at(tsc()), host.elapsed().as_nanos() as u64);
        assert!(guest.abs_diff(host) < host / 100, "guest {guest} ns, host {host} ns");
    }
}
