//! The host's end of the ring of a services device.

use super::{HEADER, ProtocolError};
use crate::device::Ring;
use crate::memory::RingMemory;
use hv_abi::io::services::FrameHeader;
use hv_abi::ring::{Back, Violation};
use std::collections::VecDeque;
use zerocopy::IntoBytes;

/// While so many bytes wait for room, nothing is taken from the guest.
const OUTBOX: usize = 4 << 10;

pub(super) struct ServicesRing {
    pub(super) back: Back<RingMemory, u8, u8>,
    pub(super) ring: Ring,
    /// The frame of the guest that has come in part: its header, then its bytes.
    pub(super) incoming: Vec<u8>,
    /// What goes into the ring before anything else, as soon as there is room: answers, ends and credit.
    outbox: VecDeque<u8>,
}

impl ServicesRing {
    pub(super) fn new(ring: Ring) -> Result<Self, Violation> {
        let mut back = ring.back()?;
        // A restored guest may have published something: the first look at the ring finds it.
        let _ = back.requests.wait_for_entries()?;
        Ok(ServicesRing { back, ring, incoming: Vec::new(), outbox: VecDeque::new() })
    }

    /// The ring, whose memory was reset.
    pub(super) fn into_ring(self) -> Ring {
        Ring { fresh: false, ..self.ring }
    }

    /// Drops what the guest does not get any more.
    pub(super) fn forget(&mut self) {
        self.outbox.clear();
    }

    /// Ends the guest.
    pub(super) fn terminate(self, reason: String) {
        self.ring.channel.terminate(reason);
    }

    /// Puts a short frame behind what waits for room.
    pub(super) fn queue(&mut self, header: FrameHeader, bytes: &[u8]) {
        self.outbox.extend(header.as_bytes());
        self.outbox.extend(bytes);
    }

    /// Whether the guest has to take something before more is taken from it.
    pub(super) fn is_congested(&self) -> bool {
        self.outbox.len() > OUTBOX
    }

    /// Puts into the ring what waits for room. Returns whether all of it is there.
    pub(super) fn flush(&mut self) -> Result<bool, ProtocolError> {
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

    /// Bytes of data for which there is room, at least one; if there is none, the guest rings once there is.
    pub(super) fn room_for_data(&mut self) -> Result<Option<u32>, ProtocolError> {
        if !self.flush()? {
            return Ok(None);
        }
        let mut room = self.back.responses.room()?;
        if room <= HEADER && self.back.responses.wait_for_room(HEADER + 1)? {
            room = self.back.responses.room()?;
        }
        Ok(room.checked_sub(HEADER).filter(|room| *room > 0))
    }

    /// Puts a frame into the ring, for which there is room.
    pub(super) fn push(&mut self, header: FrameHeader, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.back.responses.push(header.as_bytes())?;
        self.back.responses.push(bytes)?;
        self.ring.counters.went_in(0, bytes.len() as u64);
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        if self.back.responses.publish() {
            self.ring.channel.notify();
        }
    }
}
