//! What hv accepts from the processes that guests' processes are forked from: single messages, and a zygote
//! that says anything and closes its end.

use crate::{Input, Seed};
use hv_core::fuzzing::zygote::{self as door, Case, RECEIVED, Said};
use std::io::pipe;
use std::os::fd::AsRawFd;

const WAITING: u64 = 3;
const READY: u64 = 4;
const WORDS: usize = 3;
const STARTS: u64 = 4;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 2 {
        0 => check(&mut input),
        _ => start(&mut input),
    }
}

fn maybe(input: &mut Input<'_>) -> Option<i32> {
    (input.byte() != 0).then(|| input.word() as i32)
}

/// One message: what is taken is exactly what was waited for.
fn check(input: &mut Input<'_>) {
    let expected = (input.number(), input.number(), maybe(input), usize::from(input.byte() % 3));
    let (sender, descriptors, truncated) = (maybe(input), usize::from(input.byte()), input.byte() == 1);
    let text = input.bytes();
    let mut bytes = [0; RECEIVED];
    let len = text.len().min(RECEIVED);
    bytes[..len].copy_from_slice(&text[..len]);
    let case = Case { bytes: (bytes, len), truncated, descriptors, sender, expected };
    match door::check(&case) {
        Ok((from, has_descriptor, error)) => {
            let word = |n: usize| u64::from_le_bytes(text[8 * n..8 * n + 8].try_into().expect("8 bytes"));
            assert!(!truncated && len == 8 * WORDS && text.len() == len);
            assert_eq!((word(0), word(1)), (expected.0, expected.1));
            assert_eq!(Some(from), sender);
            assert!(from > 0 && expected.2.is_none_or(|expected| expected == from));
            assert_eq!(error.map_or(0, |error| -i64::from(error)), word(2) as i64);
            assert!(error.is_none_or(|error| (1..=4095).contains(&error)));
            assert_eq!(descriptors, if error.is_some() { 0 } else { expected.3 });
            assert_eq!(has_descriptor, descriptors > 0);
        }
        Err(message) => assert!(!message.contains('\n') && message.len() < 200, "{message:?}"),
    }
}

fn is(said: &Said, kind: u64, nonce: u64, descriptors: usize) -> bool {
    said.0 == [kind, nonce, 0].map(u64::to_le_bytes).as_flattened() && said.1 == descriptors
}

/// The lowest number that a descriptor can have: another one later is one that was left open.
fn lowest() -> i32 {
    pipe().expect("two descriptors").0.as_raw_fd()
}

/// A zygote: a start succeeds only with a greeting and an answer of its own.
fn start(input: &mut Input<'_>) {
    let mut said = Vec::new();
    while input.more() && said.len() < 32 {
        let kind = input.byte();
        let descriptors = usize::from(input.byte() % 8);
        said.push(match kind % 4 {
            0 => (input.bytes().to_vec(), descriptors),
            kind => {
                let words = [[READY, WAITING, 1][usize::from(kind) - 1], input.number(), input.number()];
                (words.map(u64::to_le_bytes).as_flattened().to_vec(), descriptors)
            }
        });
    }
    let before = lowest();
    let results = door::starts(&said, STARTS);
    assert_eq!(before, lowest(), "descriptors are left open");
    let greetings = said.iter().filter(|said| is(said, WAITING, 0, 1)).count();
    let started = results.iter().filter(|result| result.is_ok()).count();
    assert!(started <= greetings, "{started} of {greetings}");
    for (nonce, result) in (1..).zip(&results) {
        match result {
            Ok(()) => assert!(said.iter().any(|said| is(said, READY, nonce, 0)), "{nonce}"),
            Err(message) => assert!(!message.contains('\n') && message.len() < 300, "{message:?}"),
        }
    }
}

/// Messages that are right, and right ones at the wrong time.
pub fn seeds() -> Vec<Vec<u8>> {
    let words = |words: [u64; 3]| words.map(u64::to_le_bytes).as_flattened().to_vec();
    let single = |kind: u64, result: i64, due: u8, has: u8| {
        let seed = Seed::default().byte(0).number(kind).number(77).byte(1).word(5).byte(due);
        let seed = seed.byte(1).word(5).byte(has).byte(0);
        seed.bytes(&words([kind, 77, result as u64])).done()
    };
    let message = |seed: Seed, kind: u8, nonce: u64, result: i64, descriptors: u8| {
        seed.byte(kind).byte(descriptors).number(nonce).number(result as u64)
    };
    let (ready, waiting) = (1, 2);
    let zygote = || Seed::default().byte(1);
    let greeted = || message(zygote(), waiting, 0, 0, 1);
    let started = || message(greeted(), ready, 1, 0, 0);
    let twice = message(started(), ready, 1, 0, 0);
    vec![
        single(1, 0, 1, 1),
        single(4, 0, 0, 0),
        single(3, -11, 1, 0),
        greeted().done(),
        started().done(),
        message(message(started(), waiting, 0, 0, 1), ready, 2, 0, 0).done(),
        // The greeting of the next comes before the answer.
        message(message(message(greeted(), waiting, 0, 0, 1), ready, 1, 0, 0), ready, 2, 0, 0).done(),
        message(twice, waiting, 0, 0, 1).done(),
        message(greeted(), ready, 1, -12, 0).done(),
        message(zygote(), waiting, 0, -11, 0).done(),
        message(greeted(), ready, 2, 0, 0).done(),
        greeted().byte(0).byte(0).bytes(&[0; 23]).done(),
        greeted().byte(0).byte(3).bytes(&[0; 64]).done(),
    ]
}
