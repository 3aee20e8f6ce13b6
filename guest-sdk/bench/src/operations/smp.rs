//! Two virtual CPUs: events between them, locks, and work that both do.
#![forbid(unsafe_code)]

use crate::meter::{Meter, counter, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hv_guest::abi::EventPort;
use hv_guest::embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use hv_guest::embassy_sync::signal::Signal;
use hv_guest::sync::Mutex;
use hv_guest::time::Instant;
use hv_guest::{block_on, cpu, event};

/// How long a sibling is left alone: enough for it to have gone to sleep, and as long as between ticks of the host.
const PAUSE_MICROS: u128 = 500;

/// How long the last wake-up took, in cycles; 0 until the sibling has said so.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Starts what the second virtual CPU does: once, however often the operation is run.
fn sibling<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F + Send + 'static) -> Result<(), String> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if cpu::count() < 2 {
        return Err("it has one virtual CPU".into());
    }
    if !STARTED.swap(true, Ordering::Relaxed) {
        cpu::spawn_on(1, work);
    }
    Ok(())
}

/// Leaves the sibling alone for so long, has it woken, and records what it says about that.
fn wakes(meter: &mut Meter, micros: u128, wake: impl Fn()) -> Result<(), String> {
    meter.paced(|count, recorder| {
        for _ in 0..count {
            pause(micros);
            WOKEN.store(0, Ordering::SeqCst);
            wake();
            recorder.record(loop {
                match WOKEN.load(Ordering::SeqCst) {
                    0 => spin_loop(),
                    cycles => break cycles,
                }
            });
        }
        Ok(())
    })
}

/// A mutex that is given to the sibling once it has waited for so many microseconds: from the unlock to the sibling's code.
fn hand_overs(meter: &mut Meter, micros: u128) -> Result<(), String> {
    static LOCK: Mutex<()> = Mutex::new(());
    /// 1: this virtual CPU has the lock; 2: the sibling is about to take it.
    static STEP: AtomicU64 = AtomicU64::new(0);
    static UNLOCKED: AtomicU64 = AtomicU64::new(0);
    sibling(|| async {
        loop {
            wait_for(&STEP, 1);
            STEP.store(2, Ordering::SeqCst);
            let guard = LOCK.lock();
            let now = counter();
            drop(guard);
            say_woken(now, UNLOCKED.load(Ordering::SeqCst));
        }
    })?;
    wakes(meter, 0, || {
        let guard = LOCK.lock();
        STEP.store(1, Ordering::SeqCst);
        wait_for(&STEP, 2);
        pause(micros);
        UNLOCKED.store(tsc(), Ordering::SeqCst);
        drop(guard);
    })
}

fn wait_for(word: &AtomicU64, value: u64) {
    while word.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

fn pause(micros: u128) {
    let start = Instant::now();
    while start.elapsed().as_micros() < micros {
        spin_loop();
    }
}

/// Says how long it took from one reading of the counter to a later one, on another processor.
fn say_woken(now: u64, before: u64) {
    WOKEN.store(now.saturating_sub(before).max(1), Ordering::SeqCst);
}

/// Work that takes some milliseconds, in so many parts.
fn compute(parts: u64) -> u64 {
    const STEPS: u64 = 4 << 20;
    fn part(steps: u64) -> u64 {
        let mut state = black_box(0x9e37_79b9_7f4a_7c15_u64);
        for _ in 0..steps {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        state
    }
    if parts == 1 {
        return part(STEPS);
    }
    let other = cpu::spawn_any(async { part(STEPS / 2) });
    let own = part(STEPS / 2);
    own ^ block_on(other)
}

const fn operation(
    name: &'static str,
    against: Option<&'static str>,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "smp", against, rig: Rig::Vcpus, bytes: 0, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "smp-event",
        Some("event-blocked"),
        "From an event's being sent to the virtual CPU that blocked until then, by another one of the same guest.",
        |meter| {
            static SENT: AtomicU64 = AtomicU64::new(0);
            let port = EventPort::of_vcpu(1).ok_or("no port")?;
            sibling(move || async move {
                loop {
                    // The first event may come before this virtual CPU runs; its executor takes it then.
                    if SENT.load(Ordering::SeqCst) == 0 {
                        event::wait_only(port, None);
                    }
                    let now = counter();
                    match SENT.swap(0, Ordering::SeqCst) {
                        0 => {}
                        sent => say_woken(now, sent),
                    }
                }
            })?;
            wakes(meter, PAUSE_MICROS, || {
                SENT.store(tsc(), Ordering::SeqCst);
                event::notify_cpu(1);
            })
        },
    ),
    operation(
        "smp-wake",
        Some("smp-event"),
        "The same for a task of the sleeping virtual CPU: from a signal to the task that awaits it.",
        |meter| {
            static SENT: Signal<CriticalSectionRawMutex, u64> = Signal::new();
            sibling(|| async {
                loop {
                    let sent = SENT.wait().await;
                    say_woken(counter(), sent);
                }
            })?;
            wakes(meter, PAUSE_MICROS, || SENT.signal(tsc()))
        },
    ),
    operation(
        "smp-line",
        None,
        "A word that two virtual CPUs write in turn: what it takes from one processor to the other.",
        |meter| {
            static TURN: AtomicU64 = AtomicU64::new(0);
            sibling(|| async {
                loop {
                    wait_for(&TURN, 1);
                    TURN.store(0, Ordering::Release);
                }
            })?;
            // Half of each round trip.
            meter.paced(|count, recorder| {
                for _ in 0..count {
                    let start = tsc();
                    TURN.store(1, Ordering::Release);
                    wait_for(&TURN, 0);
                    recorder.record((tsc() - start) / 2);
                }
                Ok(())
            })
        },
    ),
    operation(
        "smp-lock",
        Some("smp-line"),
        "From the unlock of a mutex to the virtual CPU that polls for it.",
        |meter| hand_overs(meter, 1),
    ),
    operation(
        "smp-lock-blocked",
        Some("smp-event"),
        "From the unlock of a mutex to the virtual CPU that has blocked for it.",
        |meter| hand_overs(meter, PAUSE_MICROS),
    ),
    operation("smp-compute-1", None, "Computing for some milliseconds on one of two virtual CPUs.", |meter| {
        meter.each(|| {
                black_box(compute(1));
            });
        Ok(())
    }),
    operation(
        "smp-compute-2",
        Some("smp-compute-1"),
        "The same work in two parts, one for each of two virtual CPUs.",
        |meter| {
            meter.each(|| {
                black_box(compute(2));
            });
            Ok(())
        },
    ),
];
