//! ⚠ A guest whose number of virtual CPUs the host changes; the first argument says what it does.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hv_guest::abi::{EventPort, Hypercall};
use hv_guest::cpu::{self, PerCpu, Task};
use hv_guest::embassy_futures::select::{Either, select};
use hv_guest::embassy_time::{Duration, Timer};
use hv_guest::executor::yield_now;
use hv_guest::prelude::*;
use hv_guest::{block_on, event, hypercall, per_cpu, shutdown, start_info};

#[hv_guest::entry]
fn main() {
    let what = env::args().nth(1).unwrap_or("");
    match what {
        "follow" => block_on(follow()),
        "pinned" => block_on(pinned()),
        "ignore" => block_on(ignore()),
        "overwrite" => overwrite(),
        "switch" => switch(),
        _ => panic!("do not know {what}"),
    }
    println!("done");
}

/// Does nothing but wait for its end.
async fn ignore() {
    // The promise to end comes first.
    select(shutdown(), async {
        println!("waits");
        core::future::pending::<()>().await;
    })
    .await;
}

/// Turns that a virtual CPU has had.
static TURNS: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(0));
/// Times that tasks have slept and woken up.
static SLEPT: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
/// Events that a task has waited for, and those that a handler has been called for.
static HEARD: AtomicU64 = AtomicU64::new(0);
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// The tasks are to end.
static STOP: AtomicBool = AtomicBool::new(false);

/// Events of virtual CPUs that there are not, which this guest raises itself.
const HEARD_PORT: EventPort = EventPort::of_vcpu(62).unwrap();
const HANDLED_PORT: EventPort = EventPort::of_vcpu(63).unwrap();

/// Says each time that it uses exactly the virtual CPUs that it should, and that all tasks go on.
async fn follow() {
    let workers: Vec<Task<(u64, u64)>> = (0..16).map(|_| cpu::spawn_any(work())).collect();
    let sleepers: Vec<Task<()>> = (0..8).map(|number| cpu::spawn_any(sleep(number))).collect();
    cpu::spawn_any(listen()).detach();
    if cpu::possible() > 1 {
        // Its handler is that of whichever virtual CPU looks after the event.
        cpu::spawn_on(cpu::possible() - 1, || async {
            event::on_upcall(HANDLED_PORT, |_| {
                HANDLED.fetch_add(1, Ordering::SeqCst);
            })
            .expect("this host has upcalls");
        });
    }
    let mut count = cpu::count();
    loop {
        let said = async {
            settle(count).await;
            println!("uses {count}");
            cpu::count_changed(count).await
        };
        // The number may change again before it is settled.
        match select(select(said, cpu::count_changed(count)), shutdown()).await {
            Either::First(Either::First(now) | Either::Second(now)) => count = now,
            Either::Second(()) => break,
        }
    }
    STOP.store(true, Ordering::SeqCst);
    for worker in workers {
        let (turns, sum) = worker.await;
        assert_eq!(sum, turns * (turns + 1) / 2);
    }
    for sleeper in sleepers {
        sleeper.await;
    }
    println!("all tasks have survived");
}

/// Waits until the virtual CPUs below `count` work and the others do not, and everything that tasks wait for comes.
async fn settle(count: usize) {
    let turns = || (0..cpu::possible()).map(|cpu| TURNS[cpu].load(Ordering::SeqCst)).collect::<Vec<_>>();
    loop {
        let before = turns();
        let slept = SLEPT.each_ref().map(|slept| slept.load(Ordering::SeqCst));
        let (heard, handled) = (HEARD.load(Ordering::SeqCst), HANDLED.load(Ordering::SeqCst));
        hypercall::event_send(HEARD_PORT);
        hypercall::event_send(HANDLED_PORT);
        let goes_on = || {
            turns().iter().zip(&before).take(count).all(|(now, before)| *now > before + 10)
                && SLEPT.iter().zip(slept).all(|(now, before)| now.load(Ordering::SeqCst) > before + 2)
                && HEARD.load(Ordering::SeqCst) > heard
                && (cpu::possible() == 1 || HANDLED.load(Ordering::SeqCst) > handled)
        };
        while !goes_on() {
            yield_now().await;
        }
        if turns().iter().zip(&before).skip(count).all(|(now, before)| now == before) {
            return;
        }
    }
}

async fn work() -> (u64, u64) {
    let (mut turns, mut sum) = (0, 0);
    while !STOP.load(Ordering::SeqCst) {
        turns += 1;
        sum += turns;
        TURNS.own().fetch_add(1, Ordering::SeqCst);
        for _ in 0..1000 {
            core::hint::spin_loop();
        }
        yield_now().await;
    }
    (turns, sum)
}

async fn sleep(number: usize) {
    while !STOP.load(Ordering::SeqCst) {
        Timer::after(Duration::from_millis(1 + number as u64 % 3)).await;
        SLEPT[number].fetch_add(1, Ordering::SeqCst);
    }
}

async fn listen() {
    loop {
        event::wait_for(HEARD_PORT).await;
        HEARD.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that lives on the last virtual CPU until the number is 2. From then on one begins on it each time that the number changes.
async fn pinned() {
    let last = cpu::possible() - 1;
    cpu::spawn_on(last, || async {
        println!("lives");
        let mut count = cpu::count();
        while count != 2 {
            count = cpu::count_changed(count).await;
        }
        println!("ends");
    });
    let mut count = cpu::count();
    let changes = async {
        loop {
            count = cpu::count_changed(count).await;
            if count == 1 {
                cpu::spawn_on(last - 1, move || async move { println!("begins on {}", cpu::current()) });
            }
        }
    };
    select(changes, shutdown()).await;
}

/// Writes anything where the host writes the targets, and goes on as if there were none.
fn overwrite() {
    let info = start_info().shared_info.0;
    cpu::start();
    for round in 0u32.. {
        // SAFETY: the words are in the page of shared-info, which is this guest's to write.
        unsafe {
            (*((info + 372) as *const AtomicU32)).store(round.wrapping_mul(0x9e37_79b9), Ordering::SeqCst);
            (*((info + 376) as *const AtomicU64)).store(u64::from(round) << 40, Ordering::SeqCst);
        }
        if round % 64 == 0 {
            hypercall::yield_now();
        }
        if round == 1000 {
            println!("overwrites");
        }
    }
}

core::arch::global_asm!(
    // Counts, then stops: by its own hypercall page, which is as many pages behind the first one as RDI says.
    "targets_count_and_stop:",
    "mov rbx, rdi",
    "shl rbx, 12",
    "add rbx, [rip + {page}]",
    "lock inc qword ptr [rip + {starts}]",
    "1: lea rax, [rbx + 32 * {stop}]",
    "call rax",
    "jmp 1b",
    starts = sym STARTS,
    page = sym PAGE,
    stop = const Hypercall::VcpuStop as u64,
);

static STARTS: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn targets_count_and_stop();
}

/// Has the others start and stop all the time, whatever the target is.
fn switch() {
    PAGE.store(start_info().hypercall_page.0, Ordering::SeqCst);
    let entry = targets_count_and_stop as *const () as u64;
    let stacks: Vec<u64> = (0..cpu::possible())
        .map(|_| Box::leak(vec![0u128; 64].into_boxed_slice()).as_ptr_range().end as u64)
        .collect();
    let mut told = false;
    loop {
        for (number, stack) in stacks.iter().enumerate().skip(1) {
            // SAFETY: the code uses this stack, which is this virtual CPU's, for return addresses, and memory only atomically.
            let _ = unsafe { hypercall::vcpu_start(number as u32, entry, *stack) };
        }
        if STARTS.load(Ordering::SeqCst) > 1000 && !core::mem::replace(&mut told, true) {
            println!("switches");
        }
    }
}
