//! The I/O thread: one readiness loop for the back ends of all guests.
//!
//! A [`Source`] is anything that waits for descriptors or for time: a doorbell with its device, a network. The reactor
//! owns it and calls it from one thread. Sources never block.
//!
//! Sources belong to owners, mostly guests. The thread divides its time fairly between owners (`fair`), and they are charged for it.
//!
//! Calls that wait for a source have a time limit. A source that is removed while the host still works for it (a disk
//! that does not answer) stays here until that work is over. Nothing is freed before.

mod fair;
mod load;
mod run;

use crossbeam_channel::{Sender, bounded, unbounded};
use hv_jail as jail;
use hv_jail::Kind;
use mio::event::Event;
use mio::{Interest, Poll, Registry, Token, Waker};
use run::{Command, Loop, Tell, WAKER};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something that the reactor drives. No method may block.
pub trait Source: Send {
    /// Registers descriptors. Called once, before everything else.
    ///
    /// # Errors
    ///
    /// If the host refuses to watch a descriptor. The source is not driven then.
    fn start(&mut self, io: Registrar) -> io::Result<()>;

    /// A descriptor that was registered with `key` is ready (edge-triggered:
    /// act until `WouldBlock`). It may be a spurious call.
    fn ready(&mut self, key: u32, event: &Event);

    /// Called after every round of `ready` calls to this source, and when its last deadline has passed. Returns when it
    /// wants to be called next if nothing else happens before.
    fn poll(&mut self, now: Instant) -> Option<Instant>;

    /// Finishes the requests that it has accepted, and accepts no more. Returns whether that is done. It is called again
    /// until it is. No other method is called from then on until the source is resumed.
    fn settle(&mut self) -> bool {
        true
    }

    /// Accepts no more requests, and drops those that it has not begun. Returns whether nothing is in flight any more. It
    /// is called again until then, and then the source is dropped. No other method but `ready` is called from then on.
    fn close(&mut self) -> bool {
        true
    }

    /// Takes its state from the rings in its guest's memory, which was reset while the source was settled. Returns false
    /// if it cannot. Then the source cannot be used any more.
    fn reset(&mut self) -> bool {
        false
    }
}

/// Registers the descriptors of one [`Source`]; keys are its own.
#[derive(Debug)]
pub struct Registrar {
    registry: Registry,
    /// Identifies the source; the upper half of its tokens.
    slot: u32,
}

impl Registrar {
    /// A registrar for the source in `slot`.
    ///
    /// # Errors
    ///
    /// If the host has no more descriptors.
    pub fn new(registry: &Registry, slot: u32) -> io::Result<Self> {
        Ok(Registrar { registry: registry.try_clone()?, slot })
    }

    /// Another registrar for the same source.
    ///
    /// # Errors
    ///
    /// If the host has no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Registrar::new(&self.registry, self.slot)
    }

    fn token(&self, key: u32) -> Token {
        Token(((self.slot as usize) << 32) | key as usize)
    }

    /// Starts watching a descriptor.
    ///
    /// # Errors
    ///
    /// If it cannot be watched, or is watched already.
    pub fn register(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.register(source, self.token(key), interest)
    }

    /// Changes what is watched for.
    ///
    /// # Errors
    ///
    /// If it is not watched.
    pub fn reregister(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.reregister(source, self.token(key), interest)
    }

    /// Stops watching. Dropping the descriptor does the same.
    ///
    /// # Errors
    ///
    /// If it is not watched.
    pub fn deregister(&self, source: &mut (impl mio::event::Source + ?Sized)) -> io::Result<()> {
        self.registry.deregister(source)
    }
}

/// Called on the I/O thread with whether it needs a processor of its own, whenever that changes.
pub(crate) type OwnProcessor = Box<dyn Fn(bool) + Send>;

/// A task that is charged for the I/O thread's work.
pub trait Payer: Send + Sync {
    /// The I/O thread has spent this time. Called on that thread; must not block.
    fn charge(&self, time: Duration);
}

/// An owner of sources. Its sources share its part of the I/O thread's time.
#[derive(Clone)]
pub(crate) struct SourceOwner {
    number: u64,
    /// `None` for hv's own sources.
    payer: Option<Weak<dyn Payer>>,
    /// Nanoseconds that the I/O thread has worked for it.
    worked: Arc<AtomicU64>,
}

impl SourceOwner {
    /// How long the I/O thread has worked for its sources.
    pub(crate) fn worked(&self) -> Duration {
        Duration::from_nanos(self.worked.load(Ordering::Relaxed))
    }
}

/// Identifies a source of a [`Reactor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(u32);

/// The I/O thread's handle. Dropping it ends the thread and drops the sources.
pub struct Reactor {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    next: AtomicU32,
    owners: AtomicU64,
    closing: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// How long [`Reactor::remove`] waits for work in flight. Work on a disk that answers takes less.
const REMOVAL: Duration = Duration::from_millis(20);

impl Reactor {
    /// Starts the I/O thread.
    ///
    /// # Errors
    ///
    /// If the host refuses another thread or descriptor.
    pub fn new() -> io::Result<Self> {
        Self::with_own_processor(Box::new(|_| {}))
    }

    /// [`new`](Self::new) for a thread that reports when it begins and ceases to need a processor of its own.
    pub(crate) fn with_own_processor(own_processor: OwnProcessor) -> io::Result<Self> {
        hv_host::prompt::niceness();
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (commands, receiver) = unbounded();
        let closing = Arc::new(AtomicUsize::new(0));
        let count = closing.clone();
        let thread = jail::spawn(Kind::Io, "hv-io", move || {
            Loop::new(poll, receiver, count, own_processor).run();
        })?;
        Ok(Reactor {
            commands,
            waker,
            next: AtomicU32::new(0),
            owners: AtomicU64::new(0),
            closing,
            thread: Some(thread),
        })
    }

    fn send(&self, command: Command) {
        // The send fails if the thread has ended by a panic.
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// A new owner of sources, whose time is charged to `payer`.
    pub(crate) fn owner(&self, payer: Option<Weak<dyn Payer>>) -> SourceOwner {
        SourceOwner { number: self.owners.fetch_add(1, Ordering::Relaxed), payer, worked: Arc::default() }
    }

    /// Gives one of hv's own sources to the I/O thread. If its [`start`](Source::start) fails, the error is logged and
    /// the source is dropped.
    pub fn add(&self, source: Box<dyn Source>) -> SourceId {
        self.add_for(&self.owner(None), source)
    }

    /// [`add`](Self::add) for a source of this owner.
    pub(crate) fn add_for(&self, owner: &SourceOwner, source: Box<dyn Source>) -> SourceId {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Add(slot, owner.clone(), source));
        SourceId(slot)
    }

    /// Lets sources finish the requests that they have accepted. They accept no more until [`resume`](Self::resume).
    /// Returns whether all have finished within this time.
    pub fn pause(&self, ids: &[SourceId], within: Duration) -> bool {
        let (tell, wait) = bounded(ids.len());
        for &id in ids {
            self.pause_then(id, within, sends(&tell));
        }
        drop(tell);
        // All replies are received, so that none arrives later.
        let settled = wait.iter().filter(|&settled| settled).count();
        settled == ids.len()
    }

    /// [`pause`](Self::pause) without waiting. The I/O thread calls `then`, which must not block, with whether the source
    /// has finished: as soon as it has, or when the time is over.
    pub(crate) fn pause_then(&self, id: SourceId, within: Duration, then: Tell) {
        self.send(Command::Pause(id.0, Instant::now() + within, then));
    }

    /// Resets a paused source whose guest's memory was reset. Returns false if the source cannot be reset.
    pub fn reset(&self, id: SourceId) -> bool {
        let (done, wait) = bounded(1);
        self.send(Command::Reset(id.0, done));
        wait.recv().unwrap_or(false)
    }

    /// Has a source polled soon. A source that is paused is polled when it is resumed.
    pub(crate) fn wake(&self, id: SourceId) {
        self.send(Command::Wake(id.0));
    }

    /// Resumes a paused source.
    pub fn resume(&self, id: SourceId) {
        self.send(Command::Resume(id.0));
    }

    /// Drops sources, and returns once they are gone. A source for which the host still works after a short time is
    /// dropped when that work is over, and [counted](Self::closing) until then.
    pub fn remove(&self, ids: &[SourceId]) {
        let (tell, wait) = bounded(ids.len());
        for &id in ids {
            self.send(Command::Remove(id.0, sends(&tell)));
        }
        drop(tell);
        let until = Instant::now() + REMOVAL;
        while wait.recv_deadline(until).is_ok() {}
    }

    /// Number of removed sources for which the host still works.
    pub fn closing(&self) -> usize {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A callback that sends to a channel with free capacity.
fn sends(tell: &Sender<bool>) -> Tell {
    let tell = tell.clone();
    Box::new(move |over| {
        // The receiver may be dropped already.
        let _ = tell.send(over);
    })
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let (tell, wait) = bounded(1);
        self.send(Command::Stop(tell));
        // With work in flight, the thread keeps its memory alive and ends by itself when that work is over. Nothing waits for it.
        if wait.recv() != Ok(true)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
