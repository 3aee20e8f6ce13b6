//! ⚠ A guest that is interrupted by upcalls; the first argument says at what.
//!
//! The event is the request to shut down, which the test makes as often as it likes.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hv_guest::abi::event::{GENERATION, POWER};
use hv_guest::abi::{EventPort, Hypercall};
use hv_guest::embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use hv_guest::embassy_sync::signal::Signal;
use hv_guest::event::{on_upcall, upcall};
use hv_guest::prelude::*;
use hv_guest::{block_on, event, hypercall, start_info};

#[path = "../pattern.rs"]
mod pattern;

use pattern::{Held, hold, spoil};

/// Upcalls so far.
static COUNT: AtomicU64 = AtomicU64::new(0);

fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn counting(_: EventPort) {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    let number = args.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(1);
    match what {
        "spin" => spin(number),
        "patterns" => patterns(number),
        "nested" => nested(number),
        "masked" => masked(number),
        "blocked" => blocked(number),
        "async" => tasks(number),
        "calls" => calls(number),
        "bad-handlers" => bad_handlers(),
        "taken-away" => taken_away(number),
        "crash" => crash(),
        "lost-stack" => lost_stack(number),
        "clone" => clone(),
        _ => {
            println!("upcall: do not know {what}");
            return 2;
        }
    }
    println!("done");
    0
}

/// Listens with this handler, and says so.
fn listen(handler: fn(EventPort)) {
    on_upcall(POWER, handler).expect("this host has upcalls");
    println!("listening");
}

/// Never leaves the guest by itself.
fn spin(number: u64) {
    listen(counting);
    while count() < number {
        core::hint::spin_loop();
    }
}

fn patterns(number: u64) {
    fn handler(_: EventPort) {
        spoil();
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    listen(handler);
    let mut round = 0;
    while count() < number {
        round += 1;
        let before = Held::pattern(round);
        let mut held = before;
        // SAFETY: the count is not zero, and the area this function's own.
        unsafe { hold(&mut held, 20_000) };
        if let Some(what) = held.difference(&before) {
            println!("{what} was changed in round {round}, after {} upcalls", count());
            hv_guest::exit(1);
        }
    }
}

fn nested(number: u64) {
    static DEPTH: AtomicU32 = AtomicU32::new(0);
    static DEEPEST: AtomicU32 = AtomicU32::new(0);
    fn handler(_: EventPort) {
        let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
        DEEPEST.fetch_max(depth, Ordering::Relaxed);
        let at = COUNT.fetch_add(1, Ordering::Relaxed);
        if depth < 4 {
            upcall::unmask();
            // Until it was interrupted itself.
            while count() == at + 1 {
                core::hint::spin_loop();
            }
        }
        DEPTH.fetch_sub(1, Ordering::Relaxed);
    }
    listen(handler);
    while count() < number {
        core::hint::spin_loop();
    }
    assert_eq!((DEPTH.load(Ordering::Relaxed), DEEPEST.load(Ordering::Relaxed)), (0, 4));
}

fn pending() -> bool {
    event::any_pending()
}

fn masked(number: u64) {
    listen(counting);
    for _ in 0..number {
        let masked = upcall::mask();
        let inner = upcall::mask();
        let before = count();
        while !pending() {
            core::hint::spin_loop();
        }
        // Time, and exits, at which an upcall could come.
        for _ in 0..3 {
            hypercall::nop();
            (0..20_000).for_each(|_| core::hint::spin_loop());
        }
        assert_eq!(count(), before, "an upcall came while they were masked");
        drop(inner);
        assert!(pending() && count() == before, "an upcall came while they were still masked");
        drop(masked);
        assert!(count() > before, "the upcall did not come with the unmasking");
    }
}

fn blocked(number: u64) {
    listen(counting);
    while count() < number {
        let masked = upcall::mask();
        let before = count();
        drop(masked);
        // No deadline: nothing but an event ends it, and its handler is the first to run.
        let event = hypercall::block(u64::MAX);
        assert!(event && count() > before, "blocked for {} upcalls", count() - before);
    }
}

fn tasks(number: u64) {
    static SIGNAL: Signal<CriticalSectionRawMutex, u64> = Signal::new();
    fn handler(_: EventPort) {
        SIGNAL.signal(COUNT.fetch_add(1, Ordering::Relaxed) + 1);
    }
    listen(handler);
    block_on(async {
        let mut last = 0;
        while last < number {
            let now = SIGNAL.wait().await;
            assert!(now > last, "{now} after {last}");
            last = now;
        }
    });
}

/// Calls whose result tells which call it was, each of them counted by the host; between
/// them a handler that makes calls of its own.
fn calls(number: u64) {
    const ENTROPY: u32 = Hypercall::Entropy as u32;
    const WALL_CLOCK: u32 = Hypercall::WallClock as u32;
    static HANDLERS_CALLS: AtomicU64 = AtomicU64::new(0);
    fn handler(_: EventPort) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let past_2020 = hypercall::raw(WALL_CLOCK, 0, 0) > 1_577_836_800_000_000_000;
        assert!(past_2020 && hypercall::raw(ENTROPY, 0, 9999) == -22, "a result of the handler's");
        HANDLERS_CALLS.fetch_add(1, Ordering::Relaxed);
    }
    let mut bytes = [0u8; 256];
    listen(handler);
    let mut made = 0u64;
    while count() < number {
        let len = made % 257;
        let result = hypercall::raw(ENTROPY, bytes.as_mut_ptr() as u64, len);
        assert_eq!(result, len as i64, "call {made}, after {} upcalls", count());
        made += 1;
    }
    // For good: what the handler did after this line would not be in it.
    core::mem::forget(upcall::mask());
    println!("calls {} {}", made, HANDLERS_CALLS.load(Ordering::Relaxed));
}

fn bad_handlers() {
    let info = start_info();
    let set = |address: u64| hypercall::raw(Hypercall::SetUpcall as u32, address, 0);
    for address in [
        1,
        info.memory_base.0,
        info.memory_base.0 + 4096,
        info.shared_info.0,
        info.stack_base.0,
        info.devices.0,
        info.heap_base.0,
        info.memory_base.0 + info.memory_size,
        1 << 63,
        u64::MAX,
    ] {
        assert_eq!(set(address), -14, "{address:#x}");
    }
    // Nothing has changed by that, and what is code may be one.
    assert_eq!(set(info.hypercall_page.0), 0);
    assert_eq!(set(0), 0);
    assert_eq!(on_upcall(EventPort(1024), counting).map_err(|error| error.to_status()), Err(-22));
}

fn taken_away(number: u64) {
    listen(counting);
    while count() < number {
        core::hint::spin_loop();
    }
    assert_eq!(hypercall::raw(Hypercall::SetUpcall as u32, 0, 0), 0);
    let before = count();
    while !pending() {
        core::hint::spin_loop();
    }
    hypercall::nop();
    assert_eq!(count(), before, "an upcall without a handler");
}

fn crash() {
    static BUSY: AtomicBool = AtomicBool::new(false);
    #[inline(never)]
    fn crashing_handler(_: EventPort) {
        if !BUSY.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: none; the host has to stop it.
        unsafe { core::ptr::write_volatile(core::ptr::without_provenance_mut::<u8>(16), 1) };
    }
    #[inline(never)]
    fn interrupted_function() {
        BUSY.store(true, Ordering::Relaxed);
        while count() == 0 {
            core::hint::spin_loop();
        }
    }
    listen(crashing_handler);
    interrupted_function();
}

/// Spins with a stack pointer that leads nowhere.
fn lost_stack(number: u64) {
    let info = start_info();
    let garbage = [
        0,
        info.devices.0 + 200,
        info.memory_base.0 + 8192,
        info.memory_base.0 + 300,
        info.hypercall_page.0 + 1000,
        1 << 63,
        u64::MAX,
    ];
    listen(counting);
    // SAFETY: none; the host has to end this.
    unsafe {
        core::arch::asm!(
            "mov {}, %rsp", "2: jmp 2b",
            in(reg) garbage[number as usize % garbage.len()], options(noreturn, att_syntax)
        )
    }
}

/// Is saved with a handler, and finds it when it goes on.
fn clone() {
    static RESTORED: AtomicBool = AtomicBool::new(false);
    fn restored(_: EventPort) {
        RESTORED.store(true, Ordering::Relaxed);
    }
    on_upcall(GENERATION, restored).expect("this host has upcalls");
    println!("before");
    hv_guest::ready();
    while !RESTORED.load(Ordering::Relaxed) {
        core::hint::spin_loop();
    }
    println!("after");
}
