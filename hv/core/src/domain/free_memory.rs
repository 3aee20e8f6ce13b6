//! Memory that a guest has no use for: the I/O thread gives it back to the kernel while the guest runs.

use super::end::Order;
use super::life::State as LifeState;
use super::{Domain, Hook, Offsets, Stop};
use crate::budget::Consumer;
use crate::memory::{FreeMap, GuestMemory};
use crate::reactor::{Registrar, Source, SourceId};
use hv_abi::shared_info::SharedInfo;
use mio::event::Event;
use std::io;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Time from one look into the free map to the next. Together with the time that emptying takes, memory goes back
/// within a tenth of a second.
const INTERVAL: Duration = Duration::from_millis(40);

/// What the virtual CPUs have of the watch over a guest's free map.
#[derive(Default)]
pub(super) struct FreeMemory {
    source: OnceLock<SourceId>,
    requested: Arc<AtomicBool>,
    /// Held while pages are emptied for the budget.
    reclaiming: Mutex<()>,
}

impl FreeMemory {
    /// Waits until no pages of this guest are being emptied for the budget. None are from then on while the guest is paused.
    pub(super) fn settle(&self) {
        drop(self.reclaiming.lock().expect("no panic while held"));
    }
}

/// Tells a guest that resumes whether its free map is watched, whatever was so when it was saved. It is not, yet. A guest that ends, or is reset, when its
/// work is done is told that it is: all of its memory goes back then, and it need not make the call.
pub(super) fn begin(memory: &GuestMemory, places: &Offsets, hook: Option<&dyn Hook>) {
    let watched = hook.is_some_and(|hook| hook.pauses_when_done());
    memory.atomic_u32(watched_at(places)).store(watched.into(), Ordering::SeqCst);
}

fn watched_at(places: &Offsets) -> u64 {
    places.shared_info + offset_of!(SharedInfo, free_map_watched) as u64
}

impl Domain {
    /// The guest has given pages. From now on the I/O thread watches the map.
    pub(super) fn watch_free_map(&self) {
        let (Some(map), Some(engine)) = (self.places.free_map(&self.memory), self.engine.upgrade()) else {
            return;
        };
        if self.free_memory.requested.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut added = false;
        let source = *self.free_memory.source.get_or_init(|| {
            added = true;
            let watch = Watch {
                memory: self.memory.clone(),
                map,
                watched: watched_at(&self.places),
                requested: self.free_memory.requested.clone(),
                state: State::Idle,
            };
            let source = engine.reactor.add_for(&self.source_owner, Box::new(watch));
            self.sources.lock().expect("no panic while held").push(source);
            source
        });
        if !added {
            engine.reactor.wake(source);
        }
    }
}

impl Consumer for Domain {
    fn used(&self) -> u64 {
        self.memory.resident()
    }

    fn in_files(&self) -> u64 {
        self.memory.in_file()
    }

    fn template(&self) -> Option<(usize, u64)> {
        self.memory.template().map(|template| (Arc::as_ptr(template) as usize, template.resident()))
    }

    fn reclaim(&self) {
        /// 64 MiB: it takes a few milliseconds at most.
        const STEPS: usize = 4;
        let Some(map) = self.places.free_map(&self.memory) else { return };
        let _held = self.free_memory.reclaiming.lock().expect("no panic while held");
        // The memory of a paused guest may be reset: a page that was free can be in use then.
        if !matches!(self.life.state(), LifeState::Starting | LifeState::Running) {
            return;
        }
        let mut next = Some(0);
        for _ in 0..STEPS {
            let Some(from) = next else { return };
            (next, _) = map.empty(&self.memory, from);
        }
    }

    fn squeeze(&self, target: Option<u64>) {
        self.squeeze_memory(target);
    }

    fn end(&self) {
        self.order(Order::Stop(Stop::MemoryBudget));
    }
}

impl Offsets {
    /// The free map of a guest that has one.
    pub(super) fn free_map(&self, memory: &GuestMemory) -> Option<FreeMap> {
        (self.free_map != 0).then(|| FreeMap::new(memory, self.free_map, self.heap))
    }
}

/// What the watch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, until the guest makes the call.
    Idle,
    /// It waits until its next look.
    Waiting(Instant),
    /// It goes through the map, and continues at this entry. It may have found pages to empty.
    Looking { next: usize, found: bool },
}

/// Watches a free map, on the I/O thread, until there is nothing to empty.
struct Watch {
    memory: Arc<GuestMemory>,
    map: FreeMap,
    /// Where the guest sees that the map is watched.
    watched: u64,
    requested: Arc<AtomicBool>,
    state: State,
}

impl Watch {
    fn watched(&self) -> &AtomicU32 {
        self.memory.atomic_u32(self.watched)
    }

    /// The end of a look. Returns whether to go on.
    fn goes_on(&self, found: bool) -> bool {
        if found {
            return true;
        }
        // A guest that gives a page from now on calls. One that gave it before has it found here.
        self.watched().store(0, Ordering::SeqCst);
        let overlooked = self.map.any(&self.memory);
        if overlooked {
            self.watched().store(1, Ordering::SeqCst);
        }
        overlooked
    }
}

impl Source for Watch {
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: &Event) {}

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        if self.requested.swap(false, Ordering::SeqCst) && self.state == State::Idle {
            self.watched().store(1, Ordering::SeqCst);
            self.state = State::Waiting(now + INTERVAL);
        }
        match self.state {
            State::Idle => return None,
            State::Waiting(until) if now < until => return Some(until),
            State::Waiting(_) => self.state = State::Looking { next: 0, found: false },
            State::Looking { .. } => {}
        }
        let State::Looking { next, found } = self.state else { return None };
        let (next, emptied) = self.map.empty(&self.memory, next);
        let found = found || emptied > 0;
        let at = match next {
            Some(next) => {
                self.state = State::Looking { next, found };
                now
            }
            None if self.goes_on(found) => {
                self.state = State::Waiting(now + INTERVAL);
                now + INTERVAL
            }
            None => {
                self.state = State::Idle;
                return None;
            }
        };
        Some(at)
    }

    /// The memory was reset, and with it what the guest sees of this.
    fn reset(&mut self) -> bool {
        self.requested.store(false, Ordering::SeqCst);
        self.state = State::Idle;
        true
    }
}
