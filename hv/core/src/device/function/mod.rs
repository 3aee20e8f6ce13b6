//! The function device: passes one request after the other to a guest, and its answers back.
//!
//! The guest's own thread drives it at the guest's doorbells, and so does every thread that sends bytes to
//! it. It needs no descriptor and no I/O thread, so that a request costs one exit. Frames are in
//! [`hv_abi::io::function`].
//!
//! Only two things are buffered: a head that waits for room, and one piece of an answer that its reader had
//! no room for. A request's body goes into the ring or stays with its sender.

mod answer;
mod back_end;
#[cfg(feature = "fuzzing")]
pub mod door;
mod failure;
mod receive;

pub use answer::{Answer, Unanswered};
pub(crate) use back_end::KIND;
pub use failure::Failure;

use super::{Ring, Served};
use crate::memory::RingMemory;
use hv_abi::io::function::{BODY_MAX, FrameHeader, FrameKind, HEAD_MAX};
use hv_abi::ring::{Back, Violation};
use receive::Receiver;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use zerocopy::IntoBytes;

/// Bytes of an empty frame.
const HEADER: u32 = size_of::<FrameHeader>() as u32;

/// The back end of one guest's function device.
#[derive(Default)]
pub struct FunctionDevice {
    state: Mutex<FunctionState>,
}

#[derive(Default)]
struct FunctionState {
    end: Option<FunctionRing>,
    exchange: Option<Exchange>,
    /// Number of exchanges so far, which is the number of the last one.
    exchanges: u64,
}

/// The host's end of the device's ring.
struct FunctionRing {
    back: Back<RingMemory, u8, u8>,
    ring: Ring,
    receiver: Receiver,
    /// What goes into the ring before anything else, as soon as there is room: at
    /// most the end of one request and the head of the next.
    outbox: VecDeque<u8>,
}

/// A request under way.
struct Exchange {
    answer: Box<dyn Answer>,
    request_ended: bool,
    answer_ended: bool,
    /// The sender was told that there is no room.
    writer_waits: bool,
}

/// The guest broke the protocol.
#[derive(Debug, thiserror::Error)]
enum ProtocolError {
    #[error(transparent)]
    Ring(#[from] Violation),
    #[error("{0}")]
    Frame(String),
}

impl From<&str> for ProtocolError {
    fn from(reason: &str) -> Self {
        ProtocolError::Frame(reason.into())
    }
}

impl FunctionDevice {
    /// A device that no guest has yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, FunctionState> {
        self.state.lock().expect("no panic while held")
    }

    /// Connects the device to a guest's ring: a fresh one, or one that was saved.
    pub(crate) fn connect(&self, ring: Ring) -> Result<(), Violation> {
        let mut back = ring.back()?;
        // A restored guest may have published something: the first look at the ring finds it.
        let _ = back.requests.wait_for_entries()?;
        let (receiver, outbox) = (Receiver::default(), VecDeque::new());
        self.state().end = Some(FunctionRing { back, ring, receiver, outbox });
        Ok(())
    }

    /// Takes the device back to where its ring's memory is, after that was reset.
    pub(crate) fn reset(&self) -> Result<(), Violation> {
        let Some(FunctionRing { ring, .. }) = self.state().end.take() else { return Ok(()) };
        self.connect(Ring { fresh: false, ..ring })
    }

    /// Whether the answer of this exchange is still to come.
    pub fn is_busy_with(&self, number: u64) -> bool {
        let state = self.state();
        state.exchange.as_ref().is_some_and(|exchange| !exchange.answer_ended) && state.exchanges == number
    }

    /// Begins a request with this head, of 1 to [`HEAD_MAX`] bytes. Panics if one is under way.
    /// Returns the number of the exchange.
    pub fn begin(&self, head: &[u8], answer: Box<dyn Answer>) -> u64 {
        assert!(!head.is_empty() && head.len() <= HEAD_MAX as usize);
        let frame = FrameHeader::new(FrameKind::Head, head.len() as u32);
        let state = &mut *self.state();
        assert!(state.exchange.is_none(), "one request at a time");
        state.exchanges += 1;
        state.exchange =
            Some(Exchange { answer, request_ended: false, answer_ended: false, writer_waits: false });
        state.guarded(|end, _| {
            end.ring.counters.went_in(1, head.len() as u64);
            end.outbox.extend(frame.as_bytes());
            end.outbox.extend(head);
            end.flush().map(drop)
        });
        state.exchanges
    }

    /// Sends some of the request's body, and returns how many bytes were taken.
    /// When it is fewer, [`Answer::writable`] says when to go on. Of an exchange
    /// that is over, everything is taken.
    pub fn send(&self, number: u64, body: &[u8]) -> usize {
        let mut sent = body.len();
        self.state().of(number, |end, exchange| {
            sent = 0;
            while sent < body.len() {
                let Some(exchange) = exchange else { break };
                if exchange.request_ended || exchange.answer_ended {
                    break;
                }
                let room = if end.flush()? { end.back.responses.room()? } else { 0 };
                if room <= HEADER {
                    if end.back.responses.wait_for_room(HEADER + 1)? && end.outbox.is_empty() {
                        continue;
                    }
                    exchange.writer_waits = true;
                    return Ok(());
                }
                let count = (body.len() - sent).min((room - HEADER).min(BODY_MAX) as usize);
                let frame = FrameHeader::new(FrameKind::Body, count as u32);
                end.back.responses.push(frame.as_bytes())?;
                end.back.responses.push(&body[sent..sent + count])?;
                end.ring.counters.went_in(0, count as u64);
                end.publish();
                sent += count;
            }
            // The rest is dropped.
            sent = body.len();
            Ok(())
        });
        sent
    }

    /// Ends the request: completely, or because the requester has gone away.
    pub fn finish(&self, number: u64, complete: bool) {
        self.state().of(number, |end, exchange| match exchange {
            Some(exchange) => end.end_request(exchange, complete),
            None => Ok(()),
        });
    }

    /// Takes what the guest has published: at its doorbell, or when the
    /// answer's reader has room again.
    pub fn ring(&self) -> Served {
        let mut served = Served::Running;
        self.state().guarded(|end, exchange| {
            let ended = end.receiver.receive(&mut end.back.requests, &end.ring, exchange)?;
            if let Some(exchange) = exchange {
                exchange.answer.flush();
            }
            if ended {
                served = Served::Answered;
                if let Some(exchange) = exchange {
                    // The rest of the request is not needed any more.
                    end.end_request(exchange, false)?;
                }
            }
            let flushed = end.flush()?;
            if let Some(exchange) = exchange
                && exchange.writer_waits
                && (exchange.answer_ended || flushed && end.back.responses.room()? > HEADER)
            {
                exchange.writer_waits = false;
                exchange.answer.writable();
            }
            Ok(())
        });
        served
    }

    /// Takes the exchange off the device, and returns its answer.
    pub fn take(&self) -> Option<Unanswered> {
        let exchange = self.state().exchange.take()?;
        Some(Unanswered { answer: exchange.answer, ended: exchange.answer_ended })
    }
}

impl FunctionState {
    /// Works on the exchange of this number, unless it is over.
    fn of(
        &mut self,
        number: u64,
        work: impl FnOnce(&mut FunctionRing, &mut Option<Exchange>) -> Result<(), ProtocolError>,
    ) {
        if self.exchange.is_some() && self.exchanges == number {
            self.guarded(work);
        }
    }

    /// Works on a live ring, and ends a guest that breaks the protocol.
    fn guarded(
        &mut self,
        work: impl FnOnce(&mut FunctionRing, &mut Option<Exchange>) -> Result<(), ProtocolError>,
    ) {
        let Some(end) = &mut self.end else { return };
        if let Err(error) = work(end, &mut self.exchange) {
            let channel = end.ring.channel.clone();
            self.end = None;
            channel.terminate(format!("function device: {error}"));
        }
    }
}

impl FunctionRing {
    fn publish(&mut self) {
        if self.back.responses.publish() {
            self.ring.channel.notify();
        }
    }

    fn end_request(&mut self, exchange: &mut Exchange, complete: bool) -> Result<(), ProtocolError> {
        if !std::mem::replace(&mut exchange.request_ended, true) {
            let kind = if complete { FrameKind::End } else { FrameKind::Cancel };
            self.outbox.extend(FrameHeader::new(kind, 0).as_bytes());
            self.flush()?;
        }
        Ok(())
    }

    /// Puts into the ring what waits for room. Returns whether all of it is there.
    fn flush(&mut self) -> Result<bool, ProtocolError> {
        while !self.outbox.is_empty() {
            let count = self.back.responses.push(self.outbox.as_slices().0)?;
            self.outbox.drain(..count);
            self.publish();
            if count == 0 && !self.back.responses.wait_for_room(1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
