//! The I/O thread: one readiness loop for the back ends of all guests.
//!
//! A [`Source`] is anything that waits for descriptors or for time: a doorbell
//! with its device, a network. The reactor owns it, calls it from one thread,
//! and never blocks in it.
//!
//! Sources belong to owners, guests mostly, between which the thread divides its time (`fair`); they are charged for it.
//!
//! No caller waits for a source without a limit. One that is removed while the host still works for it (a
//! disk that does not answer) stays here until that is over, and nothing is freed before.

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
    /// When the host refuses to watch a descriptor: the source is not driven then.
    fn start(&mut self, io: Registrar) -> io::Result<()>;

    /// A descriptor that was registered with `key` is ready (edge-triggered:
    /// act until `WouldBlock`). It may be a spurious call.
    fn ready(&mut self, key: u32, event: &Event);

    /// Called after every round of `ready` calls to this source and once its
    /// last deadline has passed. Returns when it wants to be called next if
    /// nothing else happens before.
    fn poll(&mut self, now: Instant) -> Option<Instant>;

    /// Finishes what it has taken on, and takes on nothing more. Returns whether that is
    /// done; it is called again until it is. No other method is called from then on until
    /// the source is resumed.
    fn settle(&mut self) -> bool {
        true
    }

    /// Takes on nothing more, and gives up what it has not begun. Returns whether nothing is under
    /// way any more: it is called again until then, and the source is dropped. No other method but
    /// `ready` is called from then on.
    fn close(&mut self) -> bool {
        true
    }

    /// Takes its state from the rings in its guest's memory, which was reset while it was settled. Returns
    /// false if it cannot: then it is of no further use.
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
    /// If the host has no further descriptor.
    pub fn new(registry: &Registry, slot: u32) -> io::Result<Self> {
        Ok(Registrar { registry: registry.try_clone()?, slot })
    }

    /// Another registrar for the same source.
    ///
    /// # Errors
    ///
    /// If the host has no further descriptor.
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
    /// If it cannot be watched, or is already.
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

/// Called on the I/O thread when it begins or ceases to need a processor of its own.
pub(crate) type OwnProcessor = Box<dyn Fn(bool) + Send>;

/// A task that is charged for the I/O thread's work.
pub trait Payer: Send + Sync {
    /// The I/O thread has spent this time. Called on that thread; must not block.
    fn charge(&self, time: Duration);
}

/// The owner of sources, which share its part of the I/O thread's time.
#[derive(Clone)]
pub(crate) struct SourceOwner {
    number: u64,
    /// `None` for hv's own sources.
    payer: Option<Weak<dyn Payer>>,
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

/// How long [`Reactor::remove`] waits for what is under way. Work on a disk that answers is over by then.
const REMOVAL: Duration = Duration::from_millis(20);

impl Reactor {
    /// Starts the I/O thread.
    ///
    /// # Errors
    ///
    /// If the host makes no further thread or descriptor.
    pub fn new() -> io::Result<Self> {
        Self::with_own_processor(Box::new(|_| {}))
    }

    /// [`new`](Self::new) for a thread that says when it needs a processor of its own, and when that is over.
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
        // A thread that has ended, by a panic, receives nothing.
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// A new owner of sources, whose time is charged to `payer`.
    pub(crate) fn owner(&self, payer: Option<Weak<dyn Payer>>) -> SourceOwner {
        SourceOwner { number: self.owners.fetch_add(1, Ordering::Relaxed), payer }
    }

    /// Gives a source of hv's own to the I/O thread. An error of its
    /// [`start`](Source::start) is logged, and the source dropped.
    pub fn add(&self, source: Box<dyn Source>) -> SourceId {
        self.add_for(&self.owner(None), source)
    }

    /// [`add`](Self::add) for a source of this owner.
    pub(crate) fn add_for(&self, owner: &SourceOwner, source: Box<dyn Source>) -> SourceId {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Add(slot, owner.clone(), source));
        SourceId(slot)
    }

    /// Has sources finish what they have taken on: until [`resume`](Self::resume) they take on
    /// nothing more. Returns whether all have finished within this time.
    pub fn pause(&self, ids: &[SourceId], within: Duration) -> bool {
        let (tell, wait) = bounded(ids.len());
        for &id in ids {
            self.pause_then(id, within, sends(&tell));
        }
        drop(tell);
        // All are heard, so that none is told of later.
        let settled = wait.iter().filter(|&settled| settled).count();
        settled == ids.len()
    }

    /// [`pause`](Self::pause) without waiting: the I/O thread calls `then`, which must not block, with whether the
    /// source has finished, once it has or the time is over.
    pub(crate) fn pause_then(&self, id: SourceId, within: Duration, then: Tell) {
        self.send(Command::Pause(id.0, Instant::now() + within, then));
    }

    /// Resets a paused source, whose guest's memory was reset.
    /// Returns false if it cannot be.
    pub fn reset(&self, id: SourceId) -> bool {
        let (done, wait) = bounded(1);
        self.send(Command::Reset(id.0, done));
        wait.recv().unwrap_or(false)
    }

    /// Lets a paused source go on.
    pub fn resume(&self, id: SourceId) {
        self.send(Command::Resume(id.0));
    }

    /// Drops sources, and returns once they are gone. One for which the host still works after
    /// a moment is dropped when that is over, and [counted](Self::closing) until then.
    pub fn remove(&self, ids: &[SourceId]) {
        let (tell, wait) = bounded(ids.len());
        for &id in ids {
            self.send(Command::Remove(id.0, sends(&tell)));
        }
        drop(tell);
        let until = Instant::now() + REMOVAL;
        while wait.recv_deadline(until).is_ok() {}
    }

    /// Sources that were removed, and for which the host still works.
    pub fn closing(&self) -> usize {
        self.closing.load(Ordering::Relaxed)
    }
}

/// Tells a channel that has room.
fn sends(tell: &Sender<bool>) -> Tell {
    let tell = tell.clone();
    Box::new(move |over| {
        // The receiver may be gone.
        let _ = tell.send(over);
    })
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let (tell, wait) = bounded(1);
        self.send(Command::Stop(tell));
        // The thread ends when nothing is under way: until then it keeps the memory of that work alive.
        // Nothing waits for it.
        if wait.recv() != Ok(true)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
