//! Frames from the host: one request after the other.

use crate::{Error, Link};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll, ready};
use hv_abi::io::function::{FrameHeader, FrameKind};
use hv_abi::ring::{Consumer, SharedMemory, Violation};
use zerocopy::FromBytes;

/// Where in the stream the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the next frame of a request's body.
    Between,
    /// In a body frame, with this many bytes to come.
    Within(u32),
    /// Behind the request's last frame.
    Ended,
    /// The same, but it was a cancellation.
    Cancelled,
    /// Behind something that the protocol does not have.
    Broken,
}

/// The host's half of the ring.
#[derive(Debug)]
pub(crate) struct Input<M> {
    ring: Consumer<M, u8>,
    place: Place,
    /// The part of the next frame's header that has come.
    header: [u8; size_of::<FrameHeader>()],
    have: usize,
}

impl<M: SharedMemory> Input<M> {
    pub(crate) fn new(ring: Consumer<M, u8>) -> Self {
        Input { ring, place: Place::Ended, header: [0; size_of::<FrameHeader>()], have: 0 }
    }

    /// Whether the request was cancelled, as far as it has been read.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.place == Place::Cancelled
    }

    fn has_ended(&self) -> bool {
        matches!(self.place, Place::Ended | Place::Cancelled)
    }

    fn broken(&mut self) -> Error {
        self.place = Place::Broken;
        Error::Broken
    }

    /// Gives back the room of what was read. Returns whether the host asked to be told.
    #[must_use = "a host that waits for room has to be told"]
    pub(crate) fn release(&mut self) -> bool {
        self.ring.release()
    }

    /// Takes some bytes, at least one; `bytes` is not empty.
    fn poll_some(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<Result<usize, Violation>> {
        loop {
            // Looked at each time, event or not: who else waits for this event may have taken it.
            let count = self.ring.pop(bytes)?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if self.ring.release() {
                link.ring();
            }
            link.register(context.waker());
            if !self.ring.wait_for_entries()? {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next frame's header.
    fn poll_header(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
    ) -> Poll<Result<(FrameKind, u32), Error>> {
        while self.have < self.header.len() {
            let mut part = [0; size_of::<FrameHeader>()];
            let missing = part.len() - self.have;
            let count = ready!(self.poll_some(link, context, &mut part[..missing]))?;
            self.header[self.have..self.have + count].copy_from_slice(&part[..count]);
            self.have += count;
        }
        self.have = 0;
        let header = FrameHeader::read_from_bytes(&self.header).unwrap_or_default();
        Poll::Ready(match header.validate() {
            Some(kind) => Ok((kind, header.len)),
            None => Err(self.broken()),
        })
    }

    /// Reads the head of the next request into `head`, in place of what was there.
    pub(crate) async fn head(&mut self, link: &impl Link, head: &mut Vec<u8>) -> Result<(), Error> {
        let (kind, len) = poll_fn(|context| self.poll_header(link, context)).await?;
        if kind != FrameKind::Head || !self.has_ended() {
            return Err(Error::Broken);
        }
        head.clear();
        head.resize(len as usize, 0);
        let mut have = 0;
        while have < head.len() {
            have += poll_fn(|context| self.poll_some(link, context, &mut head[have..])).await?;
        }
        self.place = Place::Between;
        Ok(())
    }

    /// Goes to the next bytes of the body. Returns how many of them are in this frame; 0 at the end.
    pub(crate) fn poll_frame(&mut self, link: &impl Link, context: &Context<'_>) -> Poll<Result<u32, Error>> {
        loop {
            self.place = match self.place {
                Place::Within(0) => Place::Between,
                Place::Within(left) => return Poll::Ready(Ok(left)),
                Place::Ended => return Poll::Ready(Ok(0)),
                Place::Cancelled => return Poll::Ready(Err(Error::Cancelled)),
                Place::Broken => return Poll::Ready(Err(Error::Broken)),
                Place::Between => match ready!(self.poll_header(link, context))? {
                    (FrameKind::Body, len) => Place::Within(len),
                    (FrameKind::End, _) => Place::Ended,
                    (FrameKind::Cancel, _) => Place::Cancelled,
                    (FrameKind::Head | FrameKind::Trailers, _) => return Poll::Ready(Err(self.broken())),
                },
            };
        }
    }

    /// Reads some of the body; 0 at its end.
    pub(crate) fn poll_read(
        &mut self,
        link: &impl Link,
        context: &Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let left = ready!(self.poll_frame(link, context))?;
        if left == 0 {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(left as usize);
        let count = ready!(self.poll_some(link, context, &mut bytes[..wanted]))?;
        self.place = Place::Within(left - count as u32);
        // At once: the host can write the next bytes while these are looked at.
        if self.ring.release() {
            link.ring();
        }
        Poll::Ready(Ok(count))
    }

    /// Drops what is left of the request, until its end.
    pub(crate) fn poll_drain(&mut self, link: &impl Link, context: &Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match ready!(self.poll_frame(link, context)) {
                Ok(0) | Err(Error::Cancelled) => return Poll::Ready(Ok(())),
                Ok(_) => ready!(self.poll_read(link, context, &mut [0; 256]))?,
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
    }
}
