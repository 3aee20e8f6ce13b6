//! Frames to the host: one answer after the other.

use crate::{Error, Link};
use alloc::vec::Vec;
use core::task::{Context, Poll, ready};
use hv_abi::io::function::{BODY_MAX, FrameHeader, FrameKind};
use hv_abi::ring::{Producer, SharedMemory, Violation};
use zerocopy::IntoBytes;

const HEADER: usize = size_of::<FrameHeader>();

/// The guest's half of the ring.
#[derive(Debug)]
pub(crate) struct Output<M> {
    ring: Producer<M, u8>,
    /// What found no room in the ring, from `sent` on; goes first.
    unsent: Vec<u8>,
    sent: usize,
    /// The head of this answer is on its way.
    headed: bool,
}

impl<M: SharedMemory> Output<M> {
    pub(crate) fn new(ring: Producer<M, u8>) -> Self {
        Output { ring, unsent: Vec::new(), sent: 0, headed: false }
    }

    /// Whether this answer has begun.
    pub(crate) fn is_headed(&self) -> bool {
        self.headed
    }

    /// Puts bytes behind those that were put before. Never waits.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let count = if self.unsent.is_empty() { self.ring.push(bytes)? } else { 0 };
        self.unsent.extend_from_slice(&bytes[count..]);
        Ok(())
    }

    /// Begins an answer. The pieces, which are its head, are short, all told.
    pub(crate) fn head<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), Violation> {
        let len: usize = pieces.clone().map(<[u8]>::len).sum();
        self.headed = true;
        self.put(FrameHeader::new(FrameKind::Head, len as u32).as_bytes())?;
        pieces.into_iter().try_for_each(|piece| self.put(piece))
    }

    /// Puts fields behind the body: header lines, a few KiB at most.
    pub(crate) fn trailers(&mut self, lines: &[u8]) -> Result<(), Violation> {
        self.put(FrameHeader::new(FrameKind::Trailers, lines.len() as u32).as_bytes())?;
        self.put(lines)
    }

    /// Ends an answer. The host does not see it yet.
    pub(crate) fn end(&mut self) -> Result<(), Violation> {
        self.headed = false;
        self.put(FrameHeader::new(FrameKind::End, 0).as_bytes())
    }

    /// Shows the host what is in the ring. Returns whether it asked to be told.
    #[must_use = "a host that sleeps has to be told"]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Waits for room for `least` bytes. Returns all the room that there is.
    fn poll_room(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
        least: usize,
    ) -> Poll<Result<usize, Violation>> {
        // What to wait for once there is nothing: a piece at a time, rather than a wake-up per byte.
        const ENOUGH: u32 = 4096;
        loop {
            let room = self.ring.room()? as usize;
            if room >= least {
                return Poll::Ready(Ok(room));
            }
            if self.ring.publish() {
                link.ring();
            }
            link.register(context.waker());
            if !self.ring.wait_for_room(ENOUGH)? {
                return Poll::Pending;
            }
        }
    }

    /// Moves what found no room into the ring.
    pub(crate) fn poll_unsent(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
    ) -> Poll<Result<(), Violation>> {
        while self.sent < self.unsent.len() {
            ready!(self.poll_room(link, context, 1))?;
            self.sent += self.ring.push(&self.unsent[self.sent..])?;
        }
        self.unsent.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Puts some of the body, which is not empty, into the ring as a frame. Returns how much.
    ///
    /// A frame goes as a whole, header and bytes: so a write that is dropped
    /// while it waits leaves nothing half done.
    pub(crate) fn poll_write(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        ready!(self.poll_unsent(link, context))?;
        let room = ready!(self.poll_room(link, context, HEADER + 1))?;
        let count = bytes.len().min(room - HEADER).min(BODY_MAX as usize);
        self.put(FrameHeader::new(FrameKind::Body, count as u32).as_bytes())?;
        self.put(&bytes[..count])?;
        Poll::Ready(Ok(count))
    }
}
