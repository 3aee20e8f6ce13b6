//! Event channels, guest side.

mod critical_section;
pub mod upcall;

use crate::clock::{Instant, now_nanos};
use crate::per_cpu::{self, Padded, PerCpu, per_cpu};
use crate::shared_info::{mask, pending};
use crate::{hypercall, tasks};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::{Poll, Waker};
use embassy_sync::waitqueue::AtomicWaker;
use hv_abi::EventPort;
use hv_abi::event::{PORTS, POWER, TARGETS};
use hv_abi::shared_info::EVENT_WORDS;
use spin::{Mutex, Once};
pub use upcall::on_upcall;

/// Words of the bitmaps in which a virtual CPU has ever listened to an event, one bit each. The other words need no check.
static WORDS: PerCpu<AtomicU32> = per_cpu!(AtomicU32::new(0));

/// Virtual CPUs that are in the block hypercall, or about to be.
static BLOCKED: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

fn words() -> impl Iterator<Item = usize> {
    let mut words = WORDS.own().load(Ordering::Relaxed);
    core::iter::from_fn(move || {
        let index = words.trailing_zeros();
        words &= words.wrapping_sub(1);
        (index < u32::BITS).then_some(index as usize)
    })
}

/// Listens to an event: from now on it ends [`wait`].
pub fn unmask(port: EventPort) {
    if let Some((index, bit)) = port.position()
        && mask()[index].load(Ordering::Relaxed) & bit != 0
    {
        WORDS.own().fetch_or(1 << index, Ordering::Relaxed);
        mask()[index].fetch_and(!bit, Ordering::SeqCst);
        upcall::look();
    }
}

/// Takes an event if it is pending. Check the state that the event is about afterwards, not before.
pub fn take(port: EventPort) -> bool {
    port.position().is_some_and(|(index, bit)| {
        // Reading first keeps the cache line shared while no event has come.
        pending()[index].load(Ordering::SeqCst) & bit != 0
            && pending()[index].fetch_and(!bit, Ordering::SeqCst) & bit != 0
    })
}

/// Whether any event that this guest listens to is pending.
pub fn any_pending() -> bool {
    words().any(|index| {
        let pending = pending()[index].load(Ordering::SeqCst);
        pending != 0 && pending & !mask()[index].load(Ordering::SeqCst) != 0
    })
}

/// How long [`wait`] polls before it blocks, in nanoseconds: about the cost of blocking and waking up. So waiting never
/// costs more than twice as much as the better of the two choices.
const SPIN: u64 = 30_000;

/// After so many waits in succession for which polling was too short, a virtual CPU blocks without polling…
const PATIENCE: u32 = 8;
/// … except in one wait of so many.
const RETRY: u32 = 32;

/// Whether [`wait`] polls at all.
static POLLS: AtomicBool = AtomicBool::new(true);

/// No [`wait`] polls from now on. For guests of which there are many more than processors, each of which waits most of the time: polling takes
/// from another one what it may gain.
pub fn stop_polling() {
    POLLS.store(false, Ordering::Relaxed);
}

/// Waits in succession for which polling was too short.
static MISSES: PerCpu<AtomicU32> = per_cpu!(AtomicU32::new(0));

/// Waits until an unmasked event is pending (true), or until the deadline on the guest's clock (false). The
/// [handler](on_upcall) of an event may have run already when this returns.
///
/// It polls for some microseconds first, unless that has not helped lately. Functions do not.
pub fn wait(deadline: Option<Instant>) -> bool {
    ring_and_wait(None, deadline)
}

/// Rings a doorbell, if one is given, and waits.
pub(crate) fn ring_and_wait(mut doorbell: Option<EventPort>, deadline: Option<Instant>) -> bool {
    let deadline = deadline.map_or(u64::MAX, Instant::as_nanos);
    let misses = MISSES.own().load(Ordering::Relaxed);
    if POLLS.load(Ordering::Relaxed) && (misses < PATIENCE || misses.is_multiple_of(RETRY)) {
        doorbell.take().into_iter().for_each(hypercall::event_send);
        if poll(deadline) {
            MISSES.own().store(0, Ordering::Relaxed);
            return true;
        }
    }
    MISSES.own().store(misses.wrapping_add(1), Ordering::Relaxed);
    // A notification of this virtual CPU makes its event pending first, then checks this flag. So either the check of
    // pending events (at the latest that of the host) sees the event, or the notifier sees this flag.
    BLOCKED.own().store(true, Ordering::SeqCst);
    let pending = match doorbell {
        Some(port) => hypercall::send_and_block(port, deadline),
        None => any_pending() || hypercall::block(deadline),
    };
    BLOCKED.own().store(false, Ordering::Relaxed);
    pending
}

/// Polls for an unmasked event for a while, but not beyond the deadline.
fn poll(deadline: u64) -> bool {
    let until = now_nanos().saturating_add(SPIN).min(deadline);
    loop {
        // Several polls for each reading of the clock.
        for _ in 0..16 {
            if any_pending() {
                return true;
            }
            core::hint::spin_loop();
        }
        if now_nanos() >= until {
            return false;
        }
    }
}

/// Makes another virtual CPU check for work: ends its [`wait`]. Does nothing if there is no such virtual CPU.
pub fn notify_cpu(cpu: usize) {
    let Some(port) = EventPort::of_vcpu(cpu as u32) else { return };
    let Some((index, bit)) = port.position() else { return };
    pending()[index].fetch_or(bit, Ordering::SeqCst);
    if BLOCKED[cpu].load(Ordering::SeqCst) && !critical_section::defer(cpu) {
        hypercall::event_send(port);
    }
}

/// Lets other virtual CPUs, and changes of targets, end the [`wait`] of this one.
pub(crate) fn accept_notifications() {
    EventPort::of_vcpu(per_cpu::current() as u32).into_iter().for_each(unmask);
    unmask(TARGETS);
}

/// Masks all events on this virtual CPU, which is about to stop, except those that end its [`wait`] for work. Returns those that were
/// unmasked, for another one to [adopt](adopt).
pub(crate) fn disown() -> [u64; EVENT_WORDS] {
    let mut disowned = [0; EVENT_WORDS];
    let of_this_cpu = EventPort::of_vcpu(per_cpu::current() as u32);
    for index in words() {
        let kept = [of_this_cpu, Some(TARGETS)].into_iter().flatten().filter_map(EventPort::position);
        let kept = kept.filter(|(word, _)| *word == index).fold(0, |bits, (_, bit)| bits | bit);
        disowned[index] = !mask()[index].fetch_or(!kept, Ordering::SeqCst) & !kept;
    }
    disowned
}

/// Listens to the events that another virtual CPU has [disowned](disown). Those that came meanwhile are pending, and are not lost.
pub(crate) fn adopt(events: [u64; EVENT_WORDS]) {
    for (index, mut bits) in events.into_iter().enumerate() {
        while bits != 0 {
            unmask(EventPort(index as u32 * 64 + bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
}

/// Masks all events on this virtual CPU, which stops now.
pub(crate) fn mask_all() {
    words().for_each(|index| mask()[index].store(u64::MAX, Ordering::SeqCst));
    WORDS.own().store(0, Ordering::Relaxed);
}

/// Waits until this event is pending (true), or until the deadline (false), whatever else happens. Takes the event. For
/// code that waits for one device and leaves other events to their listeners.
pub fn wait_only(port: EventPort, deadline: Option<Instant>) -> bool {
    ring_and_wait_only(None, port, deadline)
}

/// Rings a doorbell, if one is given, and waits for this event only.
pub(crate) fn ring_and_wait_only(
    mut doorbell: Option<EventPort>,
    port: EventPort,
    deadline: Option<Instant>,
) -> bool {
    let Some((word, bit)) = port.position() else { return false };
    unmask(port);
    // The request to shut down stays unmasked: masking it would tell the host that this guest does not listen to it.
    // Events with handlers stay unmasked, too.
    let power = POWER.position().map_or((0, 0), |position| position);
    let mut saved = [0; EVENT_WORDS];
    for index in words() {
        let keep = if index == word { bit } else { 0 } | if index == power.0 { power.1 } else { 0 };
        let keep = keep | upcall::handled(index);
        saved[index] = mask()[index].fetch_or(!keep, Ordering::SeqCst);
    }
    let taken = loop {
        if take(port) {
            break true;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break false;
        }
        ring_and_wait(doorbell.take(), deadline);
    };
    doorbell.into_iter().for_each(hypercall::event_send);
    for index in words() {
        mask()[index].store(saved[index], Ordering::SeqCst);
    }
    upcall::look();
    taken
}

/// Events that [`dispatch`] took and whose task has not checked yet.
static FIRED: [AtomicU64; EVENT_WORDS] = [const { AtomicU64::new(0) }; EVENT_WORDS];
static WAKERS: [AtomicWaker; PORTS as usize] = [const { AtomicWaker::new() }; PORTS as usize];

/// Counts the changes of targets that [`dispatch`] has seen. Virtual CPUs look at this in each step, and not at the page of shared-info, some
/// of whose words are written all the time.
static TARGET_CHANGES: Padded<AtomicU32> = Padded(AtomicU32::new(0));

/// How often a target has changed, as far as this guest knows.
pub(crate) fn target_changes() -> u32 {
    TARGET_CHANGES.0.load(Ordering::SeqCst)
}

/// Takes every pending event that the guest listens to, and wakes the tasks that wait for it.
pub(crate) fn dispatch() {
    for index in words() {
        let mut bits = pending()[index].load(Ordering::SeqCst) & !mask()[index].load(Ordering::SeqCst);
        if bits == 0 {
            continue;
        }
        pending()[index].fetch_and(!bits, Ordering::SeqCst);
        FIRED[index].fetch_or(bits, Ordering::Relaxed);
        while bits != 0 {
            let port = index * 64 + bits.trailing_zeros() as usize;
            if port == TARGETS.0 as usize {
                TARGET_CHANGES.0.fetch_add(1, Ordering::SeqCst);
            }
            WAKERS[port].wake();
            bits &= bits - 1;
        }
    }
}

/// Wakes this waker each time the event comes. It replaces an earlier waker.
pub(crate) fn register(port: EventPort, waker: &Waker) {
    if let Some(slot) = WAKERS.get(port.0 as usize) {
        unmask(port);
        tasks::waits_for_event(port);
        slot.register(waker);
    }
}

/// Takes an event that [`dispatch`] has seen.
pub(crate) fn take_fired(port: EventPort) -> bool {
    port.position().is_some_and(|(index, bit)| {
        let fired = &FIRED[index];
        fired.load(Ordering::Relaxed) & bit != 0 && fired.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    })
}

/// Whether the event has come since the last call. If not, the waker is woken when it comes. Only one task at a time can
/// wait for an event: a later one replaces the earlier one.
pub fn poll_taken(port: EventPort, waker: &Waker) -> bool {
    if take_fired(port) {
        return true;
    }
    register(port, waker);
    // `dispatch` of another virtual CPU may have seen the event between the check and the registration.
    take_fired(port)
}

/// Waits for an event, and takes it. Only one task at a time can wait for an event.
pub async fn wait_for(port: EventPort) {
    poll_fn(|context| if poll_taken(port, context.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// An event that any number of tasks can wait for.
pub(crate) struct Shared {
    port: EventPort,
    listening: Once,
    /// The event has come at least once.
    came: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

/// Wakes all waiting tasks. This is a waker of its own, since each of those tasks may be dropped.
struct SharedListener(&'static Shared);

impl Wake for SharedListener {
    fn wake(self: Arc<Self>) {
        let shared = self.0;
        shared.came.store(true, Ordering::Relaxed);
        // In this order: an event that another virtual CPU dispatches before this listens again has fired when it is taken here.
        shared.listen(&Waker::from(self));
        take_fired(shared.port);
        core::mem::take(&mut *shared.waiting.lock()).into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    pub(crate) const fn new(port: EventPort) -> Self {
        Shared { port, listening: Once::new(), came: AtomicBool::new(false), waiting: Mutex::new(Vec::new()) }
    }

    fn listen(&self, waker: &Waker) {
        register(self.port, waker);
    }

    /// Waits until a condition holds. The condition may become true only when the event comes.
    pub(crate) async fn wait_until(&'static self, mut holds: impl FnMut() -> bool) {
        poll_fn(|context| {
            self.listening.call_once(|| self.listen(&Waker::from(Arc::new(SharedListener(self)))));
            if holds() {
                return Poll::Ready(());
            }
            {
                let mut waiting = self.waiting.lock();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
            }
            // Another virtual CPU may have dispatched the event before this task was among those that wait.
            if holds() {
                return Poll::Ready(());
            }
            tasks::waits_for_event(self.port);
            Poll::Pending
        })
        .await;
    }
}

static SHUTDOWN: Shared = Shared::new(POWER);

/// Waits until the host asks this guest to shut down (Ctrl-C, SIGTERM). Returns at once if it has asked already. Any
/// number of tasks can wait.
///
/// From the first use on, the guest promises to exit soon after such a request. A guest that never waits for the request
/// is ended by the host.
pub async fn shutdown() {
    SHUTDOWN.wait_until(|| SHUTDOWN.came.load(Ordering::Relaxed)).await;
}
