//! The two ends of a ring.

use super::{Consumer, Layout, Producer, SharedMemory, Violation};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The guest's end: produces requests, consumes responses.
#[derive(Debug)]
pub struct Front<M, Req, Rsp> {
    /// The request queue.
    pub requests: Producer<M, Req>,
    /// The response queue.
    pub responses: Consumer<M, Rsp>,
}

/// The host's end: consumes requests, produces responses.
#[derive(Debug)]
pub struct Back<M, Req, Rsp> {
    /// The request queue.
    pub requests: Consumer<M, Req>,
    /// The response queue.
    pub responses: Producer<M, Rsp>,
}

impl<M, Req, Rsp> Front<M, Req, Rsp>
where
    M: SharedMemory + Clone,
    Req: IntoBytes + Immutable,
    Rsp: FromBytes + IntoBytes,
{
    /// The front end of a ring whose memory is all zero.
    pub fn new(memory: M, layout: &Layout) -> Self {
        Front {
            requests: Producer::new(memory.clone(), layout.request_queue()),
            responses: Consumer::new(memory, layout.response_queue()),
        }
    }

    /// The front end of a ring that was in use, with nothing in flight.
    pub fn resume(memory: M, layout: &Layout) -> Result<Self, Violation> {
        Ok(Front {
            requests: Producer::resume(memory.clone(), layout.request_queue())?,
            responses: Consumer::resume(memory, layout.response_queue())?,
        })
    }
}

impl<M, Req, Rsp> Back<M, Req, Rsp>
where
    M: SharedMemory + Clone,
    Req: FromBytes + IntoBytes,
    Rsp: IntoBytes + Immutable,
{
    /// The back end of a ring whose memory is all zero.
    pub fn new(memory: M, layout: &Layout) -> Self {
        Back {
            requests: Consumer::new(memory.clone(), layout.request_queue()),
            responses: Producer::new(memory, layout.response_queue()),
        }
    }

    /// The back end of a ring that was in use, with nothing in flight.
    pub fn resume(memory: M, layout: &Layout) -> Result<Self, Violation> {
        Ok(Back {
            requests: Consumer::resume(memory.clone(), layout.request_queue())?,
            responses: Producer::resume(memory, layout.response_queue())?,
        })
    }
}
