//! The guest's end of the ring, and the calls that are open.

use crate::{Error, Link};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};
use hv_abi::io::services::{Answer, DATA_MAX, FrameHeader, FrameKind, WINDOW};
use hv_abi::ring::{Consumer, Front, Layout, Producer, SharedMemory};
use lock_api::Mutex;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a frame without data. Windows count them, too.
pub(crate) const HEADER: u32 = size_of::<FrameHeader>() as u32;

/// A services device.
pub struct Channel<L: Link> {
    pub(crate) link: L,
    state: Mutex<L::Lock, State<L::Memory>>,
    waiting: Arc<Waiting<L::Lock>>,
}

/// Tasks that wait for the device. This is what the device wakes: each of them may be dropped, or look at something else first.
struct Waiting<R: lock_api::RawMutex>(Mutex<R, Vec<Waker>>);

impl<R: lock_api::RawMutex + Send + Sync> Wake for Waiting<R> {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

impl<R: lock_api::RawMutex> Waiting<R> {
    fn wake_all(&self) {
        let waiting = core::mem::take(&mut *self.0.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn add(&self, waker: &Waker) {
        let mut waiting = self.0.lock();
        if !waiting.iter().any(|one| one.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

pub(crate) struct State<M> {
    input: Consumer<M, u8>,
    output: Producer<M, u8>,
    /// What found no room; goes first.
    unsent: VecDeque<u8>,
    /// The frame that has come in part.
    incoming: Vec<u8>,
    calls: Vec<(u32, CallState)>,
    next: u32,
    /// The host has to be told of what it waits for.
    ring: bool,
    broken: bool,
}

/// What the host has said about a call.
#[derive(Default)]
pub(crate) struct CallState {
    pub(crate) answer: Option<Answer>,
    pub(crate) data: VecDeque<Vec<u8>>,
    pub(crate) end: Option<(u16, String)>,
    /// Bytes of frames that the host takes.
    credit: u32,
    /// Bytes of frames that were taken out of `data` and for which the host has no credit yet.
    taken: u32,
}

impl<L: Link> Channel<L> {
    /// Takes up the ring of a device, which is all zero and has this layout.
    pub fn new(link: L, memory: L::Memory, layout: &Layout) -> Self {
        let front = Front::<L::Memory, u8, u8>::new(memory, layout);
        let state = State {
            input: front.responses,
            output: front.requests,
            unsent: VecDeque::new(),
            incoming: Vec::new(),
            calls: Vec::new(),
            next: 1,
            ring: false,
            broken: false,
        };
        Channel { link, state: Mutex::new(state), waiting: Arc::new(Waiting(Mutex::new(Vec::new()))) }
    }

    /// Waits until `look` finds something. It is asked again whenever the host may have said something.
    pub(crate) fn poll<T>(
        &self,
        context: &Context<'_>,
        mut look: impl FnMut(&mut State<L::Memory>) -> Result<Option<T>, Error>,
    ) -> Poll<Result<T, Error>> {
        let mut state = self.state.lock();
        let mut others = false;
        let found = loop {
            let step = state.step(&mut others).and_then(|()| look(&mut state));
            match step {
                Ok(None) => {}
                Ok(Some(found)) => break Poll::Ready(Ok(found)),
                Err(error) => break Poll::Ready(Err(error)),
            }
            // In this order: what comes after the last look wakes this task.
            self.waiting.add(context.waker());
            self.link.register(&Waker::from(self.waiting.clone()));
            match state.arm() {
                Ok(true) => {}
                Ok(false) => break Poll::Pending,
                Err(error) => break Poll::Ready(Err(error)),
            }
        };
        state.broken |= matches!(found, Poll::Ready(Err(Error::Broken)));
        if state.publish() {
            self.link.ring_soon();
        }
        drop(state);
        if others {
            // What was read may be for others.
            self.waiting.wake_all();
        }
        found
    }

    /// Does something that need not wait.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State<L::Memory>) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state);
        if state.publish() {
            self.link.ring_soon();
        }
        result
    }
}

impl<M: SharedMemory> State<M> {
    /// Shows the host what was written. Returns whether it has to be told.
    fn publish(&mut self) -> bool {
        self.ring |= self.output.publish();
        core::mem::take(&mut self.ring)
    }

    /// Sends what waits for room, and takes what has come. `others`: something has.
    fn step(&mut self, others: &mut bool) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        self.flush()?;
        while self.take_frame()? {
            *others = true;
        }
        self.ring |= self.input.release();
        Ok(())
    }

    /// Asks to be told of what comes. Returns whether something has come already.
    fn arm(&mut self) -> Result<bool, Error> {
        Ok(self.input.wait_for_entries()? || !self.unsent.is_empty() && self.wait_for_room(1)?)
    }

    /// Asks to be told when there is so much room. Returns whether there is already.
    fn wait_for_room(&mut self, wanted: u32) -> Result<bool, Error> {
        // The host makes no room by taking what it does not see.
        self.ring |= self.output.publish();
        Ok(self.output.wait_for_room(wanted)?)
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.unsent.is_empty() {
            let count = self.output.push(self.unsent.as_slices().0)?;
            self.unsent.drain(..count);
            if count == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes more bytes of the next frame, up to so many in all. Returns whether they are there.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        let have = self.incoming.len();
        if have < wanted {
            self.incoming.resize(wanted, 0);
            let count = self.input.pop(&mut self.incoming[have..])?;
            self.incoming.truncate(have + count);
        }
        Ok(self.incoming.len() == wanted)
    }

    /// Takes the next frame. Returns false if it has not come as a whole.
    fn take_frame(&mut self) -> Result<bool, Error> {
        let whole = HEADER as usize;
        if self.incoming.len() < whole && !self.fill(whole)? {
            return Ok(false);
        }
        let Ok((header, _)) = FrameHeader::read_from_prefix(&self.incoming) else {
            return Err(Error::Broken);
        };
        let kind = FrameKind::from_number(header.kind).filter(|kind| kind.allows_from_host(header.len));
        let kind = kind.ok_or(Error::Broken)?;
        if !self.fill(whole + header.len as usize)? {
            return Ok(false);
        }
        let bytes = &self.incoming[whole..];
        if let Some((_, call)) = self.calls.iter_mut().find(|(number, _)| *number == header.call) {
            match kind {
                FrameKind::Answer => call.answer = Answer::read_from_bytes(bytes).ok(),
                FrameKind::Data => call.data.push_back(bytes.to_vec()),
                FrameKind::End => call.end = Some((header.code, String::from_utf8_lossy(bytes).into_owned())),
                FrameKind::Credit => call.credit = call.credit.saturating_add(header.value),
                FrameKind::Open | FrameKind::Close => {}
            }
        }
        self.incoming.clear();
        Ok(true)
    }

    /// What is known of an open call.
    pub(crate) fn call(&mut self, number: u32) -> Result<&mut CallState, Error> {
        let call = self.calls.iter_mut().find(|(open, _)| *open == number);
        call.map(|(_, call)| call).ok_or(Error::Broken)
    }

    fn put(&mut self, bytes: &[u8]) {
        // A ring that is broken is noticed by the next one who waits.
        let count = if self.unsent.is_empty() { self.output.push(bytes).unwrap_or(0) } else { 0 };
        self.unsent.extend(&bytes[count..]);
    }

    fn put_frame(&mut self, kind: FrameKind, number: u32, value: u32) {
        self.put(FrameHeader { kind: kind as u16, code: 0, call: number, len: 0, value }.as_bytes());
    }

    /// Begins a call, with the bytes of its open frame in pieces. Returns its number.
    pub(crate) fn open(&mut self, operation: u16, pieces: &[&[u8]]) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let len = pieces.iter().map(|piece| piece.len() as u32).sum();
        let kind = FrameKind::Open as u16;
        self.put(FrameHeader { kind, code: operation, call: number, len, value: WINDOW }.as_bytes());
        pieces.iter().for_each(|piece| self.put(piece));
        self.calls.push((number, CallState { credit: WINDOW, ..CallState::default() }));
        number
    }

    /// Ends the data of a call.
    pub(crate) fn finish(&mut self, number: u32) {
        self.put_frame(FrameKind::End, number, 0);
    }

    /// Forgets a call, and has the host forget it.
    pub(crate) fn close(&mut self, number: u32) {
        let place = self.calls.iter().position(|(open, _)| *open == number);
        if let Some(place) = place
            && self.calls.swap_remove(place).1.end.is_none()
        {
            self.put_frame(FrameKind::Close, number, 0);
        }
    }

    /// The next frame of data.
    pub(crate) fn take_data(&mut self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        let call = self.call(number)?;
        let Some(frame) = call.data.pop_front() else { return Ok(None) };
        call.taken += HEADER + frame.len() as u32;
        if call.taken >= WINDOW / 2 && call.end.is_none() {
            let credit = core::mem::take(&mut call.taken);
            self.put_frame(FrameKind::Credit, number, credit);
        }
        Ok(Some(frame))
    }

    /// Sends some of the bytes as a frame of data, if there is credit and room. `whole`: all of them or none.
    pub(crate) fn put_data(
        &mut self,
        number: u32,
        bytes: &[u8],
        whole: bool,
    ) -> Result<Option<usize>, Error> {
        let least = if whole { HEADER as usize + bytes.len() } else { HEADER as usize + 1 };
        if !self.unsent.is_empty() {
            return Ok(None);
        }
        let mut room = self.output.room()? as usize;
        if room < least {
            if !self.wait_for_room(least as u32)? {
                return Ok(None);
            }
            room = self.output.room()? as usize;
        }
        let call = self.call(number)?;
        let credit = call.credit as usize;
        if credit < least {
            return Ok(None);
        }
        let count = bytes.len().min(room.min(credit) - HEADER as usize).min(DATA_MAX as usize);
        call.credit -= HEADER + count as u32;
        let (kind, len) = (FrameKind::Data as u16, count as u32);
        self.put(FrameHeader { kind, code: 0, call: number, len, value: 0 }.as_bytes());
        self.put(&bytes[..count]);
        Ok(Some(count))
    }
}
