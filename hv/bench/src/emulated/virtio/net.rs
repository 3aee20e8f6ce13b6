//! A virtio net device (virtio 1.2, section 5.1) over one of hv's networks.
#![forbid(unsafe_code)]

use super::Shared;
use super::registers::Identity;
use super::view::View;
use hv_abi::io::net::{ETHERNET_HEADER, NetConfig};
use hv_core::device::net::{FIRST_DEVICE_KEY, Network};
use hv_core::event::Channel;
use hv_core::reactor::{Registrar, Source};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as net;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Key of the bell; networks use keys below [`FIRST_DEVICE_KEY`].
const BELL: u32 = u32::MAX;
/// Bytes before each frame: nothing that this device negotiates gives them a meaning.
const HEADER: usize = 12;
/// Most frames that one round takes from the guest: then other devices are served.
const BUDGET: usize = 256;
/// A link that is up, in the configuration.
const LINK_UP: u16 = net::VIRTIO_NET_S_LINK_UP as u16;

pub(super) fn identity(config: &NetConfig) -> Identity {
    // Hardware address, status, most pairs of queues, MTU.
    let mut bytes = config.mac.to_vec();
    for field in [LINK_UP, 1, config.mtu] {
        bytes.extend(field.to_le_bytes());
    }
    let features = [net::VIRTIO_NET_F_MAC, net::VIRTIO_NET_F_STATUS, net::VIRTIO_NET_F_MTU];
    Identity {
        device: VIRTIO_ID_NET,
        features: features.iter().fold(0, |bits, bit| bits | 1 << bit),
        queues: 2,
        config: bytes,
    }
}

/// A queue says that it holds something, and has nothing to give: the device stops.
struct Broken;

pub(super) struct Net {
    shared: Arc<Shared>,
    view: View,
    network: Box<dyn Network>,
    bell: EventFd,
    channel: Channel,
    /// Holds a frame of the guest while the network looks at it.
    frame: Box<[u8]>,
}

impl Net {
    pub(super) fn new(
        shared: Arc<Shared>,
        view: View,
        network: Box<dyn Network>,
        bell: EventFd,
        channel: Channel,
    ) -> Self {
        let frame = vec![0; (u32::from(network.config().mtu) + ETHERNET_HEADER) as usize].into();
        Net { shared, view, network, bell, channel, frame }
    }

    /// Passes frames of the guest on. Returns whether more may be waiting.
    fn transmit(&mut self, queue: &mut Queue, now: Instant) -> Result<bool, Broken> {
        let memory = self.view.memory();
        let _ = queue.disable_notification(memory);
        for _ in 0..BUDGET {
            let Some(chain) = next(queue, memory)? else { return Ok(false) };
            let head = chain.head_index();
            if let Ok(mut reader) = chain.reader(memory) {
                let mut header = [0; HEADER];
                let len = reader.available_bytes().saturating_sub(HEADER);
                if len >= ETHERNET_HEADER as usize
                    && len <= self.frame.len()
                    && reader.read_exact(&mut header).is_ok()
                    && reader.read_exact(&mut self.frame[..len]).is_ok()
                {
                    self.network.send(&self.frame[..len], now);
                }
            }
            queue.add_used(memory, head, 0).map_err(|_| Broken)?;
        }
        Ok(true)
    }

    /// Fills the guest's buffers with frames.
    fn receive(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        let memory = self.view.memory();
        let _ = queue.disable_notification(memory);
        let mut result = Ok(());
        let mut budget = BUDGET;
        self.network.receive(&mut |frame| {
            while budget > 0 {
                budget -= 1;
                let filled = fill(queue, memory, frame);
                match filled {
                    // The buffer was none; the next may be one.
                    Ok(Some(false)) => {}
                    Ok(Some(true)) => return true,
                    Ok(None) => return false,
                    Err(broken) => {
                        result = Err(broken);
                        return false;
                    }
                }
            }
            false
        });
        result
    }

    /// One round over both queues. Returns whether there is more to do.
    fn round(&mut self, queues: &mut [Queue], now: Instant) -> Result<bool, Broken> {
        let [receive, transmit] = queues else { return Ok(false) };
        let more = self.transmit(transmit, now)?;
        self.network.poll(now);
        self.receive(receive)?;
        // Both indices are looked at, whatever the first one says.
        let wanted = [receive, transmit].map(|queue| queue.needs_notification(self.view.memory()));
        if wanted.into_iter().any(|wanted| wanted.unwrap_or(false)) {
            self.channel.notify();
        }
        Ok(more)
    }
}

/// Puts a frame into the guest's next buffer: whether it fits, or `None` if the guest lends none now.
fn fill(queue: &mut Queue, memory: &GuestMemoryMmap, frame: &[u8]) -> Result<Option<bool>, Broken> {
    let Some(chain) = next(queue, memory)? else { return Ok(None) };
    let head = chain.head_index();
    let mut header = [0; HEADER];
    header[HEADER - 2] = 1; // One buffer for this frame.
    let filled = chain.writer(memory).is_ok_and(|mut writer| {
        writer.available_bytes() >= HEADER + frame.len()
            && writer.write_all(&header).is_ok()
            && writer.write_all(frame).is_ok()
    });
    let len = if filled { (HEADER + frame.len()) as u32 } else { 0 };
    queue.add_used(memory, head, len).map_err(|_| Broken)?;
    Ok(Some(filled))
}

/// The next chain of a queue. If there is none, the driver notifies of the next one.
fn next<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemoryMmap,
) -> Result<Option<DescriptorChain<&'a GuestMemoryMmap>>, Broken> {
    for _ in 0..2 {
        if let Some(chain) = queue.pop_descriptor_chain(memory) {
            return Ok(Some(chain));
        }
        if !queue.enable_notification(memory).map_err(|_| Broken)? {
            return Ok(None);
        }
        // One came in between.
        let _ = queue.disable_notification(memory);
    }
    Err(Broken)
}

impl Source for Net {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.bell.as_raw_fd()), BELL, Interest::READABLE)?;
        self.network.start(io.try_clone()?)
    }

    fn ready(&mut self, key: u32, event: &Event) {
        if key < FIRST_DEVICE_KEY {
            self.network.ready(key, event);
        } else {
            let _ = self.bell.read();
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let shared = self.shared.clone();
        let running = &mut *shared.lock();
        let more = self.round(&mut running.queues, now).unwrap_or_else(|Broken| {
            running.queues.clear();
            false
        });
        let deadline = self.network.poll(now);
        if more { Some(now) } else { deadline }
    }
}
