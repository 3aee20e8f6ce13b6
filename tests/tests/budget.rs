//! A budget for the memory of all guests of an engine.

use hv::{Builder, Engine, Guest, Image, Outcome, StartError, Stop};
use hv_tests::{Platform, console, eventually, guest, guest_test};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

const MIB: u64 = 1 << 20;

/// The budget counts the memory of this process, so that one test at a time runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start(
    engine: &Engine,
    memory: u64,
    promised: u64,
    arguments: &[&str],
) -> Result<(Guest, BufReader<UnixStream>), StartError> {
    let (from, output) = console::pair();
    let image = Arc::new(Image::open(&guest("memory")).unwrap());
    let mut builder = Builder::new(image).memory(memory).promised_memory(promised).output(output);
    for argument in arguments {
        builder = builder.argument(argument);
    }
    Ok((builder.spawn(engine)?, BufReader::new(from)))
}

#[track_caller]
fn says(from: &mut BufReader<UnixStream>, expected: &str) {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), expected);
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
    let (cache, mut says_of_cache) = start(&engine, 1024 * MIB, 32 * MIB, &["cache", "300"]).unwrap();
    says(&mut says_of_cache, "filled");
    // Together they use nearly all that there is.
    let (other, mut says_of_other) = start(&engine, 400 * MIB, 300 * MIB, &["cache", "272"]).unwrap();
    says(&mut says_of_other, "filled");
    says(&mut says_of_cache, "gave up memory");
    eventually("enough memory for both", || {
        (cache.resident_memory() + other.resident_memory() <= 500 * MIB).then_some(())
    });
    assert!(cache.outcome().is_none() && other.outcome().is_none());
}

#[guest_test]
fn a_guest_that_takes_too_much_is_ended_and_others_go_on(platform: Platform) {
    let _alone = alone();
    let engine = platform.engine(2);
    engine.set_memory_budget(512 * MIB).unwrap();
    let (good, mut says_of_good) = start(&engine, 128 * MIB, 128 * MIB, &["cache", "64"]).unwrap();
    says(&mut says_of_good, "filled");
    for _ in 0..2 {
        let (hog, _output) = start(&engine, 8192 * MIB, 16 * MIB, &["hog"]).unwrap();
        let outcome = hog.wait();
        assert!(matches!(outcome, Outcome::Stopped(Stop::MemoryBudget)), "{outcome:?}");
    }
    // It is within what it was promised, and is not even asked.
    assert!(good.outcome().is_none());
    assert!(good.resident_memory() >= 64 * MIB);
}
