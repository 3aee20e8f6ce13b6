//! A host that is played: the other end of the ring, by the ring's own code.
//!
//! Neither side runs unless the other has told it to, so a notification that is
//! missing shows as a stand-still.

use crate::{IntoResponse, Link, Request, ServeError, serve};
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use hv_abi::io::function::{FrameHeader, FrameKind};
use hv_abi::ring::{Back, Layout, SharedMemory};
use zerocopy::{FromBytes, IntoBytes};

/// Memory of one thread.
#[derive(Clone)]
pub(crate) struct Memory(Rc<RefCell<Vec<u8>>>);

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

/// What guest and host tell each other.
#[derive(Default)]
pub(crate) struct Wires {
    /// The doorbell was rung and the host has not looked yet; and how often it was.
    doorbell: Cell<bool>,
    rings: Cell<usize>,
    soon: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    ready: Cell<usize>,
    ending: Cell<bool>,
}

#[derive(Clone, Default)]
pub(crate) struct Played(Rc<Wires>);

impl Link for Played {
    type Memory = Memory;

    fn has_trailers(&self) -> bool {
        true
    }

    fn ring(&self) {
        self.0.doorbell.set(true);
        self.0.rings.set(self.0.rings.get() + 1);
    }
    fn ring_soon(&self) {
        self.0.soon.set(true);
    }
    fn flush(&self) {
        if self.0.soon.take() {
            self.ring();
        }
    }
    fn register(&self, waker: &Waker) {
        *self.0.waiting.borrow_mut() = Some(waker.clone());
    }
    fn ready(&self) {
        self.0.ready.set(self.0.ready.get() + 1);
    }
    async fn shutdown(&self) {
        poll_fn(|_| if self.0.ending.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A frame, as bytes.
pub(crate) fn frame(kind: FrameKind, bytes: &[u8]) -> Vec<u8> {
    let header = FrameHeader::new(kind, bytes.len() as u32);
    [header.as_bytes(), bytes].concat()
}

/// A request, as bytes: its head, and its body in frames of these sizes.
pub(crate) fn request(head: &str, frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = frame(FrameKind::Head, head.as_bytes());
    frames.iter().for_each(|body| bytes.extend(frame(FrameKind::Body, body)));
    bytes.extend(frame(FrameKind::End, &[]));
    bytes
}

/// An answer, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<u8>,
    pub(crate) frames: usize,
}

/// Validates a stream of answers as the host does, and takes them apart.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut ended = true;
    while !bytes.is_empty() {
        let (header, rest) = FrameHeader::read_from_prefix(bytes).expect("a whole header");
        let kind = header.validate().expect("a frame of the protocol");
        let (content, rest) = rest.split_at(header.len as usize);
        bytes = rest;
        match kind {
            FrameKind::Head => {
                assert!(ended, "a head within an answer");
                answers.push(Answer {
                    head: content.to_vec(),
                    body: Vec::new(),
                    trailers: Vec::new(),
                    frames: 0,
                });
                ended = false;
            }
            FrameKind::Body => {
                assert!(!ended, "a body without a head");
                let answer = answers.last_mut().unwrap();
                answer.body.extend_from_slice(content);
                answer.frames += 1;
            }
            FrameKind::End => {
                assert!(!ended, "an end without a head");
                ended = true;
            }
            FrameKind::Trailers => {
                assert!(!ended, "trailers without a head");
                answers.last_mut().unwrap().trailers = content.to_vec();
            }
            FrameKind::Cancel => panic!("guests do not cancel"),
        }
    }
    assert!(ended, "the last answer has no end");
    answers
}

/// How a play went.
pub(crate) struct Outcome {
    pub(crate) result: Result<(), ServeError>,
    /// Everything that the guest sent.
    pub(crate) output: Vec<u8>,
    /// How often it rang.
    pub(crate) rings: usize,
}

/// Serves these bytes, which come in pieces, over a ring of this size each way,
/// until neither side has anything to do; then the function is asked to end.
///
/// The host sends a request's bytes without looking whether the answer before
/// it is complete, which is harder on the guest than the protocol allows.
pub(crate) fn play<H, R>(pieces: &[&[u8]], size: u32, handler: H) -> Outcome
where
    H: AsyncFn(Request<'_, Played>) -> R,
    R: IntoResponse,
{
    let layout = Layout::new::<u8, u8>(size, size).expect("a size of a ring");
    let memory = Memory(Rc::new(RefCell::new(vec![0; layout.size()])));
    let mut back = Back::<Memory, u8, u8>::new(memory.clone(), &layout);
    let link = Played::default();
    let wires = link.0.clone();
    assert!(!back.requests.wait_for_entries().unwrap());
    let mut future = pin!(serve(link.clone(), memory, &layout, handler));
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut context = Context::from_waker(&waker);
    let mut pieces = pieces.iter().copied().filter(|piece| !piece.is_empty());
    let mut piece: &[u8] = &[];
    let mut output = Vec::new();
    loop {
        while flag.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                // What was published is taken, the guest's end or not.
                let mut rest = vec![0; size as usize];
                let count = back.requests.pop(&mut rest).unwrap();
                output.extend_from_slice(&rest[..count]);
                return Outcome { result, output, rings: wires.rings.get() };
            }
            link.flush();
        }
        assert_eq!(wires.ready.get(), 1, "ready is said once, before the first request");
        // The host's turn.
        if piece.is_empty() {
            piece = pieces.next().unwrap_or_default();
        } else if !wires.doorbell.get() {
            panic!("both sides wait, and {} bytes are left", piece.len());
        }
        wires.doorbell.set(false);
        let pushed = back.responses.push(piece).unwrap();
        piece = &piece[pushed..];
        let mut raise = pushed > 0 && back.responses.publish();
        loop {
            let mut taken = vec![0; 4096];
            let count = back.requests.pop(&mut taken).unwrap();
            output.extend_from_slice(&taken[..count]);
            if count == 0 {
                break;
            }
        }
        raise |= back.requests.release();
        let more = back.requests.wait_for_entries().unwrap();
        assert!(!more);
        if !piece.is_empty() && back.responses.wait_for_room(piece.len() as u32).unwrap() {
            raise |= back.responses.push(piece).is_ok_and(|count| {
                piece = &piece[count..];
                back.responses.publish()
            });
        }
        if raise {
            wires.waiting.borrow_mut().take().expect("somebody waits for the event").wake();
        } else if piece.is_empty() && pieces.clone().next().is_none() {
            assert!(!wires.ending.get(), "the function does not end");
            wires.ending.set(true);
            flag.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A body that tells its places apart.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + at / 65_521) as u8).collect()
}
