//! What a guest has used: CPU time, memory over time, and what its devices have moved.

use super::Domain;
use crate::device::{self, Traffic};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a guest has used since it was started. No figure ever decreases, except `resident_memory`.
///
/// Not included: making the virtual machine and loading the image, closing them, and what the kernel does for a disk on threads of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of its virtual CPUs, including the work that hv did for them on the same threads. On the platform
    /// `process`, that of the guest's process as well.
    pub vcpu_time: Duration,
    /// CPU time that the I/O thread, and threads of its disks, have used for its devices.
    pub device_time: Duration,
    /// Bytes of memory that are the guest's alone, when that was last measured. What it shares with other clones of its
    /// snapshot is not included.
    pub resident_memory: u64,
    /// Integral of `resident_memory` over the guest's life, in byte-nanoseconds. See [`memory_byte_seconds`](Self::memory_byte_seconds).
    pub memory_byte_nanos: u128,
    /// What its devices have moved, by kind of device: `console`, `block`, `net`, `function`.
    pub devices: BTreeMap<&'static str, Traffic>,
}

impl Usage {
    /// All CPU time.
    pub fn cpu_time(&self) -> Duration {
        self.vcpu_time + self.device_time
    }

    /// Integral of the guest's own resident memory over its life, in bytes times seconds.
    ///
    /// Memory is measured at the ends of time slices, at readings, and at the guest's end, and is taken to change evenly
    /// in between. Each time between two measurements adds an error of at most half of it times the difference of the two,
    /// if memory only grew or only shrank meanwhile. While time slices end, this time is 10 ms (or a hundred times what
    /// a measurement takes, if that is more) and a time slice; a sleep of less than a second can add to it. The time
    /// slice of a guest that computes without a pause does not end while no other guest waits for the processor: such
    /// a guest is measured at readings alone, or when [asked for](super::Controller::measure).
    pub fn memory_byte_seconds(&self) -> f64 {
        self.memory_byte_nanos as f64 / 1e9
    }
}

impl std::ops::AddAssign<&Usage> for Usage {
    /// Adds another guest's usage.
    fn add_assign(&mut self, other: &Usage) {
        self.vcpu_time += other.vcpu_time;
        self.device_time += other.device_time;
        self.resident_memory += other.resident_memory;
        self.memory_byte_nanos += other.memory_byte_nanos;
        for (kind, traffic) in &other.devices {
            *self.devices.entry(kind).or_default() += *traffic;
        }
    }
}

/// Least time between two measurements: finding the pages of a guest costs several microseconds.
const LEAST: Duration = Duration::from_millis(10);

/// Least time between two measurements as a multiple of what one takes: at most a hundredth of the time is spent on them.
const COST: u32 = 100;

/// A guest that sleeps for so long is measured when it wakes up, if it has run since the last measurement.
const LONG_SLEEP: Duration = Duration::from_secs(1);

/// The integral of a guest's memory over time. Pure: points in time are given, counted from the guest's start.
#[derive(Debug, Default)]
struct Integral {
    /// Up to the last measurement, in byte-nanoseconds.
    area: u128,
    /// The last measurement: when, and the bytes. `None` before the first.
    last: Option<(Duration, u64)>,
    /// When the next measurement is due.
    due: Duration,
    /// The largest value that was told. A later measurement can show that the memory was less than was assumed.
    told: u128,
}

impl Integral {
    /// Memory of a guest that has not changed anything since `still_since` was measured, which took `cost`.
    fn measured(&mut self, now: Duration, still_since: Duration, bytes: u64, cost: Duration) {
        // What was there at the first measurement counts as having been there from the start.
        let (at, before) = self.last.unwrap_or((Duration::ZERO, bytes));
        let still = still_since.clamp(at, now.max(at));
        let even = (u128::from(before) + u128::from(bytes)) * (still - at).as_nanos() / 2;
        self.area += even + u128::from(bytes) * now.saturating_sub(still).as_nanos();
        self.last = Some((now.max(at), bytes));
        self.due = now + LEAST.max(cost * COST);
    }

    /// The integral up to now: since the last measurement memory counts as it was then.
    fn read(&mut self, now: Duration) -> u128 {
        let (at, bytes) = self.last.unwrap_or_default();
        self.told = self.told.max(self.area + u128::from(bytes) * now.saturating_sub(at).as_nanos());
        self.told
    }

    fn bytes(&self) -> u64 {
        self.last.map_or(0, |(_, bytes)| bytes)
    }
}

/// Measures a guest's memory now and then.
pub(super) struct MemoryMeter {
    start: Instant,
    integral: Mutex<Integral>,
    /// A copy of `Integral::due`, in nanoseconds.
    due: AtomicU64,
    /// Virtual CPUs that are in a time slice.
    running: AtomicUsize,
    /// When the last time slice ended, in nanoseconds.
    ran: AtomicU64,
    /// When the guest ended, in nanoseconds. 0: it has not.
    ended: AtomicU64,
}

impl MemoryMeter {
    pub(super) fn new() -> Self {
        MemoryMeter {
            start: Instant::now(),
            integral: Mutex::default(),
            due: AtomicU64::new(LEAST.as_nanos() as u64),
            running: AtomicUsize::new(0),
            ran: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Time since the start, up to the guest's end.
    fn now(&self) -> Duration {
        match self.ended.load(Ordering::Relaxed) {
            0 => self.start.elapsed(),
            ended => Duration::from_nanos(ended),
        }
    }

    /// A virtual CPU begins a time slice.
    pub(super) fn slice_begins(&self, measure: impl FnOnce() -> u64) {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        let ran = Duration::from_nanos(self.ran.load(Ordering::Relaxed));
        if others == 0 && self.now().saturating_sub(ran) >= LONG_SLEEP && !ran.is_zero() {
            let integral = &mut *self.integral.lock().expect("no panic while held");
            if integral.last.is_none_or(|(at, _)| at < ran) {
                self.measure(integral, ran, measure);
            }
        }
    }

    /// A time slice of a virtual CPU ends.
    pub(super) fn slice_ends(&self, measure: impl FnOnce() -> u64) {
        let now = self.now();
        self.ran.fetch_max(now.as_nanos() as u64, Ordering::Relaxed);
        if now.as_nanos() as u64 >= self.due.load(Ordering::Relaxed)
            && let Ok(integral) = &mut self.integral.try_lock()
        {
            self.measure(integral, now, measure);
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Much of the memory of a guest that does not run was given back.
    fn measure_now(&self, measure: impl FnOnce() -> u64) {
        self.measure(&mut self.integral.lock().expect("no panic while held"), Duration::MAX, measure);
    }

    /// Whether a virtual CPU is in a time slice.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) > 0
    }

    /// The guest has ended: its memory does not change any more, and does not count from now on.
    pub(super) fn ended(&self) {
        let now = self.now().as_nanos() as u64;
        let _ = self.ended.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The current bytes and the integral so far, after a measurement if one is due and `measure` is given.
    fn read(&self, measure: Option<impl FnOnce() -> u64>) -> (u64, u128) {
        let integral = &mut *self.integral.lock().expect("no panic while held");
        let (now, has_ended) = (self.now(), self.ended.load(Ordering::Relaxed) != 0);
        let due = match integral.last {
            None => true,
            Some((at, _)) => now >= integral.due || has_ended && at < now,
        };
        if let Some(measure) = measure.filter(|_| due) {
            let ran = || Duration::from_nanos(self.ran.load(Ordering::Relaxed));
            self.measure(integral, if self.is_running() { now } else { ran() }, measure);
        }
        (integral.bytes(), integral.read(now))
    }

    fn measure(&self, integral: &mut Integral, still_since: Duration, measure: impl FnOnce() -> u64) {
        let begin = Instant::now();
        let bytes = measure();
        integral.measured(self.now(), still_since, bytes, begin.elapsed());
        self.due.store(integral.due.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Domain {
    /// Runs a time slice of a virtual CPU, and measures the guest's memory if that is due.
    pub(super) fn measured<R>(&self, slice: impl FnOnce() -> R) -> R {
        self.memory_meter.slice_begins(|| self.memory.resident());
        let result = slice();
        self.memory_meter.slice_ends(|| self.memory.resident());
        result
    }

    /// CPU time of its virtual CPUs.
    fn vcpu_time(&self) -> Duration {
        self.vcpus.iter().filter_map(|vcpu| vcpu.entity()).map(|entity| entity.cpu_time()).sum()
    }

    /// CPU time of work for its devices on other threads.
    fn device_time(&self) -> Duration {
        let threads = self.device_counters.iter().map(|counters| counters.thread_time());
        threads.fold(self.source_owner.worked(), |sum, time| sum + time)
    }

    pub(super) fn cpu_time(&self) -> Duration {
        self.vcpu_time() + self.device_time()
    }

    /// Measures its memory at once.
    pub(super) fn measure_memory(&self) {
        self.memory_meter.measure_now(|| self.memory.resident());
    }

    /// The bytes of its memory, and their integral in byte-nanoseconds.
    pub(super) fn memory_usage(&self, measure: bool) -> (u64, u128) {
        self.memory_meter.read(measure.then_some(|| self.memory.resident()))
    }

    /// Its memory is measured if that is due and `measure` says so.
    pub(super) fn usage(&self, measure: bool) -> Usage {
        let (resident_memory, memory_byte_nanos) = self.memory_usage(measure);
        let mut devices: BTreeMap<_, Traffic> = BTreeMap::new();
        for (info, counters) in self.table.iter().zip(&self.device_counters) {
            if let Some(kind) = device::kind(info.kind) {
                *devices.entry(kind.key).or_default() += counters.traffic();
            }
        }
        Usage {
            vcpu_time: self.vcpu_time(),
            device_time: self.device_time(),
            resident_memory,
            memory_byte_nanos,
            devices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Byte-milliseconds.
    fn told(integral: &mut Integral, now: Duration) -> u128 {
        integral.read(now) / MS.as_nanos()
    }

    #[test]
    fn memory_counts_for_as_long_as_it_is_there() {
        let mut integral = Integral::default();
        assert_eq!(told(&mut integral, 5 * MS), 0, "nothing is known yet");
        integral.measured(10 * MS, 10 * MS, 100, MS / 1000);
        assert_eq!(told(&mut integral, 10 * MS), 1000, "from the start");
        assert_eq!(told(&mut integral, 15 * MS), 1500, "as it was");
        integral.measured(20 * MS, 20 * MS, 300, MS / 1000);
        assert_eq!(told(&mut integral, 20 * MS), 1000 + 2000, "it grew evenly");
        assert_eq!(integral.bytes(), 300);
    }

    #[test]
    fn a_guest_that_sleeps_changes_nothing() {
        let mut integral = Integral::default();
        integral.measured(10 * MS, 10 * MS, 100, MS);
        integral.measured(1000 * MS, 12 * MS, 200, MS);
        assert_eq!(told(&mut integral, 1000 * MS), 1000 + 2 * 150 + 988 * 200);
        // It has slept since before the last measurement.
        integral.measured(2000 * MS, 12 * MS, 200, MS);
        assert_eq!(told(&mut integral, 2000 * MS), 1000 + 2 * 150 + 1988 * 200);
    }

    #[test]
    fn what_was_told_is_never_taken_back() {
        let mut integral = Integral::default();
        integral.measured(10 * MS, 10 * MS, 1000, MS);
        assert_eq!(told(&mut integral, 20 * MS), 20_000);
        integral.measured(20 * MS, 20 * MS, 0, MS);
        assert_eq!(integral.area / MS.as_nanos(), 15_000);
        assert_eq!(told(&mut integral, 30 * MS), 20_000);
        integral.measured(40 * MS, 20 * MS, 1000, MS);
        assert!(told(&mut integral, 40 * MS) > 20_000);
    }

    #[test]
    fn the_error_is_at_most_half_of_the_change_times_the_interval() {
        // A guest that takes 1000 bytes at once, at some time between the measurements at 0 and at 10 ms.
        for at in 0..=10u32 {
            let mut integral = Integral::default();
            integral.measured(Duration::ZERO, Duration::ZERO, 0, MS);
            integral.measured(10 * MS, 10 * MS, 1000, MS);
            let real = u128::from(10 - at) * 1000;
            assert!(told(&mut integral, 10 * MS).abs_diff(real) <= 1000 * 10 / 2);
        }
    }

    #[test]
    fn measurements_that_cost_much_are_rare() {
        let mut integral = Integral::default();
        integral.measured(10 * MS, 10 * MS, 1, MS / 100);
        assert_eq!(integral.due, 20 * MS);
        integral.measured(20 * MS, 20 * MS, 1, 3 * MS);
        assert_eq!(integral.due, 320 * MS);
    }

    #[test]
    fn the_end_stops_the_count() {
        let meter = MemoryMeter::new();
        meter.slice_begins(|| unreachable!());
        meter.slice_ends(|| unreachable!("not due yet"));
        meter.ended();
        let first = meter.read(Some(|| 4096));
        assert_eq!(first.0, 4096);
        assert!(first.1 > 0);
        assert_eq!(meter.read(Some(|| -> u64 { unreachable!("it cannot have changed") })), first);
    }

    #[test]
    fn usages_add_up() {
        let traffic = Traffic { operations_in: 1, bytes_in: 2, operations_out: 3, bytes_out: 4 };
        let one = Usage {
            vcpu_time: MS,
            device_time: 2 * MS,
            resident_memory: 5,
            memory_byte_nanos: 2_000_000_000,
            devices: [("net", traffic)].into(),
        };
        assert_eq!((one.cpu_time(), one.memory_byte_seconds()), (3 * MS, 2.0));
        let mut sum = Usage::default();
        sum += &one;
        assert_eq!(sum, one);
        sum += &one;
        assert_eq!((sum.cpu_time(), sum.resident_memory, sum.devices["net"].bytes_out), (6 * MS, 10, 8));
    }
}
