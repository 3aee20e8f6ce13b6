//! The loop of the I/O thread.

use super::{Registrar, Source};
use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll, Token};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Hears, on the I/O thread, whether something has come to its end.
pub(crate) type Tell = Box<dyn FnOnce(bool) + Send>;

pub(super) enum Command {
    Add(u32, Box<dyn Source>),
    /// Close the source, and say so when it is dropped.
    Remove(u32, Tell),
    /// Settle the source until this moment, and say whether it has.
    Pause(u32, Instant, Tell),
    /// Renew the source, then say whether it could.
    Renew(u32, Sender<bool>),
    Resume(u32),
    /// Close all sources, and say whether something is under way that has to be waited for.
    Stop(Sender<bool>),
}

/// The slot of the reactor's own waker.
pub(super) const WAKER: Token = Token(usize::MAX);

/// How often a source that settles or closes is looked at, if nothing happens to it before: at first, and
/// at last.
const LOOK: Duration = Duration::from_micros(200);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// What a source is there for.
enum Mode {
    Running,
    /// It settles, and is then left alone until it is resumed. Somebody waits for that until a moment.
    Paused(Option<(Instant, Tell)>),
    /// It is dropped as soon as nothing is under way; then somebody hears of that.
    Closing(Tell),
}

struct Driven {
    source: Box<dyn Source>,
    deadline: Option<Instant>,
    mode: Mode,
    /// After which time it is looked at again while it settles or closes.
    look: Duration,
}

impl Driven {
    /// Changes the mode, unless it is the last.
    fn enter(&mut self, mode: Mode) {
        if !matches!(self.mode, Mode::Closing(_)) {
            (self.mode, self.look) = (mode, LOOK);
        }
    }

    /// When to look at what is not over.
    fn later(&mut self, now: Instant) -> Instant {
        let next = now + self.look;
        self.look = (self.look * 2).min(LAST_LOOK);
        next
    }

    /// Goes on settling. Returns when to look again.
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
    /// How many of the sources are closing.
    closing: Arc<AtomicUsize>,
    /// It ends once there are no sources.
    stopping: bool,
}

impl Loop {
    pub(super) fn new(poll: Poll, commands: Receiver<Command>, closing: Arc<AtomicUsize>) -> Self {
        let (sources, deadlines) = (HashMap::new(), BTreeSet::new());
        Loop { poll, commands, sources, deadlines, closing, stopping: false }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        // The sources that had events or are due in this round.
        let mut called = Vec::new();
        while !(self.stopping && self.sources.is_empty()) {
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
                if let Some(driven) = self.sources.get_mut(&slot) {
                    // What a paused source is told is not lost: it looks at everything when it goes on.
                    driven.source.ready(event.token().0 as u32, event);
                    called.push(slot);
                }
            }
            let now = Instant::now();
            called.extend(self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|&(_, slot)| slot));
            called.sort_unstable();
            called.dedup();
            while let Ok(command) = self.commands.try_recv() {
                called.extend(self.obey(command));
            }
            for &slot in &called {
                self.call(slot, now);
            }
        }
    }

    /// Carries out a command. Returns the source that is to be called for it.
    fn obey(&mut self, command: Command) -> Option<u32> {
        match command {
            Command::Add(slot, source) => return self.add(slot, source),
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
            Command::Renew(slot, done) => {
                let renewed = self.sources.get_mut(&slot).is_some_and(|driven| driven.source.renew());
                let _ = done.send(renewed);
            }
            Command::Resume(slot) => {
                self.sources.get_mut(&slot)?.enter(Mode::Running);
                return Some(slot);
            }
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
        self.set_deadline(slot, deadline);
    }

    fn drop_closed(&mut self, slot: u32) {
        self.set_deadline(slot, None);
        let Some(Driven { source, mode, .. }) = self.sources.remove(&slot) else { return };
        drop(source);
        self.closing.fetch_sub(1, Ordering::Relaxed);
        if let Mode::Closing(tell) = mode {
            tell(true);
        }
    }

    fn add(&mut self, slot: u32, mut source: Box<dyn Source>) -> Option<u32> {
        let started = Registrar::new(self.poll.registry(), slot).and_then(|io| source.start(io));
        if let Err(error) = started {
            tracing::error!("a device could not be started: {error}");
            return None;
        }
        self.sources.insert(slot, Driven { source, deadline: None, mode: Mode::Running, look: LOOK });
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
