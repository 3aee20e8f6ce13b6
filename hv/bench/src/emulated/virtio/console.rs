//! A virtio console (virtio 1.2, section 5.3) with one port, which only sends: the receive queue is never filled.
#![forbid(unsafe_code)]

use super::Shared;
use super::registers::Identity;
use super::view::View;
use hv_core::device::console::Output;
use hv_core::event::Channel;
use hv_core::reactor::{Registrar, Source};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// Number of the queue that the guest sends by.
const TRANSMIT: usize = 1;
/// Bytes that are moved at once: as many as by the paravirtual console.
const CHUNK: usize = 4096;
/// Most buffers that one round takes: then other devices are served.
const BUDGET: usize = 32;

pub(super) fn identity() -> Identity {
    // Neither a size nor further ports.
    Identity { device: VIRTIO_ID_CONSOLE, features: 0, queues: 2, config: Vec::new() }
}

pub(super) struct Console {
    shared: Arc<Shared>,
    view: View,
    output: Box<dyn Output>,
    bell: EventFd,
    channel: Channel,
    chunk: Box<[u8]>,
}

impl Console {
    pub(super) fn new(
        shared: Arc<Shared>,
        view: View,
        output: Box<dyn Output>,
        bell: EventFd,
        channel: Channel,
    ) -> Self {
        Console { shared, view, output, bell, channel, chunk: vec![0; CHUNK].into() }
    }

    /// Writes a buffer of the guest to the output. Returns whether there was one.
    fn buffer(&mut self, queue: &mut Queue) -> bool {
        let memory = self.view.memory();
        let Some(chain) = queue.pop_descriptor_chain(memory) else { return false };
        let head = chain.head_index();
        if let Ok(mut reader) = chain.reader(memory) {
            loop {
                let bytes = reader.available_bytes().min(CHUNK);
                let chunk = &mut self.chunk[..bytes];
                // What its reader does not take is lost, as on a wire.
                if bytes == 0 || reader.read_exact(chunk).is_err() || self.output.write(chunk).is_err() {
                    break;
                }
            }
        }
        queue.add_used(memory, head, 0).is_ok()
    }
}

impl Source for Console {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.bell.as_raw_fd()), 0, Interest::READABLE)
    }

    fn ready(&mut self, _: u32, _: &Event) {
        let _ = self.bell.read();
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let shared = self.shared.clone();
        let running = &mut *shared.lock();
        let queue = running.queues.get_mut(TRANSMIT)?;
        let mut armed = false;
        for _ in 0..BUDGET {
            if self.buffer(queue) {
                armed = false;
                if queue.needs_notification(self.view.memory()).unwrap_or(false) {
                    self.channel.notify();
                }
            } else if std::mem::replace(&mut armed, true)
                || !queue.enable_notification(self.view.memory()).unwrap_or(false)
            {
                // Nothing is left, or the queue says so and has nothing to give: then it is broken, and the driver's next ring comes in vain.
                return None;
            }
        }
        Some(now)
    }
}
