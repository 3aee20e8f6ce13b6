//! A budget for the memory of all guests of an engine.

use hv::{Engine, Outcome, StartError, Stop};
use hv_tests::console::Talking;
use hv_tests::{Platform, eventually, guest_test};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// The budget counts the memory of this process, so that one test at a time runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start(engine: &Engine, memory: u64, promised: u64, arguments: &[&str]) -> Result<Talking, StartError> {
    Talking::start(engine, "memory", arguments, |builder| builder.memory(memory).promised_memory(promised))
}

#[guest_test]
fn promises_beyond_the_budget_are_refused(platform: Platform) {
    let _alone = alone();
    let engine = platform.engine(1);
    engine.set_memory_budget(256 * MIB).unwrap();
    let first = start(&engine, 2048 * MIB, 200 * MIB, &["cache", "8"]).unwrap();
    let refused = start(&engine, 2048 * MIB, 57 * MIB, &["cache", "8"]).map(drop).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "58368 KiB of memory cannot be promised to another guest: of the budget of 262144 KiB, 204800 KiB are promised to others"
    );
    let second = start(&engine, 2048 * MIB, 56 * MIB, &["cache", "8"]).unwrap();
    drop(first);
    // Its promise ends with its memory, which the thread that ran it may still hold.
    eventually("room for another promise", || start(&engine, 2048 * MIB, 200 * MIB, &["cache", "8"]).ok());
    drop(second);
    let refused = start(&engine, 16 * MIB, 17 * MIB, &["cache", "8"]).map(drop).unwrap_err();
    assert!(matches!(refused, StartError::Promise { .. }), "{refused}");
}

#[guest_test]
fn guests_are_asked_for_memory_before_any_is_ended(platform: Platform) {
    let _alone = alone();
    let engine = platform.engine(2);
    engine.set_memory_budget(640 * MIB).unwrap();
    let mut cache = start(&engine, 1024 * MIB, 32 * MIB, &["cache", "300"]).unwrap();
    cache.says("filled");
    // Together they use nearly all that there is.
    let mut other = start(&engine, 400 * MIB, 300 * MIB, &["cache", "272"]).unwrap();
    other.says("filled");
    cache.says("gave up memory");
    eventually("enough memory for both", || {
        (cache.guest.resident_memory() + other.guest.resident_memory() <= 500 * MIB).then_some(())
    });
    assert!(cache.guest.outcome().is_none() && other.guest.outcome().is_none());
}

#[guest_test]
fn a_guest_that_takes_too_much_is_ended_and_others_go_on(platform: Platform) {
    let _alone = alone();
    let engine = platform.engine(2);
    engine.set_memory_budget(512 * MIB).unwrap();
    let mut good = start(&engine, 128 * MIB, 128 * MIB, &["cache", "64"]).unwrap();
    good.says("filled");
    for _ in 0..2 {
        let hog = start(&engine, 8192 * MIB, 16 * MIB, &["hog"]).unwrap();
        let outcome = hog.guest.wait();
        assert!(matches!(outcome, Outcome::Stopped(Stop::MemoryBudget)), "{outcome:?}");
    }
    // It is within what it was promised, and is not even asked.
    assert!(good.guest.outcome().is_none());
    assert!(good.guest.resident_memory() >= 64 * MIB);
}

/// Bytes of a line of /proc/meminfo.
fn host_memory(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let rest = text.lines().find_map(|candidate| candidate.strip_prefix(line)).unwrap();
    rest.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Processes that the kernel has ended for lack of memory.
fn ended_by_the_kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |count| count.parse().unwrap())
}

/// Eight guests that have together twice the memory that there is. Each touches nearly all of its own, again and again, and frees
/// it for the others. `HV_OVERCOMMIT=600` does that with all memory of this host, for so many seconds.
#[guest_test]
fn guests_that_take_turns_have_more_memory_than_there_is(platform: Platform) {
    const GUESTS: usize = 8;
    let _alone = alone();
    let seconds = std::env::var("HV_OVERCOMMIT").ok().map(|seconds| seconds.parse::<u64>().unwrap());
    let (budget, limits) = match seconds {
        Some(_) => (host_memory("MemAvailable:") / 8 * 7, 2 * host_memory("MemTotal:")),
        None => (512 * MIB, 1024 * MIB),
    };
    let limit = limits / GUESTS as u64 / MIB * MIB;
    let block = (limit / 8 * 7 / MIB).to_string();
    let engine = platform.engine(2);
    engine.set_memory_budget(budget).unwrap();
    let before = ended_by_the_kernel();
    let start = || start(&engine, limit, 4 * MIB, &["turns", &block]).unwrap();
    let mut guests: Vec<_> = std::iter::repeat_with(start).take(GUESTS).collect();

    let (mut full, mut turns, begin) = (VecDeque::new(), 0, Instant::now());
    let is_over = |turns| match seconds {
        Some(seconds) => begin.elapsed() >= Duration::from_secs(seconds),
        None => turns >= 5 * GUESTS,
    };
    while !is_over(turns) {
        // Two of eight are full at a time, the third is being emptied.
        if full.len() == 2 {
            let oldest: usize = full.pop_front().unwrap();
            guests[oldest].goes_on();
            guests[oldest].says("freed");
        }
        let next = turns % GUESTS;
        guests[next].goes_on();
        guests[next].says("filled");
        full.push_back(next);
        turns += 1;
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        let says = if full.contains(&number) { &["freed"][..] } else { &["filled", "freed"] };
        for said in says {
            guest.goes_on();
            guest.says(said);
        }
    }
    assert!(guests.iter().all(|guest| guest.guest.outcome().is_none()), "none was ended");
    assert_eq!(ended_by_the_kernel(), before);
    println!("{turns} turns of {block} MiB in {:?}", begin.elapsed());
}
