//! What distinguishes a clone from its siblings.

use super::Offsets;
use crate::event::Hub;
use crate::memory::GuestMemory;
use hv_abi::event::GENERATION;
use hv_abi::shared_info::{Clock, SharedInfo};
use hv_host::clock;
use std::io;
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// A generation id and the seed that goes with it.
pub(crate) struct Identity {
    bytes: [u8; GENERATION_SIZE + SEED_SIZE],
}

const GENERATION_SIZE: usize = 16;
const SEED_SIZE: usize = 32;
const OFFSET: usize = offset_of!(SharedInfo, generation);
const _: () = assert!(offset_of!(SharedInfo, seed) == OFFSET + GENERATION_SIZE);

impl Identity {
    /// An identity that no other guest has.
    pub(crate) fn fresh() -> io::Result<Self> {
        let mut bytes = [0; GENERATION_SIZE + SEED_SIZE];
        crate::hypercall::random(&mut bytes)?;
        Ok(Identity { bytes })
    }

    /// Writes it to a guest that does not run yet. The guest's clock resumes from `time` (nanoseconds since the guest's
    /// start), and its wall clock is set to the host's.
    pub(crate) fn give(
        &self,
        memory: &GuestMemory,
        places: &Offsets,
        hub: &Hub,
        khz: u32,
        time: u64,
    ) -> Clock {
        let clock = clock::resume(khz, time);
        let at = |offset: usize| places.shared_info + offset as u64;
        memory.host_write(at(offset_of!(SharedInfo, clock)), clock.as_bytes());
        memory.host_write(at(OFFSET), &self.bytes);
        hub.post(GENERATION);
        clock
    }
}
