//! Frames of a guest: from bytes in a ring to calls of an [`Answer`](super::Answer).

use super::{Exchange, ProtocolError};
use crate::device::{DeviceCounters, Ring};
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
    /// The head, or the trailers, so far.
    head: Vec<u8>,
    /// Bytes of the body frame that are still to come.
    body_left: u32,
    /// Taken from the ring and not yet by the answer's reader.
    piece: Vec<u8>,
    head_passed: bool,
    trailers_passed: bool,
}

/// How a step ended.
enum StepResult {
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
        place: &Ring,
        exchange: &mut Option<Exchange>,
    ) -> Result<bool, ProtocolError> {
        let mut ended = false;
        // The loop ends: at most one ring is published. If the guest publishes more meanwhile, on another
        // thread, the reader takes at most what it has room for.
        loop {
            let step = self.step(ring, &place.counters, exchange)?;
            if ring.release() {
                place.channel.notify();
            }
            match step {
                StepResult::Again => {}
                StepResult::Full => return Ok(ended),
                StepResult::Ended => ended = true,
                StepResult::Empty if ring.wait_for_entries()? => {}
                StepResult::Empty => return Ok(ended),
            }
        }
    }

    fn step(
        &mut self,
        ring: &mut Consumer<RingMemory, u8>,
        counters: &DeviceCounters,
        exchange: &mut Option<Exchange>,
    ) -> Result<StepResult, ProtocolError> {
        if !self.piece.is_empty() {
            let taken = match exchange {
                Some(exchange) => exchange.answer.body(&self.piece),
                None => self.piece.len(),
            };
            self.piece.drain(..taken.min(self.piece.len()));
            return Ok(if self.piece.is_empty() { StepResult::Again } else { StepResult::Full });
        }
        if self.body_left > 0 {
            self.piece.resize(PIECE.min(self.body_left as usize), 0);
            let count = ring.pop(&mut self.piece)?;
            self.piece.truncate(count);
            self.body_left -= count as u32;
            counters.went_out(0, count as u64);
            return Ok(if count == 0 { StepResult::Empty } else { StepResult::Again });
        }
        if self.header_read < size_of::<FrameHeader>() {
            let count = ring.pop(&mut self.header.as_mut_bytes()[self.header_read..])?;
            self.header_read += count;
            if self.header_read < size_of::<FrameHeader>() {
                return Ok(StepResult::Empty);
            }
            self.begin_frame(exchange)?;
        }
        if [FrameKind::Head as u32, FrameKind::Trailers as u32].contains(&self.header.kind) {
            let read = self.head.len();
            self.head.resize(self.header.len as usize, 0);
            let count = ring.pop(&mut self.head[read..])?;
            self.head.truncate(read + count);
            if self.head.len() < self.header.len as usize {
                return Ok(StepResult::Empty);
            }
            counters.went_out(1, self.head.len() as u64);
        }
        self.end_frame(exchange)
    }

    /// Validates a header.
    fn begin_frame(&mut self, exchange: &Option<Exchange>) -> Result<(), ProtocolError> {
        let Some(exchange) = exchange else { return Err("it answered when nobody had asked".into()) };
        if exchange.answer_ended {
            return Err("it went on after the end of its answer".into());
        }
        let Some(kind) = self.header.validate() else {
            let FrameHeader { kind, len } = self.header;
            return Err(ProtocolError::Frame(format!("there is no frame of kind {kind} with {len} bytes")));
        };
        match (kind, self.head_passed) {
            (FrameKind::Body | FrameKind::Trailers, _) if self.trailers_passed => {
                Err("its answer goes on behind its trailers".into())
            }
            (FrameKind::Head, true) => Err("its answer has two heads".into()),
            (FrameKind::Body | FrameKind::Trailers | FrameKind::End, false) => {
                Err("its answer does not begin with a head".into())
            }
            (FrameKind::Cancel, _) => Err("only the host cancels".into()),
            _ => Ok(()),
        }
    }

    /// Acts on a frame; of a body frame, the bytes are still to come.
    fn end_frame(&mut self, exchange: &mut Option<Exchange>) -> Result<StepResult, ProtocolError> {
        self.header_read = 0;
        let Some(exchange) = exchange else { return Ok(StepResult::Again) };
        match self.header.validate() {
            Some(FrameKind::Head) => {
                self.head_passed = true;
                let head = std::mem::take(&mut self.head);
                exchange.answer.head(&head).map_err(ProtocolError::Frame)?;
                Ok(StepResult::Again)
            }
            Some(FrameKind::Trailers) => {
                self.trailers_passed = true;
                let lines = std::mem::take(&mut self.head);
                exchange.answer.trailers(&lines).map_err(ProtocolError::Frame)?;
                Ok(StepResult::Again)
            }
            Some(FrameKind::Body) => {
                self.body_left = self.header.len;
                Ok(StepResult::Again)
            }
            _ => {
                self.head_passed = false;
                self.trailers_passed = false;
                exchange.answer_ended = true;
                exchange.answer.end();
                Ok(StepResult::Ended)
            }
        }
    }
}
