//! The I/O thread: one readiness loop for the back ends of all guests.
//!
//! A [`Source`] is anything that waits for descriptors or for time: a doorbell
//! with its device, a network. The reactor owns it, calls it from one thread,
//! and never blocks in it.

use crate::jail::{self, Kind};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something that the reactor drives. No method may block.
pub trait Source: Send {
    /// Registers descriptors. Called once, before everything else.
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

    /// Goes back to where the rings are in its guest's memory, which was reset
    /// while it was settled. Returns false if it cannot: then it is of no further use.
    fn renew(&mut self) -> bool {
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
    pub fn new(registry: &Registry, slot: u32) -> io::Result<Self> {
        Ok(Registrar { registry: registry.try_clone()?, slot })
    }

    /// Another registrar for the same source.
    pub fn try_clone(&self) -> io::Result<Self> {
        Registrar::new(&self.registry, self.slot)
    }

    fn token(&self, key: u32) -> Token {
        Token(((self.slot as usize) << 32) | key as usize)
    }

    /// Starts watching a descriptor.
    pub fn register(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.register(source, self.token(key), interest)
    }

    /// Changes what is watched for.
    pub fn reregister(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.reregister(source, self.token(key), interest)
    }

    /// Stops watching. Dropping the descriptor does the same.
    pub fn deregister(&self, source: &mut (impl mio::event::Source + ?Sized)) -> io::Result<()> {
        self.registry.deregister(source)
    }
}

/// Identifies a source of a [`Reactor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(u32);

enum Command {
    Add(u32, Box<dyn Source>),
    /// Drop the source, then say so.
    Remove(u32, Sender<()>),
    /// Settle the source, then say so.
    Pause(u32, Sender<()>),
    /// Renew the source, then say whether it could.
    Renew(u32, Sender<bool>),
    Resume(u32),
    Stop,
}

/// The I/O thread's handle. Dropping it ends the thread and drops the sources.
pub struct Reactor {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    next: AtomicU32,
    thread: Option<JoinHandle<()>>,
}

/// The slot of the reactor's own waker.
const WAKER: Token = Token(usize::MAX);

impl Reactor {
    /// Starts the I/O thread.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (commands, receiver) = unbounded();
        let thread = jail::spawn(Kind::Io, "hv-io", move || {
            Loop { poll, commands: receiver, sources: HashMap::new(), deadlines: BTreeSet::new() }.run();
        })?;
        Ok(Reactor { commands, waker, next: AtomicU32::new(0), thread: Some(thread) })
    }

    fn send(&self, command: Command) {
        // A thread that has ended, by a panic, has nobody to tell.
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// Hands a source to the I/O thread. An error of its
    /// [`start`](Source::start) is logged, and the source dropped.
    pub fn add(&self, source: Box<dyn Source>) -> SourceId {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Add(slot, source));
        SourceId(slot)
    }

    /// Has a source finish what it has taken on, and returns once it has: until
    /// [`resume`](Self::resume) it does nothing.
    pub fn pause(&self, id: SourceId) {
        let (done, wait) = bounded(1);
        self.send(Command::Pause(id.0, done));
        let _ = wait.recv();
    }

    /// Takes a paused source back to where its guest's memory is.
    /// Returns false if it cannot be.
    pub fn renew(&self, id: SourceId) -> bool {
        let (done, wait) = bounded(1);
        self.send(Command::Renew(id.0, done));
        wait.recv().unwrap_or(false)
    }

    /// Lets a paused source go on.
    pub fn resume(&self, id: SourceId) {
        self.send(Command::Resume(id.0));
    }

    /// Drops a source, and returns once it is gone.
    pub fn remove(&self, id: SourceId) {
        let (done, wait) = bounded(1);
        self.send(Command::Remove(id.0, done));
        let _ = wait.recv();
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Running {
    source: Box<dyn Source>,
    deadline: Option<Instant>,
    /// Who waits for it to settle, from then on until it is resumed.
    paused: Option<Sender<()>>,
}

impl Running {
    /// Goes on settling. Returns when to look again.
    fn settle(&mut self, now: Instant) -> Option<Instant> {
        let settled = self.source.settle();
        if settled && let Some(waiting) = &self.paused {
            let _ = waiting.try_send(());
        }
        (!settled).then(|| now + SETTLE)
    }
}

/// How often a source that settles is looked at, if nothing happens to it before.
const SETTLE: Duration = Duration::from_micros(200);

struct Loop {
    poll: Poll,
    commands: Receiver<Command>,
    sources: HashMap<u32, Running>,
    deadlines: BTreeSet<(Instant, u32)>,
}

impl Loop {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        // The sources that had events or are due in this round.
        let mut called = Vec::new();
        loop {
            let timeout = self
                .deadlines
                .first()
                .map(|&(deadline, _)| deadline.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("epoll_wait: {error}");
                return;
            }
            called.clear();
            for event in &events {
                if event.token() == WAKER {
                    continue;
                }
                let slot = (event.token().0 >> 32) as u32;
                if let Some(running) = self.sources.get_mut(&slot) {
                    // What a paused source is told is not lost: it looks at everything when it goes on.
                    running.source.ready(event.token().0 as u32, event);
                    called.push(slot);
                }
            }
            let now = Instant::now();
            called.extend(self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|&(_, slot)| slot));
            called.sort_unstable();
            called.dedup();
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Add(slot, source) => called.extend(self.add(slot, source)),
                    Command::Remove(slot, done) => {
                        self.set_deadline(slot, None);
                        self.sources.remove(&slot);
                        let _ = done.send(());
                    }
                    Command::Pause(slot, done) => {
                        if let Some(running) = self.sources.get_mut(&slot) {
                            running.paused = Some(done);
                            called.push(slot);
                        }
                    }
                    Command::Renew(slot, done) => {
                        let renewed = self.sources.get_mut(&slot).map(|running| running.source.renew());
                        let _ = done.send(renewed.unwrap_or(false));
                    }
                    Command::Resume(slot) => {
                        if let Some(running) = self.sources.get_mut(&slot) {
                            running.paused = None;
                            called.push(slot);
                        }
                    }
                    Command::Stop => return,
                }
            }
            for &slot in &called {
                if let Some(running) = self.sources.get_mut(&slot) {
                    let deadline = match running.paused {
                        None => running.source.poll(now),
                        Some(_) => running.settle(now),
                    };
                    self.set_deadline(slot, deadline);
                }
            }
        }
    }

    fn add(&mut self, slot: u32, mut source: Box<dyn Source>) -> Option<u32> {
        let started = Registrar::new(self.poll.registry(), slot).and_then(|io| source.start(io));
        if let Err(error) = started {
            tracing::error!("a device could not be started: {error}");
            return None;
        }
        self.sources.insert(slot, Running { source, deadline: None, paused: None });
        Some(slot)
    }

    fn set_deadline(&mut self, slot: u32, deadline: Option<Instant>) {
        let Some(running) = self.sources.get_mut(&slot) else { return };
        if let Some(old) = std::mem::replace(&mut running.deadline, deadline) {
            self.deadlines.remove(&(old, slot));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, slot));
        }
    }
}
