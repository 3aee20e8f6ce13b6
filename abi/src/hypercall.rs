//! The hypercall table, and how a call crosses the boundary.
//!
//! A guest calls into the *hypercall page*, a page of code that the host fills
//! in: the stub of call number `n` starts at `page + 32 * n` and follows the
//! System V calling convention (arguments in RDI, RSI, RDX; result in RAX;
//! caller-saved registers are lost). What the stub does is the platform's
//! business, so one guest binary runs on every platform.
//!
//! Each virtual CPU has a hypercall page of its own: that of virtual CPU `n` is `n` pages behind the first one.
//!
//! A result that is not negative is the call's value; a negative one is
//! `-errno` (see [`crate::Errno`]).

/// Bytes of one stub of the hypercall page.
pub const STUB_SIZE: u64 = 32;

macro_rules! hypercalls {
    ($($(#[$doc:meta])* $number:literal $name:ident $label:literal ($($arg:literal),*);)*) => {
        /// The calls a guest can make, with their numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Hypercall {
            $($(#[$doc])* $name = $number,)*
        }

        impl Hypercall {
            /// Every call, by number.
            pub const ALL: &'static [Hypercall] = &[$(Hypercall::$name,)*];

            /// The call with this number.
            pub const fn from_number(number: u32) -> Option<Hypercall> {
                match number { $($number => Some(Hypercall::$name),)* _ => None }
            }

            /// Its name in tables and traces.
            pub const fn name(self) -> &'static str {
                match self { $(Hypercall::$name => $label,)* }
            }

            /// The names of its arguments.
            pub const fn arguments(self) -> &'static [&'static str] {
                match self { $(Hypercall::$name => &[$($arg),*],)* }
            }
        }
    };
}

hypercalls! {
    /// Does nothing and returns 0: what crossing the boundary costs.
    0 Nop "nop" ();
    /// Rings the doorbell of an event channel: the back end bound to `port`
    /// looks at its ring. Returns nothing of meaning; a port without a back
    /// end is ignored. Never waits.
    1 EventSend "event_send" ("port");
    /// Ends the guest. The low 8 bits of `code` are its exit code. Does not return.
    2 Exit "exit" ("code");
    /// Ends the guest as crashed, with `len` bytes of UTF-8 at `address` as the
    /// reason (cut at 4096; of an unreadable range the report says just that). Does not return.
    3 Panic "panic" ("address", "len");
    /// Waits until an unmasked event is pending or the guest's clock reads
    /// `deadline` nanoseconds (`u64::MAX`: no deadline). Returns 1 when an event
    /// is pending, 0 at the deadline; at once when either already holds. A guest
    /// that is restored from a snapshot returns with 0 before its deadline.
    4 Block "block" ("deadline");
    /// Offers the processor to other guests. Returns 0.
    5 Yield "yield" ();
    /// The host's wall clock, in nanoseconds since 1970-01-01 UTC. The clock
    /// page answers the same question without leaving the guest.
    6 WallClock "wall_clock" ();
    /// Writes `len` random bytes (at most 256) to `address`. Returns `len`;
    /// [`crate::Errno::Invalid`] when `len` is larger, [`crate::Errno::Fault`]
    /// when the range is not the guest's to write.
    7 Entropy "entropy" ("address", "len");
    /// Says that the guest has finished starting. Returns 0. The host logs the
    /// time; a snapshot that waits for this call is taken here, and clones of it return from it.
    8 Ready "ready" ();
    /// Has the guest taken to `handler` when events come ([upcalls](crate::shared_info::SharedInfo::upcall_mask));
    /// 0 takes the handler away. Returns 0; [`crate::Errno::Fault`] when the guest could not execute
    /// code there, and then nothing changes (ABI 1.2).
    9 SetUpcall "set_upcall" ("handler");
    /// Writes text for people to the guest's error output: `len` bytes (at most 4096) at `address`. Returns how
    /// many of them were taken, from the first on; 0 when the reader is slow, and then the guest tries
    /// again later. [`crate::Errno::Invalid`] when `len` is larger, [`crate::Errno::Fault`] when the guest could not read
    /// the range, [`crate::Errno::NoSys`] when the host has no error output apart from the console (ABI 1.3).
    10 ErrorOutput "error_output" ("address", "len");
    /// Starts a [virtual CPU](crate::vcpu) that does not run: it begins at `entry` with its number in RDI and RSP at
    /// `stack`, which is a multiple of 16. Everything else about its registers is as at the guest's entry point. Returns 0;
    /// [`crate::Errno::Invalid`] when the guest has no such virtual CPU or the stack is not aligned, [`crate::Errno::Busy`] when it
    /// runs already, [`crate::Errno::Fault`] when the guest could not execute code at `entry` or write the 8 bytes below `stack` (ABI 1.4).
    11 VcpuStart "vcpu_start" ("vcpu", "entry", "stack");
    /// Stops the virtual CPU that calls: it does not run until another one [starts](Self::VcpuStart) it again. Does not return,
    /// but on the last one that runs: [`crate::Errno::Invalid`]. That one ends the guest by [`Exit`](Self::Exit) (ABI 1.4).
    12 VcpuStop "vcpu_stop" ();
    /// Says that the [free map](crate::free_map) has pages that the host may empty. Returns 0, and has emptied none yet: from now on
    /// the host looks into the map by itself, some twenty times a second, until it finds nothing (ABI 1.5).
    13 FreePages "free_pages" ();
    /// Rings the doorbell of `port` as [`EventSend`](Self::EventSend) does, and then waits as [`Block`](Self::Block)
    /// does: one crossing of the boundary for a guest that asks for something and has nothing else to do. Returns what `Block` returns (ABI 1.7).
    14 SendAndBlock "send_and_block" ("port", "deadline");
}

impl Hypercall {
    /// Where its stub starts, in bytes from the start of the hypercall page.
    pub const fn stub_offset(self) -> u64 {
        self as u64 * STUB_SIZE
    }
}

/// Longest reason that [`Hypercall::Panic`] keeps, in bytes.
pub const PANIC_MESSAGE_MAX: u64 = 4096;

/// Most bytes that one [`Hypercall::ErrorOutput`] takes.
pub const ERROR_OUTPUT_MAX: u64 = 4096;

/// Most random bytes that one [`Hypercall::Entropy`] gives.
pub const ENTROPY_MAX: u64 = 256;

const _: () = assert!(Hypercall::ALL.len() as u64 * STUB_SIZE <= crate::PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_never_reused() {
        for (n, &call) in Hypercall::ALL.iter().enumerate() {
            assert_eq!(call as usize, n);
            assert_eq!(Hypercall::from_number(n as u32), Some(call));
        }
        assert_eq!(Hypercall::from_number(Hypercall::ALL.len() as u32), None);
    }
}
