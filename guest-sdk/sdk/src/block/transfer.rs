//! One operation on a disk, from its first poll to its last response.

use super::queue::RequestQueue;
use alloc::vec::Vec;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use hv_abi::io::block::{BlockRequest, MAX_SEGMENTS, Segment};
use hv_abi::{Errno, GuestAddr};

/// Most requests of one transfer that are in flight at a time.
const PARTS: usize = 8;

/// The buffers of a transfer, as addresses: this is all that the host is given. Their provenance is exposed when they are
/// taken, so that the compiler must assume writes by the host.
pub(super) enum Memory {
    One([(usize, usize); 1]),
    Many(Vec<(usize, usize)>),
}

impl Memory {
    pub(super) fn one(address: usize, len: usize) -> Self {
        Memory::One([(address, len)])
    }

    pub(super) fn many(pieces: Vec<(usize, usize)>) -> Self {
        Memory::Many(pieces)
    }

    fn pieces(&self) -> &[(usize, usize)] {
        match self {
            Memory::One(piece) => piece,
            Memory::Many(pieces) => pieces,
        }
    }
}

/// An operation on a disk, as a future. See the [module](super) about dropping it early.
#[must_use = "a transfer does nothing until it is awaited"]
pub struct Transfer<'a> {
    queue: &'static RequestQueue,
    request: BlockRequest,
    memory: Memory,
    /// Where the next request starts: a piece of the memory, and an offset in bytes within it.
    next: (usize, usize),
    /// Everything was handed to the host, or nothing more will be.
    submitted: bool,
    flying: [u16; PARTS],
    count: usize,
    result: Result<(), Errno>,
    /// The buffers stay borrowed for as long as this lives.
    buffers: PhantomData<&'a mut [u8]>,
}

impl<'a> Transfer<'a> {
    /// A read or write.
    pub(super) fn data(queue: &'static RequestQueue, op: u8, sector: u64, memory: Memory) -> Transfer<'a> {
        let config = queue.config();
        let mut bytes = 0;
        let mut whole = true;
        for (_, len) in memory.pieces() {
            bytes += *len as u64;
            whole &= len.is_multiple_of(config.sector_size as usize);
        }
        let count = bytes / u64::from(config.sector_size);
        let fits = sector.checked_add(count).is_some_and(|end| end <= config.sectors);
        let mut transfer =
            Transfer::new(queue, BlockRequest { op, sector, ..BlockRequest::default() }, memory);
        if !whole || !fits {
            transfer.refuse(Errno::Invalid);
        }
        transfer
    }

    /// An operation without data.
    pub(super) fn control(queue: &'static RequestQueue, op: u8, sector: u64, count: u64) -> Transfer<'a> {
        let request = BlockRequest { op, sector, count, ..BlockRequest::default() };
        Transfer::new(queue, request, Memory::Many(Vec::new()))
    }

    fn new(queue: &'static RequestQueue, request: BlockRequest, memory: Memory) -> Transfer<'a> {
        Transfer {
            queue,
            request,
            memory,
            next: (0, 0),
            submitted: false,
            flying: [0; PARTS],
            count: 0,
            result: Ok(()),
            buffers: PhantomData,
        }
    }

    fn refuse(&mut self, errno: Errno) {
        self.result = self.result.and(Err(errno));
        self.submitted = true;
    }

    /// The segments of the next request, at most as many as a request may have, the number of their bytes, and where the
    /// request after it starts.
    fn part(&self, list: &mut [Segment]) -> (usize, u64, (usize, usize)) {
        let config = self.queue.config();
        let sector_size = config.sector_size;
        let mut room = (config.max_transfer - config.max_transfer % sector_size) as usize;
        let most = (config.max_segments as usize).min(list.len());
        let (mut piece, mut offset) = self.next;
        let (mut count, mut bytes) = (0, 0);
        while let Some(&(address, len)) = self.memory.pieces().get(piece) {
            let take = (len - offset).min(room);
            if take > 0 && count < most {
                let address = GuestAddr((address + offset) as u64);
                list[count] = Segment { address, len: take as u32, reserved: 0 };
                count += 1;
                bytes += take as u64;
                room -= take;
                offset += take;
            }
            if offset < len {
                break;
            }
            (piece, offset) = (piece + 1, 0);
        }
        (count, bytes, (piece, offset))
    }

    /// Hands requests to the host, as many as possible. False if the queue is full.
    fn submit(&mut self, waker: Option<&Waker>) -> bool {
        while !self.submitted && self.count < PARTS {
            let (mut short, mut long);
            let list: &mut [Segment] = if self.memory.pieces().len() <= 1 {
                short = [Segment::default()];
                &mut short
            } else {
                long = [Segment::default(); MAX_SEGMENTS];
                &mut long
            };
            let (segments, bytes, next) = self.part(list);
            if segments == 0 && !self.memory.pieces().is_empty() {
                // Nothing (more) to transfer.
                self.submitted = true;
                break;
            }
            match self.queue.submit(self.request, &list[..segments], waker) {
                Ok(Some(id)) => {
                    self.flying[self.count] = id;
                    self.count += 1;
                }
                Ok(None) => return false,
                Err(errno) => {
                    self.refuse(errno);
                    break;
                }
            }
            self.request.sector += bytes / u64::from(self.queue.config().sector_size);
            self.next = next;
            self.submitted = next.0 >= self.memory.pieces().len();
        }
        true
    }

    /// Takes the outcomes that have come.
    fn finish(&mut self, waker: Option<&Waker>) {
        let mut index = 0;
        while index < self.count {
            match self.queue.finish(self.flying[index], waker) {
                Some(result) => {
                    self.count -= 1;
                    self.flying[index] = self.flying[self.count];
                    if let Err(errno) = result {
                        self.refuse(errno);
                    }
                }
                None => index += 1,
            }
        }
    }

    /// Makes as much progress as possible. Returns true at the end.
    fn advance(&mut self, waker: Option<&Waker>) -> bool {
        loop {
            let queued = self.submit(waker);
            let before = self.count;
            self.finish(waker);
            if self.count == 0 && self.submitted {
                return true;
            }
            // If nothing has finished, there is no slot for more requests.
            if self.count == before || self.submitted || !queued {
                return false;
            }
        }
    }

    /// Carries the transfer out, waiting without an executor. No task runs meanwhile.
    ///
    /// # Errors
    ///
    /// Those of the operation: see [`Disk::read`](super::Disk::read) and the others.
    pub fn block(mut self) -> Result<(), Errno> {
        while !self.advance(None) {
            self.queue.collect();
            if self.advance(None) {
                break;
            }
            self.queue.wait();
        }
        self.result
    }
}

impl Future for Transfer<'_> {
    type Output = Result<(), Errno>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The answer may be there already, for example from a host that is polling the ring. The way through the event takes longer.
        self.queue.collect();
        if self.advance(Some(context.waker())) { Poll::Ready(self.result) } else { Poll::Pending }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.submitted = true;
        while self.count > 0 {
            self.queue.collect();
            self.finish(None);
            if self.count > 0 {
                self.queue.wait();
            }
        }
    }
}
