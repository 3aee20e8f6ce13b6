//! The net device's back end, with a network that sends back what it gets, and a capture.

use crate::rig::{self, BASE, Front, Room};
use crate::{Input, Seed};
use hv::device::net::{Capture, NetDevice, Network};
use hv::reactor::{Registrar, Source};
use hv_abi::GuestAddr;
use hv_abi::io::net::{NetConfig, NetFeatures, NetRequest, NetResponse};
use hv_abi::ring::Layout;
use std::collections::VecDeque;
use std::io;
use std::time::Instant;
use zerocopy::IntoBytes;

const ENTRIES: u32 = 64;
const MTU: u16 = 2000;

/// Sends back what it gets.
#[derive(Default)]
pub(crate) struct Mirror {
    waiting: VecDeque<Vec<u8>>,
}

impl Network for Mirror {
    fn config(&self) -> NetConfig {
        NetConfig { mtu: MTU, features: NetFeatures::CHECKSUM_FREE.bits(), ..NetConfig::default() }
    }
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }
    fn send(&mut self, frame: &[u8], _: Instant) {
        assert!((14..=usize::from(MTU) + 14).contains(&frame.len()), "{}", frame.len());
        if self.waiting.len() < 64 {
            self.waiting.push_back(frame.to_vec());
        }
    }
    fn ready(&mut self, _: u32, _: &mio::event::Event) {}
    fn poll(&mut self, _: Instant) -> Option<Instant> {
        None
    }
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) {
        while let Some(frame) = self.waiting.front() {
            if !deliver(frame) {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let room = Room::new();
    let layout = Layout::new::<NetRequest, NetResponse>(ENTRIES, ENTRIES).expect("a layout");
    let mut fronts = [0, 1].map(|index| Front::new(&room, index, layout, size_of::<NetRequest>(), ENTRIES));
    let fresh = !input.byte().is_multiple_of(4);
    if !fresh {
        fronts[0].spoil(&mut input);
        fronts[1].spoil(&mut input);
    }
    let [transmit, receive] = [0, 1].map(|index: usize| (fronts[index].host_end(fresh), Room::doorbell()));
    let capture = Capture::new(Box::new(io::sink())).expect("nothing refuses");
    let Ok(mut device) = NetDevice::new(0, transmit, receive, Box::<Mirror>::default(), Some(capture)) else {
        return;
    };
    while input.more() {
        let which = input.byte();
        let front = &mut fronts[usize::from(which >> 7)];
        let which = which % 8;
        if rig::step(which, &room, front, &mut input) {
            continue;
        }
        match which {
            4 => drop(device.poll(Instant::now())),
            5 => front.push(&room, input.bytes()),
            6 => {
                // A frame where there is room for it.
                let (at, frame) = (u64::from(input.half()), input.bytes());
                room.write(at, frame);
                let request = NetRequest { address: GuestAddr(BASE + at), len: frame.len() as u32, id: 1 };
                front.push(&room, request.as_bytes());
            }
            _ => {
                let address = rig::address(&mut input);
                let len = if input.byte() & 1 == 0 { input.half().into() } else { input.word() };
                front.push(&room, NetRequest { address, len, id: input.word() }.as_bytes());
            }
        }
    }
    device.poll(Instant::now());
    assert_eq!(device.is_dead(), room.is_terminated());
    room.check();
}

/// Frames out and in.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for frame in crate::usernet::frames() {
        let mut seed = Seed::default().byte(1).byte(0x80 | 7).byte(0).half(0x8000).byte(0).half(2014).word(9);
        for _ in 0..2 {
            seed = seed.byte(6).half(0x6000).bytes(&frame).byte(4);
        }
        seeds.push(seed.byte(2).byte(0x82).byte(4).done());
    }
    seeds
}
