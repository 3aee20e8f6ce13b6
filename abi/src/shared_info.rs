//! The page that host and guest both write: events, and the clock.
//!
//! Every field has one writer, except `pending`, where the host sets bits and
//! the guest clears them, and `upcall_mask`, which the host sets and the guest
//! sets and clears, all atomically.

use crate::{event, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words of an event bitmap.
pub const EVENT_WORDS: usize = (event::PORTS / 64) as usize;

/// Clock parameters: a version-counted linear function of the TSC.
///
/// Guest time is `ns_base + ((tsc - tsc_base) * multiplier >> shift)`
/// nanoseconds since the guest started, with a 128-bit product. Wall time is
/// `wall_base` plus guest time.
///
/// Ordering: the host makes `version` odd, writes the rest, makes `version`
/// even again. The guest reads `version`, the rest, and `version` again, and
/// starts over when the two differ or are odd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Clock {
    /// Odd while the host is writing.
    pub version: u32,
    /// Right shift of the product.
    pub shift: u32,
    /// Nanoseconds per TSC tick, scaled by `2^shift`.
    pub multiplier: u64,
    /// TSC value that stands for `ns_base`.
    pub tsc_base: u64,
    /// Guest time at `tsc_base`, in nanoseconds.
    pub ns_base: u64,
    /// Wall time, in nanoseconds since 1970-01-01 UTC, at guest time 0.
    pub wall_base: u64,
}

layout!(Clock: 40 {
    version @ 0, shift @ 4, multiplier @ 8, tsc_base @ 16, ns_base @ 24, wall_base @ 32,
});

impl Clock {
    /// Guest time at this TSC value, in nanoseconds. A TSC before `tsc_base` counts as `tsc_base`.
    pub const fn time_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.tsc_base) as u128;
        let ns = (ticks * self.multiplier as u128) >> (self.shift & 127);
        self.ns_base.wrapping_add(ns as u64)
    }
}

/// The page's content. The rest of the page is zero and reserved.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// Events that wait for the guest: the host sets, the guest clears.
    pub pending: [u64; EVENT_WORDS],
    /// Events that do not end [`Block`](crate::Hypercall::Block): written by
    /// the guest; all ones at the start.
    pub mask: [u64; EVENT_WORDS],
    /// The clock: written by the host.
    pub clock: Clock,
    reserved: [u8; 24],
    /// Zero in a guest that was started. A restored or cloned guest finds a
    /// random number here that no other guest has: written by the host before
    /// the guest runs on. A guest that keeps secrets, random state or names of
    /// its own compares it with what it saw last.
    pub generation: [u8; 16],
    /// Fresh random bytes for a guest whose generation changed: written by the
    /// host together with `generation`, no two guests get the same; the guest
    /// may clear it after use. Zero in a guest that was started, whose seed is in start-info (ABI 1.1).
    pub seed: [u8; 32],
    /// Whether upcalls are held back: 0 lets them come, anything else keeps
    /// them away. 0 at the start (ABI 1.2).
    ///
    /// A guest that has a handler ([`SetUpcall`](crate::Hypercall::SetUpcall))
    /// is taken to it when an unmasked event is pending and this is 0. The host
    /// makes it 1 with that, atomically, so that handlers do not pile up; the guest makes it 0
    /// again when it can bear the next upcall.
    ///
    /// **The host looks when an event comes and whenever the guest leaves, but
    /// not when this becomes 0.** So no upcall is lost if who unmasks
    ///
    /// 1. stores 0 here, with a full barrier behind;
    /// 2. looks whether an unmasked event is pending; if none is, that is all;
    /// 3. else calls its handler itself, after an exchange of this for 1 that found 0,
    ///    or makes any hypercall: the upcall comes before that returns.
    ///
    /// The same goes for clearing a bit of `mask`: steps 2 and 3 come after it.
    pub upcall_mask: u32,
    /// How many virtual CPUs the guest should use: those with a smaller number, 1 to
    /// [`StartInfo::vcpus`](crate::start_info::StartInfo::vcpus). 0 in hosts before ABI 1.5: all. Written by the host, which raises
    /// [`TARGETS`](crate::event::TARGETS) then.
    pub vcpus_target: u32,
    /// How many bytes of memory the guest should use at most; 0: as many as it has. A guest that uses more gives up what it
    /// can do without, such as caches. Written by the host, which raises [`TARGETS`](crate::event::TARGETS) then (ABI 1.5).
    pub memory_target: u64,
    /// 1 while the host looks into the [free map](crate::free_map) by itself, or will take back all of the memory soon, else 0: then a guest that gives pages has
    /// to call. Written by the host; 0 in a guest that was started (ABI 1.5).
    pub free_map_watched: u32,
    reserved2: u32,
}

layout!(SharedInfo: 392 {
    pending @ 0, mask @ 128, clock @ 256, reserved @ 296, generation @ 320, seed @ 336,
    upcall_mask @ 368, vcpus_target @ 372, memory_target @ 376,
    free_map_watched @ 384, reserved2 @ 388,
});

const _: () = assert!(size_of::<SharedInfo>() as u64 <= crate::PAGE_SIZE);

/// Bytes below the interrupted code's stack pointer that an upcall leaves alone: the System V red
/// zone. Below them is the address that the handler returns to, with `ret 128`.
pub const RED_ZONE: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_linear_and_never_overflows_in_a_century() {
        // 2.7 GHz.
        let shift = 32;
        let multiplier = ((1_000_000_000u128 << shift) / 2_700_000_000) as u64;
        let clock = Clock { shift, multiplier, tsc_base: 1000, ns_base: 5, ..Clock::default() };
        assert_eq!(clock.time_at(0), 5);
        assert_eq!(clock.time_at(1000), 5);
        let second = clock.time_at(1000 + 2_700_000_000) - 5;
        assert!((999_999_998..=1_000_000_000).contains(&second), "{second}");
        let century = 100 * 365 * 86400u64;
        let ns = clock.time_at(1000 + century * 2_700_000_000) - 5;
        assert!(ns / 1_000_000_000 >= century - 2);
    }

    #[test]
    fn a_hostile_shift_does_not_panic() {
        let clock = Clock { shift: u32::MAX, multiplier: u64::MAX, ns_base: u64::MAX, ..Clock::default() };
        let _ = clock.time_at(u64::MAX);
    }
}
