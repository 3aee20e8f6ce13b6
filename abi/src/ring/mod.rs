//! Shared-memory rings: one protocol, one implementation, both ends.
//!
//! A ring is a pair of queues in one piece of shared memory: *requests* flow
//! from the front end (the guest's driver) to the back end (the host's device),
//! *responses* flow back. Each queue has one producer and one consumer with
//! free-running 32-bit indices; the entry of index `i` is slot `i % entries`.
//!
//! ```text
//! offset  writer      content
//!      0  front end   requests: prod, cons_event · responses: cons, prod_event
//!     64  back end    responses: prod, cons_event · requests: cons, prod_event · closed
//!    128  front end   the request slots
//!      …  back end    the response slots (from the next multiple of 64)
//! ```
//!
//! Each side writes one cache line and one slot array, and reads the other's.
//!
//! # Ordering
//!
//! *Producing*: write the slots; store `prod` (release); full fence; load
//! `prod_event`; notify if the consumer asked to be told about one of the new
//! entries, that is, if `prod_event` is in `(old prod, new prod]`.
//!
//! *Consuming*: load `prod` (acquire); copy the slots out; store `cons`
//! (release). Before going to sleep: store `prod_event = cons + 1`; full fence;
//! load `prod` again, and do not sleep if it moved.
//!
//! Waiting for room is the same with `cons` and `cons_event` in place of
//! `prod` and `prod_event`. In zeroed memory nobody has asked for anything: a
//! back end arms `prod_event` of its requests (to 1) before the guest starts,
//! and until a front end waits it hears of nothing. The two fences make a lost wake-up impossible,
//! which `tests/loom.rs` of this crate checks over all interleavings.
//!
//! # Trust
//!
//! Neither side believes the other's indices: a producer's index more than
//! `entries` ahead, or one that went back, is a [`Violation`]. Entries are
//! copied out once and validated afterwards.

mod ends;
mod queue;

pub use ends::{Back, Front};
pub use queue::{Consumer, Producer, Violation};

use core::mem::size_of;

/// Memory that both ends of a ring can reach.
///
/// Offsets are in bytes from the start of the ring. The ring code asks only
/// for offsets below the [`Layout::size`] that it was given, and only for
/// offsets of indices that are multiples of 4.
pub trait SharedMemory {
    /// Loads an index, with acquire ordering.
    fn load(&self, offset: usize) -> u32;
    /// Stores an index, with release ordering.
    fn store(&self, offset: usize, value: u32);
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Copies bytes out. The other end may be writing them: what comes out is
    /// then any mixture, but reading it is defined.
    fn read(&self, offset: usize, bytes: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, bytes: &[u8]);
}

impl<M: SharedMemory + ?Sized> SharedMemory for &M {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }
    fn fence(&self) {
        (**self).fence();
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        (**self).read(offset, bytes);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        (**self).write(offset, bytes);
    }
}

/// Alignment of a ring and of its parts: a cache line.
pub const ALIGNMENT: usize = 64;

/// Where the front end's line starts.
pub const FRONT_LINE: usize = 0;
/// Where the back end's line starts.
pub const BACK_LINE: usize = 64;
/// Word in the back end's line that tells that no more responses will come;
/// see the device kinds for its values.
pub const CLOSED_OFFSET: usize = BACK_LINE + 16;
/// Where the request slots start.
pub const REQUEST_SLOTS: usize = 128;

// Offsets within a writer's line: first the queue that it produces …
const PROD: usize = 0;
const CONS_EVENT: usize = 4;
// … then the queue that it consumes.
const CONS: usize = 8;
const PROD_EVENT: usize = 12;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    requests: u32,
    responses: u32,
    request_size: usize,
    response_size: usize,
}

impl Layout {
    /// The layout of a ring with this many entries of these types, or `None`
    /// if a count is not a power of two from 1 to 2^20.
    pub const fn new<Req, Rsp>(requests: u32, responses: u32) -> Option<Layout> {
        const MAX: u32 = 1 << 20;
        if !requests.is_power_of_two() || !responses.is_power_of_two() || requests > MAX || responses > MAX {
            return None;
        }
        Some(Layout { requests, responses, request_size: size_of::<Req>(), response_size: size_of::<Rsp>() })
    }

    /// Where the response slots start.
    pub const fn response_slots(&self) -> usize {
        (REQUEST_SLOTS + self.requests as usize * self.request_size).next_multiple_of(ALIGNMENT)
    }

    /// Bytes of the whole ring.
    pub const fn size(&self) -> usize {
        self.response_slots() + self.responses as usize * self.response_size
    }

    const fn request_queue(&self) -> queue::Place {
        queue::Place {
            producer: FRONT_LINE + PROD,
            consumer: BACK_LINE + CONS,
            slots: REQUEST_SLOTS,
            entries: self.requests,
        }
    }

    const fn response_queue(&self) -> queue::Place {
        queue::Place {
            producer: BACK_LINE + PROD,
            consumer: FRONT_LINE + CONS,
            slots: self.response_slots(),
            entries: self.responses,
        }
    }
}

// Golden offsets: a guest in the field has them built in.
const _: () = {
    assert!(CONS_EVENT == PROD + 4 && PROD_EVENT == CONS + 4);
    let layout = Layout::new::<[u8; 64], [u8; 16]>(128, 128).unwrap();
    assert!(layout.response_slots() == 128 + 128 * 64);
    assert!(layout.size() == 128 + 128 * 80);
};
