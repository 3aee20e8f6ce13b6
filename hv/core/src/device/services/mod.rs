//! The services device: what a guest without a network reaches through its host. Frames are in [`hv_abi::io::services`].
//!
//! The guest's own thread drives it at the guest's doorbells, and so does every thread that carries out calls. Like a function
//! device it needs no descriptor and no I/O thread: a clone costs nothing for having one.
//!
//! What a guest can make the host keep is bounded: [`CALLS_MAX`] calls, each with a window of data, and an outbox of short frames.
//! While the outbox is long, nothing more is taken from the guest.

mod back_end;
mod call;
#[cfg(feature = "fuzzing")]
pub mod door;
mod receive;
mod request;
mod ring;
#[cfg(test)]
mod tests;

pub(crate) use back_end::KIND;
pub use call::{Call, Closed};
pub use request::ServiceRequest;

use super::Ring;
use hv_abi::io::services::{Answer, CALLS_MAX, DATA_MAX, FrameHeader, FrameKind, Status, TEXT_MAX, WINDOW};
use hv_abi::ring::Violation;
use ring::ServicesRing;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use zerocopy::IntoBytes;

/// Bytes of a frame without data. Windows count them, too.
const HEADER: u32 = size_of::<FrameHeader>() as u32;

/// Most bytes that are taken from a guest at one doorbell, before others get the thread.
const ROUND: usize = 256 << 10;

/// Carries out the calls of guests.
pub trait Provider: Send + Sync {
    /// A guest has made a call. Called on the guest's thread: does not wait.
    fn begin(&self, call: Call);

    /// Does this on another thread.
    fn later(&self, work: Box<dyn FnOnce() + Send>);
}

/// One request of a function, as far as its calls are concerned.
#[derive(Debug, Default)]
pub struct Session {
    unreachable: OnceLock<String>,
    /// Its calls that are being carried out, closed ones included.
    live: AtomicUsize,
    /// Bytes that its connections have moved.
    pub bytes: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicUsize,
}

/// Counts one more, unless there are as many.
fn count_below(counter: &AtomicUsize, most: usize) -> bool {
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < most).then_some(count + 1))
        .is_ok()
}

/// The back end of one guest's services device.
pub struct ServicesDevice {
    /// To hand out to calls.
    this: std::sync::Weak<ServicesDevice>,
    provider: Option<Arc<dyn Provider>>,
    /// Calls that are being carried out, closed ones included.
    live: AtomicUsize,
    state: Mutex<ServicesState>,
}

#[derive(Default)]
struct ServicesState {
    end: Option<ServicesRing>,
    calls: HashMap<u32, CallState>,
    epoch: u64,
    /// `None`: there is no request yet that calls could be for.
    session: Option<Arc<Session>>,
    /// Wait for room in the ring.
    writers: Vec<Waker>,
}

/// A call that is open.
#[derive(Default)]
struct CallState {
    /// Frames of data, as they came.
    data: VecDeque<Vec<u8>>,
    /// Bytes of frames that the guest may send.
    window: u32,
    /// Bytes of frames that were taken out of `data` and for which the guest has no credit yet.
    taken: u32,
    /// The guest sends no more data.
    guest_ended: bool,
    /// Bytes of frames that the guest takes.
    credit: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
    closer: Option<Waker>,
}

impl CallState {
    fn wakers(&mut self) -> impl Iterator<Item = Waker> {
        [self.reader.take(), self.writer.take(), self.closer.take()].into_iter().flatten()
    }
}

/// The guest broke the protocol.
#[derive(Debug, thiserror::Error)]
enum ProtocolError {
    #[error(transparent)]
    Ring(#[from] Violation),
    #[error("{0}")]
    Frame(String),
}

/// What is to be done once no lock is held.
#[derive(Default)]
struct Afterwards {
    wake: Vec<Waker>,
    begin: Vec<Call>,
    /// The guest has published more than is taken at once.
    again: bool,
}

impl ServicesDevice {
    /// A device that no guest has yet, whose calls are carried out by this provider; without one, all are refused.
    pub fn new(provider: Option<Arc<dyn Provider>>) -> Arc<Self> {
        Arc::new_cyclic(|this| ServicesDevice {
            this: this.clone(),
            provider,
            live: AtomicUsize::new(0),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, ServicesState> {
        self.state.lock().expect("no panic while held")
    }

    /// Connects the device to a guest's ring: a fresh one, or one that was saved.
    pub(crate) fn connect(&self, ring: Ring) -> Result<(), Violation> {
        self.state().end = Some(ServicesRing::new(ring)?);
        Ok(())
    }

    /// Takes the device back to where its ring's memory is, after that was reset. All calls have been closed.
    pub(crate) fn reset(&self) -> Result<(), Violation> {
        self.close();
        let Some(end) = self.state().end.take() else { return Ok(()) };
        self.connect(end.into_ring())
    }

    /// A request of the guest begins: its calls are carried out.
    pub fn begin_request(&self) {
        self.state().session = Some(Arc::default());
    }

    /// Ends all calls. Nothing is written to the guest's memory any more, until its device is connected again or the next request begins.
    pub fn close(&self) {
        let wakers: Vec<_> = {
            let state = &mut *self.state();
            state.epoch += 1;
            state.session = None;
            if let Some(end) = &mut state.end {
                end.forget();
            }
            let wakers = state.calls.values_mut().flat_map(CallState::wakers);
            let wakers = wakers.chain(state.writers.drain(..)).collect();
            state.calls.clear();
            wakers
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The binding that could not be reached during this request.
    pub fn unreachable(&self) -> Option<String> {
        self.state().session.as_ref()?.unreachable.get().cloned()
    }

    /// Takes what the guest has published, at its doorbell.
    pub fn ring(&self) {
        let mut afterwards = Afterwards::default();
        self.state().guarded(|state| self.receive(state, &mut afterwards));
        afterwards.wake.into_iter().for_each(Waker::wake);
        match &self.provider {
            Some(provider) => {
                afterwards.begin.into_iter().for_each(|call| provider.begin(call));
                if let (true, Some(device)) = (afterwards.again, self.this.upgrade()) {
                    provider.later(Box::new(move || device.ring()));
                }
            }
            None => afterwards
                .begin
                .into_iter()
                .for_each(|call| call.end(Status::Denied, "this function was given no services")),
        }
    }

    /// Whether another call of this request may be carried out; counts it then. What requests before it have left does not count against it, as
    /// long as its machine [can be used again](Self::is_usable).
    fn admit(&self, session: &Session) -> bool {
        count_below(&session.live, CALLS_MAX) && {
            let fits = count_below(&self.live, 2 * CALLS_MAX);
            if !fits {
                session.live.fetch_sub(1, Ordering::AcqRel);
            }
            fits
        }
    }

    fn dropped(&self, session: &Session) {
        session.live.fetch_sub(1, Ordering::AcqRel);
        self.live.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the next request can have all calls that it may: of those that were [closed](Self::close), not too many are still being carried out.
    pub fn is_usable(&self) -> bool {
        self.live.load(Ordering::Acquire) <= CALLS_MAX
    }

    fn is_open(&self, call: &Call) -> bool {
        self.state().of(call).is_some()
    }

    fn poll_closed(&self, call: &Call, context: &Context<'_>) -> Poll<()> {
        match self.state().of(call) {
            None => Poll::Ready(()),
            Some((_, open)) => {
                open.closer = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_data(&self, call: &Call, context: &Context<'_>) -> Poll<Result<Option<Vec<u8>>, Closed>> {
        let mut state = self.state();
        let Some((end, open)) = state.of(call) else { return Poll::Ready(Err(Closed)) };
        let Some(frame) = open.data.pop_front() else {
            if open.guest_ended {
                return Poll::Ready(Ok(None));
            }
            open.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        open.taken += HEADER + frame.len() as u32;
        if open.taken >= WINDOW / 2 && !open.guest_ended {
            let credit = std::mem::take(&mut open.taken);
            open.window += credit;
            end.queue(FrameHeader { value: credit, ..header(FrameKind::Credit, call.number, 0) }, &[]);
            state.guarded(|state| state.flush());
        }
        Poll::Ready(Ok(Some(frame)))
    }

    fn poll_send(&self, call: &Call, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Closed>> {
        let mut sent = Poll::Ready(Err(Closed));
        self.state().guarded(|state| {
            let Some((end, open)) = state.of(call) else { return Ok(()) };
            let room = end.room_for_data()?;
            if open.credit <= HEADER {
                open.writer = Some(context.waker().clone());
                sent = Poll::Pending;
                return Ok(());
            }
            let Some(room) = room else {
                state.writers.push(context.waker().clone());
                sent = Poll::Pending;
                return Ok(());
            };
            let most = room.min(open.credit - HEADER).min(DATA_MAX) as usize;
            let count = bytes.len().min(most);
            open.credit -= HEADER + count as u32;
            end.push(header(FrameKind::Data, call.number, count as u32), &bytes[..count])?;
            sent = Poll::Ready(Ok(count));
            Ok(())
        });
        sent
    }

    fn send_datagram(&self, call: &Call, bytes: &[u8]) -> Result<bool, Closed> {
        let mut sent = Err(Closed);
        self.state().guarded(|state| {
            let Some((end, open)) = state.of(call) else { return Ok(()) };
            let len = bytes.len() as u32;
            let room = end.room_for_data()?;
            let fits = bytes.len() <= DATA_MAX as usize
                && open.credit >= HEADER + len
                && room.is_some_and(|room| room >= len);
            if fits {
                open.credit -= HEADER + len;
                end.push(header(FrameKind::Data, call.number, len), bytes)?;
            }
            sent = Ok(fits);
            Ok(())
        });
        sent
    }

    fn answer(&self, call: &Call, answer: Answer) {
        self.state().guarded(|state| {
            let Some((end, _)) = state.of(call) else { return Ok(()) };
            let bytes = answer.as_bytes();
            end.queue(header(FrameKind::Answer, call.number, bytes.len() as u32), bytes);
            state.flush()
        });
    }

    fn end(&self, call: &Call, status: Status, text: &str) {
        let mut ended = None;
        self.state().guarded(|state| {
            if state.of(call).is_none() {
                return Ok(());
            }
            ended = state.calls.remove(&call.number);
            state.end(call.number, status, text)
        });
        ended.iter_mut().flat_map(CallState::wakers).for_each(Waker::wake);
    }
}

impl Drop for ServicesDevice {
    fn drop(&mut self) {
        // Who carries out a call waits for nothing else then.
        self.close();
    }
}

fn header(kind: FrameKind, call: u32, len: u32) -> FrameHeader {
    FrameHeader { kind: kind as u16, code: 0, call, len, value: 0 }
}

impl ServicesState {
    /// The ring, and what is kept of this call, if it is open.
    fn of(&mut self, call: &Call) -> Option<(&mut ServicesRing, &mut CallState)> {
        if call.epoch != self.epoch {
            return None;
        }
        Some((self.end.as_mut()?, self.calls.get_mut(&call.number)?))
    }

    /// Tells the guest how a call has ended.
    fn end(&mut self, number: u32, status: Status, text: &str) -> Result<(), ProtocolError> {
        let text = &text[..text.floor_char_boundary(TEXT_MAX as usize)];
        if let Some(end) = &mut self.end {
            let header = header(FrameKind::End, number, text.len() as u32);
            end.queue(FrameHeader { code: status as u16, ..header }, text.as_bytes());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ProtocolError> {
        self.end.as_mut().map_or(Ok(()), |end| end.flush().map(drop))
    }

    /// Works on the ring, and ends a guest that breaks the protocol.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), ProtocolError>) {
        if self.end.is_none() {
            return;
        }
        if let Err(error) = work(self)
            && let Some(end) = self.end.take()
        {
            end.terminate(format!("services device: {error}"));
        }
    }
}
