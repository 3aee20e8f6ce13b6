//! The function device: frames of a guest's answers, and the heads of HTTP in them.

use crate::rig::{self, Front, Room};
use crate::{Input, Seed};
use hv::device::function::{Answer, FunctionDevice};
use hv_abi::io::function::{FrameHeader, FrameKind, HEAD_MAX};
use hv_abi::ring::Layout;
use hv_core::fuzzing::function as door;
use hv_function::Failure;
use hv_serve::door as serve;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zerocopy::IntoBytes;

const ENTRIES: u32 = 2048;

/// Who waits for the answer. It validates heads as `hv serve` does, and asserts the order of the calls.
struct Client {
    room: Arc<AtomicUsize>,
    head: bool,
    over: bool,
}

impl Answer for Client {
    fn head(&mut self, head: &[u8]) -> Result<(), String> {
        assert!(!self.head && !self.over && !head.is_empty() && head.len() <= HEAD_MAX as usize);
        self.head = true;
        let validated = serve::validate_answer(head);
        if let Err(reason) = &validated {
            assert!(!reason.contains(['\n', '\r']), "{reason:?}");
        }
        validated
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        assert!(self.head && !self.over && !bytes.is_empty());
        let count = self.room.load(Ordering::Relaxed).min(bytes.len());
        self.room.fetch_sub(count, Ordering::Relaxed);
        count
    }

    fn end(&mut self) {
        assert!(self.head && !self.over);
        self.over = true;
    }

    fn failed(&mut self, _: Failure) {
        assert!(!self.over);
        self.over = true;
    }

    fn writable(&mut self) {}
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
    let device = FunctionDevice::new();
    if door::connect(&device, front.host_end(fresh)).is_err() {
        return;
    }
    let space = Arc::new(AtomicUsize::new(1 << 16));
    let (mut number, mut begun) = (0, false);
    while input.more() {
        let which = input.byte() % 13;
        if rig::step(which, &room, &mut front, &mut input) {
            continue;
        }
        match which {
            4 => front.push(&room, input.bytes()),
            5 => {
                let (kind, body) = (input.byte() % 6, input.bytes());
                let header = FrameHeader { kind: kind.into(), len: body.len() as u32 };
                front.push(&room, header.as_bytes());
                front.push(&room, body);
            }
            6 | 7 => door::ring(&device),
            8 if !begun => {
                let head = input.bytes();
                let head = if head.is_empty() { b"GET / HTTP/1.1\r\n\r\n" } else { head };
                let head = &head[..head.len().min(HEAD_MAX as usize)];
                let client = Client { room: space.clone(), head: false, over: false };
                (number, begun) = (door::begin(&device, head, Box::new(client)), true);
            }
            // A guest whose answer is not complete by then is not used again.
            8 if door::take(&device) == Some(true) => break,
            8 => begun = false,
            9 => {
                let body = input.bytes();
                assert!(door::send(&device, number, body) <= body.len());
            }
            10 => door::finish(&device, number, input.byte() & 1 == 0),
            11 => space.store(usize::from(input.half()), Ordering::Relaxed),
            // Only between two requests.
            _ if !begun => drop(door::reset(&device)),
            _ => {}
        }
    }
    door::ring(&device);
    room.check();
}

fn frame(seed: Seed, kind: FrameKind, body: &[u8]) -> Seed {
    seed.byte(5).byte(kind as u8).bytes(body)
}

/// Answers to a request: short, with many fields, in pieces, before the request has ended, and wrong ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let ask = Seed::default().byte(1).byte(8).bytes(b"POST /hello HTTP/1.1\r\nhost: a\r\n\r\n");
    let ask = ask.byte(9).bytes(b"Ada").byte(10).byte(0);
    let mut seeds = Vec::new();
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n".to_string(),
        "HTTP/1.1 418 Teapot\r\nContent-Type: text/tea\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
         Connection: upgrade, x-a\r\nUpgrade: h2c\r\nX-A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n".to_string(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(64)),
        "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_string(),
        "HTTP/1.1 20 OK\r\n\r\n".to_string(),
    ] {
        let seed = frame(ask.clone().byte(2), FrameKind::Head, head.as_bytes()).byte(6);
        let seed = frame(seed, FrameKind::Body, b"hello, Ada\n").byte(11).half(2).byte(6);
        let seed = frame(seed.byte(11).half(500), FrameKind::End, b"").byte(6);
        seeds.push(seed.byte(8).byte(8).bytes(b"").done());
    }
    let early =
        frame(Seed::default().byte(1).byte(8).bytes(b""), FrameKind::Head, b"HTTP/1.1 204 No\r\n\r\n");
    seeds.push(frame(early, FrameKind::End, b"").byte(6).byte(9).bytes(&[b'x'; 3000]).byte(2).byte(6).done());
    seeds.push(frame(ask, FrameKind::Cancel, b"").byte(6).done());
    seeds
}
