//! Both ends of the protocol: the guest's code, and a host that is played by the ring's own code.

use crate::{Channel, Condition, Error, Link, Store, TcpStream, secret};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use embedded_io_async::{Read, Write};
use hv_abi::io::services::{Answer, FrameHeader, FrameKind, Operation, Parameters, Status, WINDOW};
use hv_abi::ring::{Back, Layout, SharedMemory};
use std::boxed::Box;
use zerocopy::{FromBytes, IntoBytes};

/// Memory of one thread.
#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl SharedMemory for Memory {
    fn load(&self, offset: usize) -> u32 {
        u32::read_from_bytes(&self.0.borrow()[offset..offset + 4]).unwrap()
    }
    fn store(&self, offset: usize, value: u32) {
        self.write(offset, value.as_bytes());
    }
    fn fence(&self) {}
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.borrow()[offset..offset + bytes.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

#[derive(Clone, Default)]
struct Played {
    rung: Rc<Cell<bool>>,
    waiting: Rc<RefCell<Option<Waker>>>,
}

impl Link for Played {
    type Memory = Memory;
    type Lock = spin::Mutex<()>;

    fn ring_soon(&self) {
        self.rung.set(true);
    }
    fn register(&self, waker: &Waker) {
        *self.waiting.borrow_mut() = Some(waker.clone());
    }
}

/// The host's end.
struct Host {
    back: Back<Memory, u8, u8>,
    link: Played,
    incoming: Vec<u8>,
}

fn rig(size: u32) -> (Channel<Played>, Host) {
    let layout = Layout::new::<u8, u8>(size, size).unwrap();
    let memory = Memory(Rc::new(RefCell::new(vec![0; layout.size()])));
    let mut back = Back::<Memory, u8, u8>::new(memory.clone(), &layout);
    assert!(!back.requests.wait_for_entries().unwrap());
    let link = Played::default();
    (Channel::new(link.clone(), memory, &layout), Host { back, link, incoming: Vec::new() })
}

impl Host {
    /// The frames that have come as a whole.
    fn frames(&mut self) -> Vec<(FrameKind, FrameHeader, Vec<u8>)> {
        loop {
            let mut some = [0; 1024];
            let count = self.back.requests.pop(&mut some).unwrap();
            if count == 0 {
                break;
            }
            self.incoming.extend_from_slice(&some[..count]);
        }
        let mut raise = self.back.requests.release();
        assert!(!self.back.requests.wait_for_entries().unwrap());
        self.link.rung.set(false);
        if core::mem::take(&mut raise) {
            self.raise();
        }
        let mut frames = Vec::new();
        while let Ok((header, rest)) = FrameHeader::read_from_prefix(&self.incoming) {
            let kind = FrameKind::from_number(header.kind).unwrap();
            assert!(kind.allows_from_guest(header.len), "{header:?}");
            let Some(bytes) = rest.get(..header.len as usize) else { break };
            frames.push((kind, header, bytes.to_vec()));
            self.incoming.drain(..size_of::<FrameHeader>() + header.len as usize);
        }
        frames
    }

    fn raise(&self) {
        let waker = self.link.waiting.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn send(&mut self, kind: FrameKind, call: u32, code: u16, value: u32, bytes: &[u8]) {
        let header = FrameHeader { kind: kind as u16, code, call, len: bytes.len() as u32, value };
        let all = [header.as_bytes(), bytes].concat();
        assert_eq!(
            self.back.responses.push(&all).unwrap(),
            all.len(),
            "the ring is large enough for the test"
        );
        if self.back.responses.publish() {
            self.raise();
        }
    }

    fn end(&mut self, call: u32, status: Status) {
        self.send(FrameKind::End, call, status as u16, 0, b"why");
    }
}

/// Polls once. A waker that does nothing will do: each test knows what has come.
macro_rules! poll {
    ($future:expr) => {
        $future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
}

#[test]
fn a_value_comes_as_the_host_sends_it() {
    let (channel, mut host) = rig(4096);
    let store = Store::new(&channel, "kv");
    let mut get = pin!(store.get("key"));
    assert!(poll!(get).is_pending());
    assert!(host.link.rung.get(), "the host is told");
    let frames = host.frames();
    let (kind, header, bytes) = &frames[0];
    assert_eq!((*kind, header.code, header.value), (FrameKind::Open, Operation::StoreGet as u16, WINDOW));
    let (parameters, strings) = Parameters::read_from_prefix(bytes).unwrap();
    assert_eq!((parameters.name_len, parameters.key_len, strings), (2, 3, &b"kvkey"[..]));
    assert_eq!(frames[1].0, FrameKind::End);
    let call = header.call;
    host.send(FrameKind::Answer, call, 0, 0, Answer { version: 9, size: 5 }.as_bytes());
    assert!(poll!(get).is_pending());
    host.send(FrameKind::Data, call, 0, 0, b"hel");
    host.send(FrameKind::Data, call, 0, 0, b"lo");
    assert!(poll!(get).is_pending());
    host.end(call, Status::Ok);
    let Poll::Ready(Ok(Some(value))) = poll!(get) else { panic!("it is there") };
    assert_eq!(&*value, b"hello");
    // A call that has ended is not closed once more.
    assert!(host.frames().is_empty());
    let mut put = pin!(store.put_if("key", b"new", Condition::Version(value.version)));
    assert!(poll!(put).is_pending());
    let frames = host.frames();
    assert_eq!(Parameters::read_from_prefix(&frames[0].2).unwrap().0.first, 9);
    assert_eq!(frames[1].2, b"new");
    host.end(frames[0].1.call, Status::Conflict);
    assert_eq!(poll!(put), Poll::Ready(Err(Error::Conflict)));
}

#[test]
fn a_call_that_is_dropped_is_closed_and_others_go_on() {
    let (channel, mut host) = rig(4096);
    let store = Store::new(&channel, "kv");
    let mut first = Box::pin(store.get("a"));
    let mut second = pin!(secret(&channel, "b"));
    assert!(poll!(first).is_pending() && poll!(second).is_pending());
    let opened: Vec<u32> =
        host.frames().iter().filter(|frame| frame.0 == FrameKind::Open).map(|frame| frame.1.call).collect();
    host.send(FrameKind::Answer, opened[1], 0, 0, Answer { version: 0, size: 3 }.as_bytes());
    host.send(FrameKind::Data, opened[1], 0, 0, b"xyz");
    // The first one finds what is for the second.
    assert!(poll!(first).is_pending());
    drop(first);
    let closed = host.frames();
    assert_eq!((closed[0].0, closed[0].1.call), (FrameKind::Close, opened[0]));
    host.send(FrameKind::Data, opened[0], 0, 0, b"late");
    host.end(opened[1], Status::Ok);
    let Poll::Ready(Ok(secret)) = poll!(second) else { panic!("it is there") };
    assert_eq!(secret.as_str(), Some("xyz"));
    assert_eq!(std::format!("{secret:?}"), "Secret(…)");
}

#[test]
fn data_wait_for_credit_and_for_room() {
    let (channel, mut host) = rig(1024);
    let mut connecting = Box::pin(TcpStream::connect_on(&channel, "h:1"));
    assert!(poll!(connecting).is_pending());
    let call = host.frames()[0].1.call;
    host.send(FrameKind::Answer, call, 0, 0, Answer::default().as_bytes());
    let Poll::Ready(Ok(mut stream)) = poll!(connecting) else { panic!("it is there") };
    drop(connecting);
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut received = Vec::new();
    let mut unacknowledged = 0;
    {
        let mut write = pin!(stream.write_all(&bytes));
        loop {
            let done = poll!(write).is_ready();
            for (_, header, data) in host.frames() {
                received.extend_from_slice(&data);
                unacknowledged += header.len + 16;
            }
            assert!(unacknowledged <= WINDOW, "more than the credit");
            if done {
                break;
            }
            // Credit only when the guest has none left.
            if received.len() % 3 == 0 || unacknowledged > WINDOW - 1024 {
                let credit = core::mem::take(&mut unacknowledged);
                host.send(FrameKind::Credit, call, 0, credit, b"");
            }
        }
    }
    assert!(received == bytes);
    // The other way: the guest gives credit for what was read, not for what has come.
    let mut credit = 0;
    for _ in 0..40 {
        host.send(FrameKind::Data, call, 0, 0, &[7; 900]);
        let mut bytes = [0; 900];
        {
            let mut read = pin!(stream.read(&mut bytes));
            assert_eq!(poll!(read), Poll::Ready(Ok(900)));
        }
        credit += host.frames().iter().map(|(_, header, _)| header.value).sum::<u32>();
    }
    assert!((WINDOW / 2..=40 * 916).contains(&credit), "{credit}");
    host.end(call, Status::Failed);
    let mut byte = [0; 1];
    let mut read = pin!(stream.read(&mut byte));
    assert_eq!(poll!(read), Poll::Ready(Err(Error::Failed("why".into()))));
}

#[test]
fn a_host_that_breaks_the_protocol_is_not_listened_to() {
    let (channel, mut host) = rig(4096);
    let mut get = pin!(secret(&channel, "a"));
    assert!(poll!(get).is_pending());
    host.send(FrameKind::Open, 1, 0, 0, b"");
    assert_eq!(poll!(get), Poll::Ready(Err(Error::Broken)));
    let mut again = pin!(secret(&channel, "a"));
    assert_eq!(poll!(again), Poll::Ready(Err(Error::Broken)));
}
