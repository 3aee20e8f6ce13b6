//! A virtio block device (virtio 1.2, section 5.2) over hv's own engine of a
//! disk: requests are validated and carried out as those of paravirtual disks are.
#![forbid(unsafe_code)]

use super::Shared;
use super::registers::Identity;
use super::view::View;
use hv_abi::io::block::{BlockConfig, BlockFeatures, BlockRequest, OP_FLUSH, OP_READ, OP_WRITE, Segment};
use hv_abi::{Errno, GuestAddr};
use hv_core::device::block::device::{POLL_TIME, ROUND_REQUESTS};
use hv_core::device::block::engine::{Completion, DiskEngine};
use hv_core::device::block::validate;
use hv_core::device::spin::Spin;
use hv_core::event::Channel;
use hv_core::reactor::{Registrar, Source};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of the sectors that requests count in.
const SECTOR: u64 = 512;
/// When to try again what the host could not take.
const RETRY: Duration = Duration::from_millis(1);

/// A queue that says so often that it holds a request, and gives none, is broken.
const MOST_PROMISES: u32 = 8;

const BELL: u32 = 0;
const ENGINE: u32 = 1;

pub(super) fn identity(config: &BlockConfig) -> Identity {
    let read_only = BlockFeatures::from_bits_truncate(config.features).contains(BlockFeatures::READ_ONLY);
    let capacity = config.sectors * u64::from(config.sector_size) / SECTOR;
    Identity {
        device: VIRTIO_ID_BLOCK,
        features: 1 << blk::VIRTIO_BLK_F_FLUSH | u64::from(read_only) << blk::VIRTIO_BLK_F_RO,
        queues: 1,
        config: capacity.to_le_bytes().to_vec(),
    }
}

/// Where the outcome of a request goes.
#[derive(Clone, Copy, Default)]
struct Waiting {
    status: GuestAddress,
    /// Bytes that the request writes to guest memory, without the status.
    bytes: u32,
}

pub(super) struct Block {
    shared: Arc<Shared>,
    view: View,
    engine: Box<dyn DiskEngine>,
    config: BlockConfig,
    bell: EventFd,
    channel: Channel,
    spin: Spin,
    /// By the number of the chain's first descriptor.
    waiting: Vec<Waiting>,
    done: Vec<Completion>,
}

impl Block {
    pub(super) fn new(
        shared: Arc<Shared>,
        view: View,
        engine: Box<dyn DiskEngine>,
        config: BlockConfig,
        bell: EventFd,
        channel: Channel,
        spin: Duration,
    ) -> Self {
        let waiting = vec![Waiting::default(); super::QUEUE_SIZE.into()];
        let spin = Spin::new(spin);
        Block { shared, view, engine, config, bell, channel, spin, waiting, done: Vec::new() }
    }

    /// Takes requests, at most as many as a paravirtual disk takes at a time. Returns whether there were any.
    fn take(&mut self, queue: &mut Queue, epoch: u32) -> bool {
        let mut taken = 0;
        while taken < ROUND_REQUESTS && self.engine.room() > 0 {
            let Some(chain) = queue.pop_descriptor_chain(self.view.memory()) else { break };
            taken += 1;
            let token = u64::from(epoch) << 32 | u64::from(chain.head_index());
            let Some((request, waiting)) = request(chain, &self.view) else {
                // Not even a place for the status: the driver is told that the chain is free.
                let _ = queue.add_used(self.view.memory(), token as u16, 0);
                continue;
            };
            self.waiting[usize::from(token as u16)] = waiting;
            match validate(&request, &self.config, self.view.owner()) {
                Ok(plan) => self.engine.submit(plan, token),
                Err(errno) => self.done.push(Completion { token, result: Err(errno) }),
            }
        }
        taken > 0
    }

    /// Reports completed requests to the driver, and raises its interrupt if it waits for one. Returns whether there were any.
    fn answer(&mut self, queue: &mut Queue, epoch: u32) -> bool {
        let answered = !self.done.is_empty();
        for completion in self.done.drain(..) {
            if completion.token >> 32 != u64::from(epoch) {
                continue;
            }
            let head = completion.token as u16;
            let waiting = self.waiting[usize::from(head)];
            let (status, bytes) = match completion.result {
                Ok(()) => (blk::VIRTIO_BLK_S_OK, waiting.bytes),
                Err(Errno::NotSupported) => (blk::VIRTIO_BLK_S_UNSUPP, 0),
                Err(_) => (blk::VIRTIO_BLK_S_IOERR, 0),
            };
            let memory = self.view.memory();
            // Both were in memory when they were taken over; the memory does not shrink.
            let _ = memory.write_obj(status as u8, waiting.status);
            let _ = queue.add_used(memory, head, bytes + 1);
        }
        if answered && queue.needs_notification(self.view.memory()).unwrap_or(false) {
            self.channel.notify();
        }
        answered
    }

    fn serve(&mut self, now: Instant) -> Option<Instant> {
        let shared = self.shared.clone();
        let running = &mut *shared.lock();
        let epoch = running.epoch;
        let Some(queue) = running.queues.first_mut() else {
            // The driver has reset the device: requests under way end without an answer.
            self.engine.complete(&mut self.done);
            self.done.clear();
            return None;
        };
        // How often the queue has said since it gave something that it holds more.
        let (mut worked, mut promises) = (false, 0);
        loop {
            self.engine.complete(&mut self.done);
            let taken = self.take(queue, epoch);
            let kicked = self.engine.kick();
            self.engine.complete(&mut self.done);
            let answered = self.answer(queue, epoch);
            if !kicked {
                return Some(Instant::now() + RETRY);
            }
            let mut time = Instant::now();
            if taken || answered {
                if !std::mem::replace(&mut worked, true) {
                    self.spin.works(now);
                    let _ = queue.disable_notification(self.view.memory());
                }
                if time.duration_since(now) >= POLL_TIME {
                    return Some(time);
                }
                promises = 0;
                continue;
            }
            if worked && self.look(queue, &mut time) {
                promises += 1;
            } else if self.engine.room() == 0
                || !queue.enable_notification(self.view.memory()).unwrap_or(false)
            {
                if worked {
                    self.spin.sleeps(time);
                }
                return None;
            } else {
                promises += 1;
                let _ = queue.disable_notification(self.view.memory());
            }
            if promises > MOST_PROMISES {
                // It is broken.
                running.queues.clear();
                return None;
            }
        }
    }

    /// Polls for further work for a limited time, as the device of a paravirtual disk does.
    fn look(&mut self, queue: &Queue, time: &mut Instant) -> bool {
        let until = *time + self.spin.limit();
        while *time < until {
            for _ in 0..8 {
                let index = queue.avail_idx(self.view.memory(), Ordering::Acquire);
                let waits = index.is_ok_and(|index| index.0 != queue.next_avail());
                if self.engine.has_news() || waits && self.engine.room() > 0 {
                    return true;
                }
                std::hint::spin_loop();
            }
            *time = Instant::now();
        }
        false
    }
}

/// The request of a chain: a header, data, and a byte for the status.
fn request(chain: DescriptorChain<&GuestMemoryMmap>, view: &View) -> Option<(BlockRequest, Waiting)> {
    let base = view.owner().base().0;
    let mut header = [0; 16];
    let mut request = BlockRequest::default();
    let mut waiting = Waiting::default();
    let mut last = None;
    for (n, descriptor) in chain.enumerate() {
        if n == 0 {
            view.memory().read_slice(&mut header, descriptor.addr()).ok()?;
            continue;
        }
        // The one before was data, since this one follows.
        if let Some(data) = last.replace(descriptor) {
            let segment = request.segments.get_mut(usize::from(request.segment_count))?;
            request.segment_count += 1;
            *segment = Segment {
                address: GuestAddr(base.checked_add(data.addr().0)?),
                len: data.len(),
                reserved: 0,
            };
            waiting.bytes = waiting.bytes.checked_add(if data.is_write_only() { data.len() } else { 0 })?;
        }
    }
    let status = last.filter(|status| status.is_write_only() && status.len() >= 1)?;
    waiting.status = status.addr();
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    request.op = match word(0) {
        blk::VIRTIO_BLK_T_IN => OP_READ,
        blk::VIRTIO_BLK_T_OUT => OP_WRITE,
        blk::VIRTIO_BLK_T_FLUSH => OP_FLUSH,
        _ => u8::MAX,
    };
    request.sector = u64::from(word(8)) | u64::from(word(12)) << 32;
    Some((request, waiting))
}

impl Source for Block {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.bell.as_raw_fd()), BELL, Interest::READABLE)?;
        io.register(&mut SourceFd(&self.engine.as_raw_fd()), ENGINE, Interest::READABLE)
    }

    fn ready(&mut self, key: u32, _: &Event) {
        match key {
            BELL => drop(self.bell.read()),
            _ => self.engine.acknowledge(),
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.serve(now)
    }
}
