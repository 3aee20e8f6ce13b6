//! What one request has used.

use hv_core::domain::Guest;
use std::time::Duration;

/// What a guest has used for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestUsage {
    /// CPU time, of the guest and of what hv did for it.
    pub cpu_time: Duration,
    /// Integral of the guest's own memory over the time of the request, in byte-nanoseconds.
    pub memory_byte_nanos: u128,
}

impl RequestUsage {
    /// What a guest has used for all requests so far.
    pub(super) fn read(guest: &Guest) -> Self {
        RequestUsage { cpu_time: guest.cpu_time(), memory_byte_nanos: guest.memory_byte_nanos() }
    }

    /// What the same guest has used since an earlier reading.
    pub(super) fn since(self, before: Self) -> Self {
        RequestUsage {
            cpu_time: self.cpu_time.saturating_sub(before.cpu_time),
            memory_byte_nanos: self.memory_byte_nanos.saturating_sub(before.memory_byte_nanos),
        }
    }

    /// The integral in bytes times seconds: see [`memory_byte_seconds`](hv_core::domain::Usage::memory_byte_seconds) of a guest.
    pub fn memory_byte_seconds(&self) -> f64 {
        self.memory_byte_nanos as f64 / 1e9
    }
}
