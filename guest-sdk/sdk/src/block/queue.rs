//! The ring of a disk.

use crate::requests::{self, Request, Response};
use alloc::boxed::Box;
use core::task::Waker;
use hv_abi::device::DeviceInfo;
use hv_abi::io::block::{BlockConfig, BlockRequest, BlockResponse, INLINE_SEGMENTS, Segment};
use hv_abi::{Errno, GuestAddr};

impl Request for BlockRequest {
    type Response = BlockResponse;
    /// The segment list.
    type Kept = Box<[Segment]>;

    fn set_id(&mut self, id: u64) {
        self.id = id;
    }
}

impl Response for BlockResponse {
    fn id(&self) -> u64 {
        self.id
    }

    fn status(&self) -> i32 {
        self.status
    }
}

/// The front end of one block device.
#[derive(Debug)]
pub(super) struct RequestQueue {
    config: BlockConfig,
    requests: requests::RequestQueue<BlockRequest>,
}

impl RequestQueue {
    /// `None` if the host's description of the device is invalid.
    pub(super) fn new(info: &DeviceInfo, config: BlockConfig) -> Option<RequestQueue> {
        if config.sector_size == 0 || config.max_transfer < config.sector_size || config.max_segments == 0 {
            return None;
        }
        Some(RequestQueue { config, requests: requests::RequestQueue::new(&info.rings[0])? })
    }

    /// Collects responses from now on.
    pub(super) fn listen(&'static self) {
        self.requests.listen();
    }

    pub(super) fn config(&self) -> &BlockConfig {
        &self.config
    }

    pub(super) fn depth(&self) -> usize {
        self.requests.depth()
    }

    /// Hands a request to the host, with an id that is filled in. `None` if too many are in flight. Then the waker
    /// is woken when a retry can succeed.
    pub(super) fn submit(
        &self,
        mut request: BlockRequest,
        list: &[Segment],
        waker: Option<&Waker>,
    ) -> Result<Option<u16>, Errno> {
        request.segment_count = list.len() as u16;
        let mut kept: Option<Box<[Segment]>> = None;
        if list.len() <= INLINE_SEGMENTS {
            request.segments[..list.len()].copy_from_slice(list);
        } else {
            let list: &[Segment] = kept.insert(list.into());
            let address = GuestAddr(list.as_ptr().expose_provenance() as u64);
            request.segments[0] = Segment { address, len: size_of_val(list) as u32, reserved: 0 };
        }
        self.requests.submit(request, &mut kept, waker)
    }

    /// The outcome of a request, if it has come. The slot is free afterwards. Otherwise the waker is woken when it comes.
    pub(super) fn finish(&self, id: u16, waker: Option<&Waker>) -> Option<Result<(), Errno>> {
        self.requests.finish(id, waker).map(|outcome| outcome.map(drop))
    }

    /// Takes the responses that have arrived, and wakes those that wait for them.
    pub(super) fn collect(&self) {
        self.requests.collect();
    }

    /// Waits for something to happen on this ring, without an executor.
    pub(super) fn wait(&self) {
        self.requests.wait();
    }
}
