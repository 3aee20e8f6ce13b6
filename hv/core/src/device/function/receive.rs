//! Frames of a guest: from bytes in a ring to calls of an [`Answer`](super::Answer).

use super::{Breach, Exchange};
use crate::event::Channel;
use crate::memory::RingMemory;
use hv_abi::io::function::{FrameHeader, FrameKind};
use hv_abi::ring::Consumer;
use zerocopy::IntoBytes;

/// Bytes of a body that are passed on at once.
const PIECE: usize = 4096;

/// How far the guest's stream of frames has been read.
#[derive(Default)]
pub(super) struct Receiver {
    header: FrameHeader,
    /// Bytes of the header that were read.
    header_read: usize,
    /// The head so far.
    head: Vec<u8>,
    /// Bytes of the body frame that are still to come.
    body_left: u32,
    /// Taken from the ring and not yet by the answer's reader.
    piece: Vec<u8>,
    head_passed: bool,
}

/// How a step ended.
enum Step {
    Again,
    /// Nothing more is published.
    Empty,
    /// The reader has no room.
    Full,
    /// The answer is complete.
    Ended,
}

impl Receiver {
    /// Passes on what the guest has published, as far as the reader takes it.
    /// Returns true when the answer was completed.
    pub(super) fn receive(
        &mut self,
        ring: &mut Consumer<RingMemory, u8>,
        channel: &Channel,
        exchange: &mut Option<Exchange>,
    ) -> Result<bool, Breach> {
        let mut ended = false;
        // It ends: what is published is at most a ring, and while the guest goes on
        // publishing meanwhile, on another thread, its reader takes at most what it has room for.
        loop {
            let step = self.step(ring, exchange)?;
            if ring.release() {
                channel.notify();
            }
            match step {
                Step::Again => {}
                Step::Full => return Ok(ended),
                Step::Ended => ended = true,
                Step::Empty if ring.wait_for_entries()? => {}
                Step::Empty => return Ok(ended),
            }
        }
    }

    fn step(
        &mut self,
        ring: &mut Consumer<RingMemory, u8>,
        exchange: &mut Option<Exchange>,
    ) -> Result<Step, Breach> {
        if !self.piece.is_empty() {
            let taken = match exchange {
                Some(exchange) => exchange.answer.body(&self.piece),
                None => self.piece.len(),
            };
            self.piece.drain(..taken.min(self.piece.len()));
            return Ok(if self.piece.is_empty() { Step::Again } else { Step::Full });
        }
        if self.body_left > 0 {
            self.piece.resize(PIECE.min(self.body_left as usize), 0);
            let count = ring.pop(&mut self.piece)?;
            self.piece.truncate(count);
            self.body_left -= count as u32;
            return Ok(if count == 0 { Step::Empty } else { Step::Again });
        }
        if self.header_read < size_of::<FrameHeader>() {
            let count = ring.pop(&mut self.header.as_mut_bytes()[self.header_read..])?;
            self.header_read += count;
            if self.header_read < size_of::<FrameHeader>() {
                return Ok(Step::Empty);
            }
            self.begin_frame(exchange)?;
        }
        if self.header.kind == FrameKind::Head as u32 {
            let read = self.head.len();
            self.head.resize(self.header.len as usize, 0);
            let count = ring.pop(&mut self.head[read..])?;
            self.head.truncate(read + count);
            if self.head.len() < self.header.len as usize {
                return Ok(Step::Empty);
            }
        }
        self.end_frame(exchange)
    }

    /// Validates a header.
    fn begin_frame(&mut self, exchange: &Option<Exchange>) -> Result<(), Breach> {
        let Some(exchange) = exchange else { return Err("it answered when nobody had asked".into()) };
        if exchange.answer_ended {
            return Err("it went on after the end of its answer".into());
        }
        let Some(kind) = self.header.validate() else {
            let FrameHeader { kind, len } = self.header;
            return Err(Breach::Frame(format!("there is no frame of kind {kind} with {len} bytes")));
        };
        match (kind, self.head_passed) {
            (FrameKind::Head, true) => Err("its answer has two heads".into()),
            (FrameKind::Body | FrameKind::End, false) => Err("its answer does not begin with a head".into()),
            (FrameKind::Cancel, _) => Err("only the host cancels".into()),
            _ => Ok(()),
        }
    }

    /// Acts on a frame; of a body frame, the bytes are still to come.
    fn end_frame(&mut self, exchange: &mut Option<Exchange>) -> Result<Step, Breach> {
        self.header_read = 0;
        let Some(exchange) = exchange else { return Ok(Step::Again) };
        match self.header.validate() {
            Some(FrameKind::Head) => {
                self.head_passed = true;
                let head = std::mem::take(&mut self.head);
                exchange.answer.head(&head).map_err(Breach::Frame)?;
                Ok(Step::Again)
            }
            Some(FrameKind::Body) => {
                self.body_left = self.header.len;
                Ok(Step::Again)
            }
            _ => {
                self.head_passed = false;
                exchange.answer_ended = true;
                exchange.answer.end();
                Ok(Step::Ended)
            }
        }
    }
}
