//! ⚠ A guest with several virtual CPUs; the first argument says what they do.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_guest::abi::{Errno, EventPort, Hypercall};
use hv_guest::cpu::{self, PerCpu};
use hv_guest::embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use hv_guest::embassy_sync::signal::Signal;
use hv_guest::embassy_time::{Duration, Timer};
use hv_guest::executor::yield_now;
use hv_guest::prelude::*;
use hv_guest::sync::{Mutex, OnceLock, RwLock};
use hv_guest::{block_on, hypercall, per_cpu, random, start_info};

type Bell = Signal<CriticalSectionRawMutex, u64>;

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    let number = args.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(1);
    match what {
        "numbers" => numbers(),
        "any" => any(number),
        "ping" => ping(number),
        "timers" => timers(),
        "heap" => heap(number),
        "print" => print(number),
        "random" => random(),
        "locks" => locks(number),
        "once" => once(),
        "panic-together" => panic_together(),
        "end" => end(number, args.next().unwrap_or("")),
        "calls" => calls(),
        "again" => again(number),
        "storm" => storm(number),
        "spin" => spin(),
        "race" => race(number),
        "clone" => clone(number),
        _ => {
            println!("vcpus: do not know {what}");
            return 2;
        }
    }
    println!("done");
    0
}

/// Has every virtual CPU do something, and waits until all have.
fn on_all<F: Future<Output = ()> + 'static>(work: impl Fn(usize) -> F + Copy + Send + 'static) {
    static LEFT: AtomicU32 = AtomicU32::new(0);
    static DONE: Bell = Signal::new();
    LEFT.store(cpu::count() as u32, Ordering::SeqCst);
    for number in 0..cpu::count() {
        cpu::spawn_on(number, move || async move {
            work(number).await;
            if LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
                DONE.signal(0);
            }
        });
    }
    block_on(DONE.wait());
}

/// Each says which it is.
fn numbers() {
    static SEEN: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(0));
    on_all(|number| async move {
        SEEN.own().fetch_add(1 + cpu::current() as u64, Ordering::SeqCst);
        assert_eq!(number, cpu::current());
    });
    for number in 0..cpu::count() {
        println!("virtual CPU {}", SEEN[number].load(Ordering::SeqCst) - 1);
    }
}

/// Tasks that move.
fn any(count: u64) {
    static ON: AtomicU64 = AtomicU64::new(0);
    let tasks = (0..count).map(|number| {
        cpu::spawn_any(async move {
            for _ in 0..10 {
                ON.fetch_or(1 << cpu::current(), Ordering::Relaxed);
                yield_now().await;
            }
            number
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let sum = block_on(async {
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    });
    println!("sum {sum} on {:#x}", ON.load(Ordering::Relaxed));
}

/// Two wake each other, each from its sleep.
fn ping(count: u64) {
    static THERE: Bell = Signal::new();
    static BACK: Bell = Signal::new();
    cpu::spawn_on(1, move || async move {
        for _ in 0..count {
            let number = THERE.wait().await;
            BACK.signal(number + 1);
        }
    });
    block_on(async {
        let mut number = 0;
        for _ in 0..count {
            THERE.signal(number);
            number = BACK.wait().await;
        }
        println!("{number}");
    });
}

fn timers() {
    on_all(|number| async move {
        for n in 0..5 {
            Timer::after(Duration::from_millis((number as u64 + n) % 3 + 1)).await;
        }
    });
}

/// All allocate and free at the same time, also what others have allocated, and look whether anybody else has written there.
fn heap(rounds: u64) {
    static PASSED_ON: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    on_all(move |number| async move {
        for round in 0..rounds {
            let size = (round * 53 + number as u64 * 7) as usize % 300 * 700 + 1;
            PASSED_ON.lock().push(vec![round as u8; size]);
            let taken = PASSED_ON.lock().swap_remove(0);
            assert!(taken.iter().all(|&byte| byte == taken[0]));
            // Grown on another virtual CPU than the one it is from.
            let mut grown = taken;
            let (first, len) = (grown[0], grown.len());
            grown.resize(len * 2, first);
            assert!(grown.iter().all(|&byte| byte == first));
            if round % 3 == 0 {
                grown.truncate(len / 2 + 1);
                grown.shrink_to_fit();
                PASSED_ON.lock().push(grown);
            }
            if PASSED_ON.lock().len() > 30 {
                PASSED_ON.lock().truncate(10);
            }
        }
    });
    on_all(move |number| async move {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for round in 0..rounds {
            let size = (round * 37 + number as u64 * 101) as usize % 3000 + 1;
            kept.push(vec![number as u8 + 1; size]);
            if kept.len() > 20 {
                let oldest = kept.remove((round % 20) as usize);
                assert!(oldest.iter().all(|&byte| byte == number as u8 + 1));
            }
            if round % 64 == 0 {
                yield_now().await;
            }
        }
        assert!(kept.iter().flatten().all(|&byte| byte == number as u8 + 1));
    });
}

/// All print lines.
fn print(lines: u64) {
    on_all(move |number| async move {
        for line in 0..lines {
            println!("line {line} of {number} {}", "x".repeat(line as usize % 50));
        }
    });
}

fn random() {
    static DRAWN: [[AtomicU64; 100]; 8] = [const { [const { AtomicU64::new(0) }; 100] }; 8];
    on_all(|number| async move {
        DRAWN[number % 8].iter().for_each(|slot| slot.store(random::next_u64(), Ordering::SeqCst));
    });
    let used = &DRAWN[..cpu::count().min(8)];
    let mut all: Vec<u64> = used.iter().flatten().map(|slot| slot.load(Ordering::SeqCst)).collect();
    all.sort_unstable();
    all.dedup();
    println!("{} numbers", all.len());
}

/// All change numbers and read them, under locks that some hold for long.
fn locks(rounds: u64) {
    /// Two numbers that are the same for who has the lock.
    static PAIR: RwLock<(u64, u64)> = RwLock::new((0, 0));
    static COUNT: Mutex<u64> = Mutex::new(0);
    static READS: AtomicU64 = AtomicU64::new(0);
    /// How many read at this time, and the most of them.
    static READING: AtomicU64 = AtomicU64::new(0);
    /// Longer than a lock is polled.
    fn hold(round: u64) {
        if round.is_multiple_of(64) {
            (0..20_000).for_each(|_| core::hint::spin_loop());
        }
    }
    on_all(move |number| async move {
        for round in 0..rounds {
            if (round + number as u64).is_multiple_of(4) {
                let mut pair = PAIR.write();
                assert_eq!(READING.load(Ordering::SeqCst), 0, "nobody reads");
                pair.0 += 1;
                hold(round);
                pair.1 += 1;
            } else {
                let pair = PAIR.read();
                READING.fetch_add(1, Ordering::SeqCst);
                let first = pair.0;
                hold(round);
                assert_eq!((first, first), *pair);
                READS.fetch_add(1, Ordering::Relaxed);
                READING.fetch_sub(1, Ordering::SeqCst);
            }
            let mut count = COUNT.lock();
            *count += 1;
            hold(round + 32);
        }
    });
    let writes = PAIR.read().0;
    assert!(PAIR.try_write().is_some() && PAIR.try_read().is_some(), "nobody has it");
    let held = PAIR.read();
    assert!(PAIR.try_write().is_none() && PAIR.try_read().is_some(), "others may read");
    drop(held);
    println!("{} + {writes} = {}", READS.load(Ordering::Relaxed), *COUNT.lock());
}

/// All want a value that one makes.
fn once() {
    static VALUE: OnceLock<u64> = OnceLock::new();
    static MADE: AtomicU64 = AtomicU64::new(0);
    assert_eq!(VALUE.get(), None);
    on_all(|_| async {
        let value = VALUE.get_or_init(|| {
            // The others have to block.
            (0..200_000).for_each(|_| core::hint::spin_loop());
            MADE.fetch_add(1, Ordering::SeqCst) + 7
        });
        assert_eq!(*value, 7);
    });
    assert_eq!(VALUE.set(8), Err(8));
    println!("{VALUE:?}, made {} times", MADE.load(Ordering::SeqCst));
}

/// All of them panic at the same time.
fn panic_together() {
    static READY: AtomicU64 = AtomicU64::new(0);
    on_all(|number| async move {
        READY.fetch_add(1, Ordering::SeqCst);
        while READY.load(Ordering::SeqCst) < cpu::count() as u64 {
            core::hint::spin_loop();
        }
        panic!("the last words of {number}");
    });
}

/// One of them ends the guest; the others spin, or wait.
fn end(number: u64, how: &str) {
    let how = match how {
        "panic" => || panic!("the last words of one"),
        "exit" => || hypercall::exit(7),
        "fault" => || {
            // SAFETY: none: address 0 is not mapped, and the guest is to die of it.
            unsafe { core::ptr::without_provenance_mut::<u8>(core::hint::black_box(0)).write_volatile(1) };
            unreachable!("it survived")
        },
        _ => || unreachable!("no such end"),
    };
    let how: fn() -> ! = how;
    for other in 1..cpu::count() {
        cpu::spawn_on(other, move || async move {
            if other as u64 == number {
                how();
            }
            if other % 2 == 0 {
                loop {
                    core::hint::spin_loop();
                }
            }
        });
    }
    if number == 0 {
        how();
    }
    block_on(core::future::pending::<()>());
}

/// Calls that make no sense.
fn calls() {
    let count = cpu::count() as u64;
    cpu::start();
    let start = |cpu: u64, entry: u64, stack: u64| {
        // No virtual CPU starts by these.
        Errno::check(hypercall::raw3(Hypercall::VcpuStart as u32, cpu, entry, stack) as i32).err()
    };
    let entry = main as *const () as u64;
    let stack = (start_info().stack_base.0 + start_info().stack_size) & !15;
    for cpu in [count, 64, 1 << 32, u64::MAX] {
        assert_eq!(start(cpu, entry, stack), Some(Errno::Invalid), "no virtual CPU {cpu}");
    }
    for cpu in 0..count {
        assert_eq!(start(cpu, entry, stack), Some(Errno::Busy), "virtual CPU {cpu} runs");
    }
    assert_eq!(start(1, entry, stack + 8), Some(Errno::Invalid));
    assert_eq!(start(1, 0, stack), Some(Errno::Fault));
    assert_eq!(start(1, stack - 16, stack), Some(Errno::Fault), "no code");
    assert_eq!(start(1, entry, 16), Some(Errno::Fault));
    assert_eq!(start(1, entry, entry & !15), Some(Errno::Fault), "a stack of code");
    // Doorbells of virtual CPUs, and of none.
    (900..1100).for_each(|port| hypercall::event_send(EventPort(port)));
}

/// The number of starts so far, by the code that is started.
static STARTS: AtomicU64 = AtomicU64::new(0);

core::arch::global_asm!(
    // Counts, then stops: by its own hypercall page, which is as many pages behind the first one as RDI says.
    "vcpus_count_and_stop:",
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

static PAGE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn vcpus_count_and_stop();
}

/// Starts and stops a virtual CPU, again and again.
fn again(rounds: u64) {
    PAGE.store(start_info().hypercall_page.0, Ordering::SeqCst);
    let stack: &'static mut [u128] = Box::leak(vec![0u128; 256].into_boxed_slice());
    let top = stack.as_ptr_range().end as u64;
    let entry = vcpus_count_and_stop as *const () as u64;
    assert_eq!(
        hypercall::raw(Hypercall::VcpuStop as u32, 0, 0) as i32,
        Errno::Invalid.to_status(),
        "the last one"
    );
    let mut busy = 0;
    for round in 1..=rounds {
        // SAFETY: the code uses this stack for one return address, and memory only atomically.
        while let Err(error) = unsafe { hypercall::vcpu_start(1, entry, top) } {
            assert_eq!(error, Errno::Busy);
            busy += 1;
            hypercall::yield_now();
        }
        while STARTS.load(Ordering::SeqCst) < round {
            hypercall::yield_now();
        }
    }
    println!("{} starts{}", STARTS.load(Ordering::SeqCst), if busy > 0 { ", some refused" } else { "" });
}

/// All of them ring all of them.
fn storm(rounds: u64) {
    on_all(move |_| async move {
        for round in 0..rounds {
            for number in 0..cpu::count() as u32 {
                hypercall::event_send(EventPort::of_vcpu(number).unwrap());
            }
            if round % 16 == 0 {
                yield_now().await;
            }
        }
    });
}

/// One changes everything that it shares with the host, while another one has the host look at it.
fn race(seed: u64) {
    let info = start_info();
    let rings = hv_guest::devices().flat_map(|device| device.rings).map(|ring| ring.address.0);
    let mut places: Vec<u64> = rings.filter(|&address| address != 0).collect();
    places.extend([info.shared_info.0, info.vcpu_info.0]);
    cpu::spawn_on(1, move || async move {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        loop {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let place = places[(state >> 32) as usize % places.len()];
            // The indices of rings are in their first words; all of the pages are these virtual CPUs' to write.
            let word = place + (state >> 8) % 96 * 4;
            let value = if state & 1 == 0 { state as u32 } else { (state >> 40) as u32 & 0xff };
            // SAFETY: the word is in a page that the host has given the guest to write; what it destroys is this guest's own.
            unsafe { (*(word as *const AtomicU32)).store(value, Ordering::SeqCst) };
        }
    });
    for round in 0..20_000u64 {
        (0..12).chain(955..965).for_each(|port| hypercall::event_send(EventPort(port)));
        hypercall::block(round % 3 * 1000);
        let _ = hypercall::error_output(&[]);
        let _ = hypercall::raw3(Hypercall::VcpuStart as u32, round % 4, round << 4, round << 4);
    }
    hypercall::exit(0);
}

/// All of them spin, for good.
fn spin() {
    on_all(|_| async {
        loop {
            core::hint::spin_loop();
        }
    });
}

/// Is saved with all virtual CPUs started, and goes on with them.
fn clone(count: u64) {
    on_all(|_| async {});
    hypercall::ready();
    println!("generation is {}", if hv_guest::generation() == [0; 16] { "zero" } else { "another" });
    ping(count);
}
