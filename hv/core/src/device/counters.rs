//! What a device has moved for its guest. Counted by its back end; nothing is read from the guest's memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The running counts of one device. Its back end adds, anyone reads.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    inward: Flow,
    outward: Flow,
    /// Nanoseconds of CPU time of the device's own threads.
    threads: AtomicU64,
}

#[derive(Debug, Default)]
struct Flow {
    operations: AtomicU64,
    bytes: AtomicU64,
}

impl Flow {
    fn add(&self, operations: u64, bytes: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl DeviceCounters {
    /// The device has given the guest so many bytes, in so many operations.
    pub(crate) fn went_in(&self, operations: u64, bytes: u64) {
        self.inward.add(operations, bytes);
    }

    /// The device has taken so many bytes from the guest, in so many operations.
    pub(crate) fn went_out(&self, operations: u64, bytes: u64) {
        self.outward.add(operations, bytes);
    }

    /// A thread of the device has used so much CPU time.
    pub(crate) fn worked(&self, time: Duration) {
        self.threads.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// CPU time of the device's own threads.
    pub(crate) fn thread_time(&self) -> Duration {
        Duration::from_nanos(self.threads.load(Ordering::Relaxed))
    }

    /// What was moved so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            operations_in: load(&self.inward.operations),
            bytes_in: load(&self.inward.bytes),
            operations_out: load(&self.outward.operations),
            bytes_out: load(&self.outward.bytes),
        }
    }
}

/// What devices have moved: *in* is into the guest, *out* is out of it.
///
/// | device | an operation in | an operation out |
/// |---|---|---|
/// | console | a read of its input | a write of its output |
/// | block | a read | a write, a flush, a discard, a write of zeroes; only writes have bytes |
/// | net | a frame received | a frame sent |
/// | share | a read, and whatever else only tells; only reads have bytes | a write, and whatever else changes or syncs; only writes have bytes |
/// | function | a request; the bytes are those of heads and bodies | an answer |
///
/// Requests that hv refuses do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Operations into the guest.
    pub operations_in: u64,
    /// Bytes into the guest.
    pub bytes_in: u64,
    /// Operations out of the guest.
    pub operations_out: u64,
    /// Bytes out of the guest.
    pub bytes_out: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.operations_in += other.operations_in;
        self.bytes_in += other.bytes_in;
        self.operations_out += other.operations_out;
        self.bytes_out += other.bytes_out;
    }
}
