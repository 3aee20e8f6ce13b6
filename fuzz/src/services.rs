//! The services device: frames of a guest's calls, and a host that answers some of them.

use crate::rig::{self, Front, Room};
use crate::{Input, Seed};
use hv::device::services::{Call, Provider, ServicesDevice};
use hv_abi::io::services::{Answer, CALLS_MAX, FrameHeader, Parameters, Status};
use hv_abi::ring::Layout;
use hv_core::fuzzing::services as door;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use zerocopy::IntoBytes;

const ENTRIES: u32 = 2048;

/// Keeps the calls until the input says what becomes of them.
#[derive(Default)]
struct Keeper {
    calls: Mutex<Vec<Call>>,
    later: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Provider for Keeper {
    fn begin(&self, call: Call) {
        let mut calls = self.calls.lock().unwrap();
        calls.push(call);
        assert!(calls.len() <= CALLS_MAX, "more calls than a guest may have");
    }

    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        self.later.lock().unwrap().push(work);
    }
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let room = Room::new();
    let layout = Layout::new::<u8, u8>(ENTRIES, ENTRIES).expect("a layout");
    let mut front = Front::new(&room, 0, layout, 1, ENTRIES);
    let fresh = !input.byte().is_multiple_of(4);
    if !fresh {
        front.spoil(&mut input);
    }
    let keeper = Arc::new(Keeper::default());
    let device = ServicesDevice::new(Some(keeper.clone()));
    if door::connect(&device, front.host_end(fresh)).is_err() {
        return;
    }
    if !input.byte().is_multiple_of(8) {
        device.begin_request();
    }
    let context = Context::from_waker(Waker::noop());
    while input.more() {
        let which = input.byte() % 16;
        if rig::step(which, &room, &mut front, &mut input) {
            continue;
        }
        match which {
            4 => front.push(&room, input.bytes()),
            5 => {
                let (kind, code, call) = (input.byte() % 8, input.byte() % 13, input.byte() % 4);
                let (value, body) = (u32::from(input.byte()) << (input.byte() % 32), input.bytes());
                let header = FrameHeader {
                    kind: kind.into(),
                    code: code.into(),
                    call: call.into(),
                    len: body.len() as u32,
                    value,
                };
                front.push(&room, header.as_bytes());
                front.push(&room, body);
            }
            6 => {
                let (code, call, name) = (input.byte() % 13, input.byte() % 4, input.bytes());
                let parameters = Parameters { name_len: name.len() as u16, ..Parameters::default() };
                let len = (size_of::<Parameters>() + name.len()) as u32;
                let header = FrameHeader { kind: 1, code: code.into(), call: call.into(), len, value: 100 };
                front.push(&room, header.as_bytes());
                front.push(&room, parameters.as_bytes());
                front.push(&room, name);
            }
            7 => device.begin_request(),
            8 => device.close(),
            9 => {
                if let Some(call) = keeper.calls.lock().unwrap().last() {
                    if let Poll::Ready(Ok(Some(frame))) = call.poll_data(&context) {
                        assert!(frame.len() <= hv_abi::io::services::DATA_MAX as usize);
                    }
                    let _ = call.poll_closed(&context);
                }
            }
            10 => {
                let bytes = input.bytes();
                if let Some(call) = keeper.calls.lock().unwrap().last() {
                    call.answer(Answer::default());
                    if !bytes.is_empty() {
                        let _ = call.poll_send(&context, bytes);
                    }
                    let _ = call.send_datagram(bytes);
                }
            }
            11 => {
                let call = keeper.calls.lock().unwrap().pop();
                match (call, input.byte() % 3) {
                    (Some(call), 0) => call.end(Status::Ok, ""),
                    (Some(call), 1) => call.unreachable("name", "why"),
                    (call, _) => drop(call),
                }
            }
            12 => {
                let work: Vec<_> = keeper.later.lock().unwrap().drain(..).collect();
                work.into_iter().for_each(|work| work());
            }
            13 => {
                room.clear();
                let _ = door::reset(&device);
            }
            _ => device.ring(),
        }
    }
    device.close();
    keeper.calls.lock().unwrap().clear();
    room.check();
}

fn open(seed: Seed, code: u8, call: u8, name: &[u8]) -> Seed {
    seed.byte(6).byte(code).byte(call).bytes(name)
}

/// Calls that go both ways, are closed early, flood, and break the rules.
pub fn seeds() -> Vec<Vec<u8>> {
    let begin = || Seed::default().byte(1).byte(1);
    let frame = |seed: Seed, kind: u8, call: u8, body: &[u8]| {
        seed.byte(5).byte(kind).byte(0).byte(call).byte(1).byte(10).bytes(body)
    };
    let mut seeds = Vec::new();
    let both = frame(open(begin(), 10, 1, b"example.org").byte(2).byte(15), 3, 1, b"to the host").byte(15);
    let both = frame(both.byte(9).byte(10).bytes(b"to the guest"), 4, 1, b"").byte(15).byte(9);
    seeds.push(both.byte(11).byte(0).byte(15).done());
    let closed = frame(open(begin(), 1, 2, b"store").byte(15), 6, 2, b"").byte(15);
    seeds.push(closed.byte(9).byte(10).bytes(b"late").byte(11).byte(1).done());
    let many = (0..80).fold(begin(), |seed, at| open(seed, 2, at, b"x").byte(15).byte(11).byte(2));
    seeds.push(many.byte(8).byte(13).byte(7).done());
    seeds.push(frame(open(begin(), 3, 1, b"").byte(15), 5, 1, b"").byte(15).done());
    seeds.push(frame(begin(), 0, 1, b"no such kind").byte(15).done());
    seeds
}
