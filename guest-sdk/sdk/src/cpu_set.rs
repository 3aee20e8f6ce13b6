//! A set of virtual CPUs that all virtual CPUs can change.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

/// A bit for each virtual CPU.
#[derive(Debug)]
pub(crate) struct CpuSet(AtomicU64);

const _: () = assert!(crate::per_cpu::MAX == u64::BITS as usize);

impl CpuSet {
    pub(crate) const fn new() -> Self {
        CpuSet(AtomicU64::new(0))
    }

    pub(crate) fn insert(&self, cpu: usize) {
        self.0.fetch_or(1 << cpu, Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, cpu: usize) {
        self.0.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// Removes and returns all members.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = usize> + use<> {
        let mut bits = self.0.swap(0, Ordering::SeqCst);
        core::iter::from_fn(move || {
            let cpu = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            (cpu < u64::BITS as usize).then_some(cpu)
        })
    }

    /// Removes and returns the member with the least number.
    pub(crate) fn take_one(&self) -> Option<usize> {
        self.take_one_below(crate::per_cpu::MAX)
    }

    /// The same of the members below a number, which is at least 1.
    pub(crate) fn take_one_below(&self, end: usize) -> Option<usize> {
        let below = u64::MAX >> (u64::BITS as usize - end.clamp(1, crate::per_cpu::MAX));
        loop {
            let bits = self.0.load(Ordering::SeqCst) & below;
            if bits == 0 {
                return None;
            }
            let bit = bits & bits.wrapping_neg();
            if self.0.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
                return Some(bit.trailing_zeros() as usize);
            }
        }
    }
}
