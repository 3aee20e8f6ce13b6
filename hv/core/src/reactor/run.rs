//! The loop of the I/O thread.

use super::fair::FairQueue;
use super::load::ThreadLoad;
use super::{OwnProcessor, Registrar, Source, SourceOwner};
use crossbeam_channel::{Receiver, Sender};
use hv_host::cpu_clock::CpuClock;
use hv_host::prompt::{be_first_while_light, look_at_load};
use mio::event::Event;
use mio::{Events, Poll, Token};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Called on the I/O thread with whether an operation has finished.
pub(crate) type Tell = Box<dyn FnOnce(bool) + Send>;

pub(super) enum Command {
    Add(u32, SourceOwner, Box<dyn Source>),
    /// Close the source, and report when it is dropped.
    Remove(u32, Tell),
    /// Settle the source until this time, and report whether it has settled.
    Pause(u32, Instant, Tell),
    /// Reset the source, then report whether that succeeded.
    Reset(u32, Sender<bool>),
    Resume(u32),
    Wake(u32),
    /// Close all sources, and report whether work is in flight that still keeps the thread running.
    Stop(Sender<bool>),
}

/// The slot of the reactor's own waker.
pub(super) const WAKER: Token = Token(usize::MAX);

/// The interval at which a source that settles or closes is called if nothing else happens to it: the first value and the limit.
const LOOK: Duration = Duration::from_micros(200);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The mode of a source.
enum Mode {
    Running,
    /// It settles, and is then not called until it is resumed. The caller waits for that, until a deadline.
    Paused(Option<(Instant, Tell)>),
    /// It is dropped as soon as nothing is in flight. Then the caller is told.
    Closing(Tell),
}

/// After this time, the loop polls for other ready sources.
const LOOK_AROUND: Duration = Duration::from_micros(100);

/// Measures how much of an interval this thread has worked, without the time in which it waited for a processor.
struct WorkClock {
    clock: CpuClock,
    /// Its value when it was last read.
    read: Duration,
    /// Sum of the short intervals since then, which were counted as they are.
    unread: Duration,
}

impl WorkClock {
    /// For a shorter interval the clock is not read: the system call costs too much.
    const SHORT: Duration = Duration::from_micros(50);

    fn new() -> Self {
        let clock = CpuClock::of_this_thread();
        WorkClock { clock, read: clock.read(), unread: Duration::ZERO }
    }

    /// How much of an interval that ends now was work, at most.
    fn worked(&mut self, elapsed: Duration) -> Duration {
        if elapsed < Self::SHORT {
            self.unread += elapsed;
            return elapsed;
        }
        let read = self.clock.read();
        let most = (read - self.read).saturating_sub(self.unread);
        (self.read, self.unread) = (read, Duration::ZERO);
        elapsed.min(most)
    }
}

struct Driven {
    source: Box<dyn Source>,
    owner: SourceOwner,
    /// Whether it is queued to be called.
    queued: bool,
    deadline: Option<Instant>,
    mode: Mode,
    /// The interval until it is called again while it settles or closes.
    look: Duration,
}

impl Driven {
    /// Changes the mode, unless the source is closing.
    fn enter(&mut self, mode: Mode) {
        if !matches!(self.mode, Mode::Closing(_)) {
            (self.mode, self.look) = (mode, LOOK);
        }
    }

    /// When to call it again, if it has not finished.
    fn later(&mut self, now: Instant) -> Instant {
        let next = now + self.look;
        self.look = (self.look * 2).min(LAST_LOOK);
        next
    }

    /// Continues to settle. Returns when to call it again.
    fn settle(&mut self, now: Instant) -> Option<Instant> {
        let settled = self.source.settle();
        let Mode::Paused(waiting) = &mut self.mode else { return None };
        if let Some((_, tell)) = waiting.take_if(|(until, _)| settled || *until <= now) {
            tell(settled);
        }
        let until = waiting.as_ref().map(|&(until, _)| until);
        (!settled).then(|| {
            let next = self.later(now);
            until.map_or(next, |until| next.min(until))
        })
    }
}

pub(super) struct Loop {
    poll: Poll,
    commands: Receiver<Command>,
    sources: HashMap<u32, Driven>,
    deadlines: BTreeSet<(Instant, u32)>,
    queue: FairQueue,
    /// The clock of this thread's work; `None` until the loop runs.
    work: Option<WorkClock>,
    /// Number of sources that are closing.
    closing: Arc<AtomicUsize>,
    /// Called with whether this thread needs a processor of its own.
    own_processor: OwnProcessor,
    /// The loop ends once there are no sources.
    stopping: bool,
}

impl Loop {
    pub(super) fn new(
        poll: Poll,
        commands: Receiver<Command>,
        closing: Arc<AtomicUsize>,
        own_processor: OwnProcessor,
    ) -> Self {
        let (sources, deadlines) = (HashMap::new(), BTreeSet::new());
        let queue = FairQueue::default();
        Loop {
            poll,
            commands,
            sources,
            deadlines,
            queue,
            work: None,
            closing,
            own_processor,
            stopping: false,
        }
    }

    pub(super) fn run(mut self) {
        self.work = Some(WorkClock::new());
        let clock = CpuClock::of_this_thread();
        let mut events = Events::with_capacity(256);
        let mut now = Instant::now();
        let mut load = ThreadLoad::new(now, clock.read());
        be_first_while_light();
        while !(self.stopping && self.sources.is_empty()) {
            let next = self.deadlines.first().map(|&(at, _)| at).into_iter().chain(load.deadline()).min();
            let timeout = match self.queue.is_empty() {
                true => next.map(|at| at.saturating_duration_since(now)),
                false => Some(Duration::ZERO),
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("epoll_wait: {error}");
                return;
            }
            let begin = Instant::now();
            now = begin;
            for event in &events {
                if event.token() != WAKER {
                    now = self.ready(event, now);
                }
            }
            while let Some(&(at, slot)) = self.deadlines.first()
                && at <= now
            {
                self.set_deadline(slot, None);
                self.enqueue(slot);
            }
            while let Ok(command) = self.commands.try_recv() {
                if let Some(slot) = self.obey(command) {
                    self.enqueue(slot);
                }
            }
            let until = now + LOOK_AROUND;
            while now < until
                && let Some((owner, slot)) = self.queue.next()
            {
                now = self.serve(owner, slot, now);
            }
            look_at_load();
            if let Some(needed) = load.note(now - begin, now, || clock.read()) {
                (self.own_processor)(needed);
            }
        }
    }

    /// Passes an event to a source, and queues the source. Returns the current time.
    fn ready(&mut self, event: &Event, now: Instant) -> Instant {
        let slot = (event.token().0 >> 32) as u32;
        let Some(driven) = self.sources.get_mut(&slot) else { return now };
        // An event for a paused source is not lost: the source checks everything when it is resumed.
        driven.source.ready(event.token().0 as u32, event);
        let owner = driven.owner.clone();
        self.enqueue(slot);
        self.charge(&owner, now)
    }

    /// Calls a source that was queued. Returns the current time.
    fn serve(&mut self, number: u64, slot: u32, now: Instant) -> Instant {
        let Some(driven) = self.sources.get_mut(&slot) else {
            // It has been closed since.
            self.queue.charge(number, 0);
            return now;
        };
        driven.queued = false;
        let owner = driven.owner.clone();
        self.call(slot, now);
        self.charge(&owner, now)
    }

    /// Charges an owner for this thread's work since a point in time. Returns the current time.
    fn charge(&mut self, owner: &SourceOwner, since: Instant) -> Instant {
        let now = Instant::now();
        let worked = self.work.as_mut().map_or(now - since, |work| work.worked(now - since));
        owner.worked.fetch_add(worked.as_nanos() as u64, Ordering::Relaxed);
        if let Some(owed) = self.queue.charge(owner.number, worked.as_nanos() as u64)
            && let Some(payer) = owner.payer.as_ref().and_then(Weak::upgrade)
        {
            payer.charge(Duration::from_nanos(owed));
        }
        now
    }

    /// Queues a source, to be called when its owner is selected.
    fn enqueue(&mut self, slot: u32) {
        if let Some(driven) = self.sources.get_mut(&slot)
            && !std::mem::replace(&mut driven.queued, true)
        {
            self.queue.push(driven.owner.number, slot);
        }
    }

    /// Carries out a command. Returns the source that has to be called afterwards.
    fn obey(&mut self, command: Command) -> Option<u32> {
        match command {
            Command::Add(slot, owner, source) => return self.add(slot, owner, source),
            Command::Remove(slot, tell) => {
                self.close(slot, tell);
                return Some(slot);
            }
            Command::Pause(slot, until, tell) => match self.sources.get_mut(&slot) {
                Some(driven) => {
                    driven.enter(Mode::Paused(Some((until, tell))));
                    return Some(slot);
                }
                None => tell(true),
            },
            Command::Reset(slot, done) => {
                let reset = self.sources.get_mut(&slot).is_some_and(|driven| driven.source.reset());
                let _ = done.send(reset);
            }
            Command::Resume(slot) => {
                self.sources.get_mut(&slot)?.enter(Mode::Running);
                return Some(slot);
            }
            Command::Wake(slot) => return Some(slot),
            Command::Stop(tell) => {
                self.stopping = true;
                let slots: Vec<u32> = self.sources.keys().copied().collect();
                for slot in slots {
                    self.close(slot, Box::new(|_| {}));
                    self.call(slot, Instant::now());
                }
                let _ = tell.send(!self.sources.is_empty());
            }
        }
        None
    }

    fn close(&mut self, slot: u32, tell: Tell) {
        let Some(driven) = self.sources.get_mut(&slot) else { return tell(true) };
        if matches!(driven.mode, Mode::Closing(_)) {
            return;
        }
        self.closing.fetch_add(1, Ordering::Relaxed);
        driven.enter(Mode::Closing(tell));
    }

    fn call(&mut self, slot: u32, now: Instant) {
        let Some(driven) = self.sources.get_mut(&slot) else { return };
        let deadline = match driven.mode {
            Mode::Running => driven.source.poll(now),
            Mode::Paused(_) => driven.settle(now),
            Mode::Closing(_) if !driven.source.close() => Some(driven.later(now)),
            Mode::Closing(_) => return self.drop_closed(slot),
        };
        match deadline {
            Some(at) if at <= now => {
                self.set_deadline(slot, None);
                self.enqueue(slot);
            }
            _ => self.set_deadline(slot, deadline),
        }
    }

    fn drop_closed(&mut self, slot: u32) {
        self.set_deadline(slot, None);
        let Some(Driven { source, mode, owner, .. }) = self.sources.remove(&slot) else { return };
        self.queue.leave(owner.number);
        drop(source);
        self.closing.fetch_sub(1, Ordering::Relaxed);
        if let Mode::Closing(tell) = mode {
            tell(true);
        }
    }

    fn add(&mut self, slot: u32, owner: SourceOwner, mut source: Box<dyn Source>) -> Option<u32> {
        let started = Registrar::new(self.poll.registry(), slot).and_then(|io| source.start(io));
        if let Err(error) = started {
            tracing::error!("a device could not be started: {error}");
            return None;
        }
        self.queue.join(owner.number);
        let driven = Driven { source, owner, queued: false, deadline: None, mode: Mode::Running, look: LOOK };
        self.sources.insert(slot, driven);
        Some(slot)
    }

    fn set_deadline(&mut self, slot: u32, deadline: Option<Instant>) {
        let Some(driven) = self.sources.get_mut(&slot) else { return };
        if let Some(old) = std::mem::replace(&mut driven.deadline, deadline) {
            self.deadlines.remove(&(old, slot));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Reactor;
    use std::sync::mpsc;

    /// A source that is always ready, or ready once.
    struct Counted {
        always: bool,
        called: mpsc::Sender<&'static str>,
        name: &'static str,
    }

    impl Source for Counted {
        fn start(&mut self, _: Registrar) -> io::Result<()> {
            Ok(())
        }

        fn ready(&mut self, _: u32, _: &Event) {}

        fn poll(&mut self, now: Instant) -> Option<Instant> {
            let _ = self.called.send(self.name);
            self.always.then_some(now)
        }
    }

    #[test]
    fn a_busy_source_waits_for_others() {
        let reactor = Reactor::new().unwrap();
        let (called, calls) = mpsc::channel();
        let busy = reactor.owner(None);
        let add = |owner: &SourceOwner, name, always| {
            reactor.add_for(owner, Box::new(Counted { always, called: called.clone(), name }))
        };
        let ids: Vec<_> = (0..8).map(|_| add(&busy, "busy", true)).collect();
        assert!((0..10_000).all(|_| calls.recv() == Ok("busy")));
        // A new source is queued behind at most those calls that were made before the thread polled.
        add(&reactor.owner(None), "other", false);
        assert!(calls.iter().any(|name| name == "other"));
        reactor.remove(&ids);
        drop(reactor);
        drop(called);
        // It ends once all of them are dropped. The source that was ready once was called once.
        assert!(calls.iter().all(|name| name == "busy"));
    }
}
