//! What a disk does on the thread that runs the guest: reads of what is in the page cache. See [`two_threads`](crate::device::two_threads).
#![forbid(unsafe_code)]

use super::BlockDevice;
use crate::device::block::engine::Completion;
use crate::device::block::request::{Plan, validate};
use crate::device::two_threads::QuickDevice;
use hv_abi::ring::Violation;
use std::os::fd::AsFd;

/// Most requests at a time that the guest's thread works on. The I/O thread works beside the guest, which is better for many.
const FEW: u32 = 4;
/// Most bytes of these: so many take some 30 µs to copy.
const FEW_BYTES: u64 = 256 << 10;

impl QuickDevice for BlockDevice {
    /// Answers what waits, if all of it needs no wait. Returns false if something is left for the I/O thread.
    fn serve_here(&mut self) -> Result<bool, Violation> {
        if !self.reads_now || self.dead || self.is_settling || self.in_flight() > 0 {
            return Ok(false);
        }
        // A second time for a request that came after the first look and rang no doorbell.
        for _ in 0..2 {
            if self.ring.requests.available()? > FEW {
                return Ok(false);
            }
            if self.take()? {
                let all = self.read_now();
                self.answer()?;
                if !all {
                    return Ok(false);
                }
            }
            if self.arm()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn broken(&mut self, violation: Violation) {
        BlockDevice::broken(self, violation);
    }

    fn settles(&mut self, settles: bool) {
        self.is_settling = settles;
    }
}

impl BlockDevice {
    /// Works on what was taken, up to the first request that has to wait. Returns whether there is none.
    fn read_now(&mut self) -> bool {
        let mut bytes = 0;
        while let Some(request) = self.taken.get(self.next) {
            let result = match validate(request, &self.config, &self.memory) {
                Ok(Plan::Read(transfer)) if bytes + transfer.buffers.len() <= FEW_BYTES => {
                    let read = transfer.buffers.read_now(self.disk.as_fd(), transfer.offset);
                    if read != Some(transfer.buffers.len()) {
                        return false;
                    }
                    bytes += transfer.buffers.len();
                    self.place.counters.went_in(1, transfer.buffers.len());
                    Ok(())
                }
                // The I/O thread validates it again: it is the same copy.
                Ok(_) => return false,
                Err(errno) => Err(errno),
            };
            self.done.push(Completion { token: request.id, result });
            self.next += 1;
        }
        true
    }
}
