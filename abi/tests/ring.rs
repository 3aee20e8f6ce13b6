//! Rings over plain memory: random use against a model, and hostile peers.

use hv_abi::ring::{
    BACK_LINE, Back, CLOSED_OFFSET, FRONT_LINE, Front, Layout, REQUEST_SLOTS, SharedMemory, Violation,
};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Memory of exactly one ring: what is outside does not exist.
#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    fn new(layout: &Layout) -> Self {
        Memory(Rc::new(RefCell::new(vec![0; layout.size()])))
    }

    /// All indices at `start`, nothing in flight, nobody waiting.
    fn starting_at(layout: &Layout, start: u32) -> Self {
        let memory = Memory::new(layout);
        for line in [FRONT_LINE, BACK_LINE] {
            for word in 0..4 {
                memory.store(line + 4 * word, start);
            }
        }
        memory
    }
}

impl SharedMemory for Memory {
    fn load(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < REQUEST_SLOTS);
        u32::from_le_bytes(self.0.borrow()[offset..][..4].try_into().unwrap())
    }
    fn store(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < REQUEST_SLOTS);
        self.0.borrow_mut()[offset..][..4].copy_from_slice(&value.to_le_bytes());
    }
    fn fence(&self) {}
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset >= REQUEST_SLOTS);
        bytes.copy_from_slice(&self.0.borrow()[offset..][..bytes.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset >= REQUEST_SLOTS);
        self.0.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// Something that either end of a queue can do; counts are brought into range.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Publish,
    WaitForRoom(u32),
    Pop(usize),
    Release,
    WaitForEntries,
    Suppress,
    /// Asks both ends for their counts. Not after every step: `push` and `pop`
    /// must be right with what they remember, too.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40usize).prop_map(Step::Push),
        4 => Just(Step::Publish),
        1 => (0..40u32).prop_map(Step::WaitForRoom),
        4 => (0..40usize).prop_map(Step::Pop),
        4 => Just(Step::Release),
        1 => Just(Step::WaitForEntries),
        1 => Just(Step::Suppress),
        2 => Just(Step::Look),
    ]
}

/// Where indices start: anywhere, and often shortly before they wrap.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>(), (0..100u32).prop_map(|before| u32::MAX - before)]
}

/// What a queue must do, with indices that never wrap.
#[derive(Default)]
struct Model<T> {
    unpublished: VecDeque<T>,
    waiting: VecDeque<T>,
    /// Counts since the start.
    published: u64,
    popped: u64,
    released: u64,
    /// The counts at which the other end wants to hear, if it was told.
    prod_event: Option<u64>,
    cons_event: Option<u64>,
}

impl<T> Model<T> {
    fn pushed(&self) -> u64 {
        self.published + self.unpublished.len() as u64
    }
}

/// Runs `steps` on a queue's two ends, given as closures that carry out one
/// step each, and compares every answer with the model's.
macro_rules! check_against_model {
    ($producer:expr, $consumer:expr, $entries:expr, $steps:expr, $make:expr) => {{
        let (producer, consumer, entries, make) = (&mut $producer, &mut $consumer, $entries as u64, $make);
        let mut model = Model::default();
        let mut made = 0u64;
        for step in $steps {
            match step {
                Step::Push(count) => {
                    let new: Vec<_> = (made..).take(count).map(&make).collect();
                    let room = entries - (model.pushed() - model.released);
                    let done = producer.push(&new).unwrap();
                    prop_assert_eq!(done as u64, room.min(count as u64));
                    made += done as u64;
                    model.unpublished.extend(new.into_iter().take(done));
                }
                Step::Publish => {
                    let old = model.published;
                    model.published = model.pushed();
                    model.waiting.append(&mut model.unpublished);
                    let asked = model.prod_event.is_some_and(|event| old < event && event <= model.published);
                    prop_assert_eq!(producer.publish(), asked);
                }
                Step::WaitForRoom(wanted) => {
                    let wanted = u64::from(wanted).clamp(1, entries);
                    let room = entries - (model.pushed() - model.released);
                    prop_assert_eq!(producer.wait_for_room(wanted as u32).unwrap(), room >= wanted);
                    // Before `entries` were ever pushed, the event lies before the start.
                    model.cons_event = (model.pushed() + wanted).checked_sub(entries);
                }
                Step::Pop(count) => {
                    let mut popped: Vec<_> = (0..count as u64).map(|_| make(u64::MAX)).collect();
                    let done = consumer.pop(&mut popped).unwrap();
                    prop_assert_eq!(done, count.min(model.waiting.len()));
                    popped.truncate(done);
                    let expected: Vec<_> = model.waiting.drain(..done).collect();
                    prop_assert_eq!(popped, expected);
                    model.popped += done as u64;
                }
                Step::Release => {
                    let old = model.released;
                    model.released = model.popped;
                    let asked = model.cons_event.is_some_and(|event| old < event && event <= model.released);
                    prop_assert_eq!(consumer.release(), asked);
                }
                Step::WaitForEntries => {
                    prop_assert_eq!(consumer.wait_for_entries().unwrap(), !model.waiting.is_empty());
                    model.prod_event = Some(model.popped + 1);
                }
                Step::Suppress => {
                    consumer.suppress_events();
                    model.prod_event = None;
                }
                Step::Look => {
                    let room = entries - (model.pushed() - model.released);
                    prop_assert_eq!(u64::from(producer.room().unwrap()), room);
                    prop_assert_eq!(u64::from(producer.unread().unwrap()), model.published - model.released);
                    prop_assert_eq!(consumer.available().unwrap() as usize, model.waiting.len());
                }
            }
        }
    }};
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_behave_like_a_bounded_queue(
        log in 0..6u32, start in start(), steps in prop::collection::vec(step(), 0..80),
    ) {
        let entries = 1 << log;
        let layout = Layout::new::<[u8; 24], u64>(entries, 4).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut front = Front::<_, [u8; 24], u64>::resume(memory.clone(), &layout).unwrap();
        let mut back = Back::<_, [u8; 24], u64>::resume(memory, &layout).unwrap();
        let make = |n: u64| {
            let mut bytes = [0; 24];
            bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&n.to_le_bytes()));
            bytes
        };
        check_against_model!(front.requests, back.requests, entries, steps, make);
    }

    #[test]
    fn responses_behave_like_a_bounded_queue(
        log in 0..6u32, start in start(), steps in prop::collection::vec(step(), 0..80),
    ) {
        let entries = 1 << log;
        let layout = Layout::new::<u64, u64>(2, entries).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut front = Front::<_, u64, u64>::resume(memory.clone(), &layout).unwrap();
        let mut back = Back::<_, u64, u64>::resume(memory, &layout).unwrap();
        check_against_model!(back.responses, front.responses, entries, steps, |n| n);
    }

    #[test]
    fn bytes_behave_like_a_bounded_queue(
        log in 0..6u32, start in start(), steps in prop::collection::vec(step(), 0..80),
    ) {
        let entries = 1 << log;
        let layout = Layout::new::<u8, u8>(entries, 1).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut front = Front::<_, u8, u8>::resume(memory.clone(), &layout).unwrap();
        let mut back = Back::<_, u8, u8>::resume(memory, &layout).unwrap();
        check_against_model!(front.requests, back.requests, entries, steps, |n| n as u8);
    }
}

/// Something that the peer of an end does to the shared memory, or that the end does.
#[derive(Clone, Copy, Debug)]
enum Hostile {
    /// A word of either line becomes this.
    Write { back: bool, word: usize, value: u32 },
    /// A word of either line grows by this: more likely to be believed.
    Add { back: bool, word: usize, value: u32 },
    /// The end does something.
    Use(Step),
}

fn hostile() -> impl Strategy<Value = Hostile> {
    prop_oneof![
        1 => (any::<bool>(), 0..4usize, any::<u32>())
            .prop_map(|(back, word, value)| Hostile::Write { back, word, value }),
        4 => (any::<bool>(), 0..4usize, 0..12u32)
            .prop_map(|(back, word, value)| Hostile::Add { back, word, value }),
        8 => step().prop_map(Hostile::Use),
    ]
}

fn tamper(memory: &Memory, hostile: Hostile) {
    let (Hostile::Write { back, word, .. } | Hostile::Add { back, word, .. }) = hostile else { return };
    let offset = if back { BACK_LINE } else { FRONT_LINE } + 4 * word;
    match hostile {
        Hostile::Write { value, .. } => memory.store(offset, value),
        Hostile::Add { value, .. } => memory.store(offset, memory.load(offset).wrapping_add(value)),
        Hostile::Use(_) => {}
    }
}

/// Uses an end of which the peer may have written anything: every answer is a
/// violation or a count in range. An end that goes on after a violation, which
/// none should, must not be harmed either.
macro_rules! use_end {
    ($producer:expr, $consumer:expr, $produced:expr, $consumed:expr, $step:expr) => {{
        let in_range = |answer: Result<u32, Violation>, most: u32| {
            if let Ok(count) = answer {
                assert!(count <= most, "{count} > {most}");
            }
        };
        match $step {
            Step::Push(count) => {
                let new = vec![0x55; count];
                in_range($producer.push(&new).map(|done| done as u32), $produced.min(count as u32));
            }
            Step::Publish => drop($producer.publish()),
            Step::WaitForRoom(wanted) => drop($producer.wait_for_room(wanted)),
            Step::Pop(count) => {
                let mut popped = vec![0; count];
                in_range($consumer.pop(&mut popped).map(|done| done as u32), $consumed.min(count as u32));
            }
            Step::Release => drop($consumer.release()),
            Step::WaitForEntries => drop($consumer.wait_for_entries()),
            Step::Suppress => $consumer.suppress_events(),
            Step::Look => {
                in_range($producer.room(), $produced);
                in_range($producer.unread(), $produced);
                in_range($consumer.available(), $consumed);
            }
        }
    }};
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_guest_cannot_harm_the_back_end(
        start in start(), steps in prop::collection::vec(hostile(), 0..120),
    ) {
        let layout = Layout::new::<u64, u32>(8, 4).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut back = Back::<_, u64, u32>::resume(memory.clone(), &layout).unwrap();
        for step in steps {
            match step {
                Hostile::Use(step) => use_end!(back.responses, back.requests, 4, 8, step),
                other => tamper(&memory, other),
            }
        }
    }

    #[test]
    fn a_hostile_host_cannot_harm_the_front_end(
        start in start(), steps in prop::collection::vec(hostile(), 0..120),
    ) {
        let layout = Layout::new::<u64, u32>(8, 4).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut front = Front::<_, u64, u32>::resume(memory.clone(), &layout).unwrap();
        for step in steps {
            match step {
                Hostile::Use(step) => use_end!(front.requests, front.responses, 8, 4, step),
                other => tamper(&memory, other),
            }
        }
    }

    #[test]
    fn taking_up_a_ring_validates_what_it_finds(
        words in prop::array::uniform8(prop_oneof![any::<u32>(), 0..20u32]),
        steps in prop::collection::vec(step(), 0..20),
    ) {
        let layout = Layout::new::<u64, u32>(8, 4).unwrap();
        let memory = Memory::new(&layout);
        for (n, &word) in words.iter().enumerate() {
            memory.store(if n < 4 { FRONT_LINE + 4 * n } else { BACK_LINE + 4 * (n - 4) }, word);
        }
        let [prod, .., cons, _] = [words[0], words[1], words[6], words[7]];
        let requests_fit = prod.wrapping_sub(cons) <= 8;
        let responses_fit = words[4].wrapping_sub(words[2]) <= 4;
        let back = Back::<_, u64, u32>::resume(memory.clone(), &layout);
        let front = Front::<_, u64, u32>::resume(memory, &layout);
        prop_assert_eq!(back.is_ok(), requests_fit && responses_fit);
        prop_assert_eq!(front.is_ok(), requests_fit && responses_fit);
        if let (Ok(mut back), Ok(mut front)) = (back, front) {
            for step in steps {
                use_end!(back.responses, back.requests, 4, 8, step);
                use_end!(front.requests, front.responses, 8, 4, step);
            }
        }
    }
}

/// Front and back end over zeroed memory, as both are at a guest's start.
fn fresh(entries: u32) -> (Front<Memory, u8, u8>, Back<Memory, u8, u8>, Memory) {
    let layout = Layout::new::<u8, u8>(entries, entries).unwrap();
    let memory = Memory::new(&layout);
    (Front::new(memory.clone(), &layout), Back::new(memory.clone(), &layout), memory)
}

#[test]
fn in_zeroed_memory_nobody_asks_to_be_notified() {
    let (mut front, mut back, _) = fresh(4);
    for n in 0..3 {
        assert_eq!(front.requests.push(&[n]), Ok(1));
        assert!(!front.requests.publish(), "the back end has not armed its doorbell");
    }
    let mut bytes = [0; 4];
    assert_eq!(back.requests.pop(&mut bytes), Ok(3));
    assert!(!back.requests.release(), "the front end has not waited for room");
}

#[test]
fn the_first_doorbell_is_rung_once_the_back_end_has_armed_it() {
    let (mut front, mut back, memory) = fresh(4);
    assert_eq!(back.requests.wait_for_entries(), Ok(false));
    assert_eq!(memory.load(BACK_LINE + 12), 1, "prod_event of the requests");
    assert_eq!(front.requests.push(&[1, 2]), Ok(2));
    assert!(front.requests.publish());
    assert_eq!(front.requests.push(&[3]), Ok(1));
    assert!(!front.requests.publish(), "once is enough");
    assert!(!front.requests.publish(), "nothing new");
}

#[test]
fn the_doorbell_rings_for_the_entry_with_the_last_index_before_the_wrap_and_the_first_after_it() {
    let layout = Layout::new::<u8, u8>(4, 4).unwrap();
    for (start, before) in [(u32::MAX, 0), (u32::MAX - 1, 1), (u32::MAX - 2, 2), (0, 0)] {
        let memory = Memory::starting_at(&layout, start);
        let mut front = Front::<_, u8, u8>::resume(memory.clone(), &layout).unwrap();
        let mut back = Back::<_, u8, u8>::resume(memory, &layout).unwrap();
        for _ in 0..before {
            assert_eq!(front.requests.push(&[0]), Ok(1));
            assert!(!front.requests.publish(), "suppressed, start {start}");
            assert_eq!(back.requests.pop_one(), Ok(Some(0)));
            assert!(!back.requests.release());
            back.requests.suppress_events();
        }
        assert_eq!(back.requests.wait_for_entries(), Ok(false));
        assert_eq!(front.requests.push(&[0]), Ok(1));
        assert!(front.requests.publish(), "start {start}");
    }
}

#[test]
fn an_index_that_goes_back_or_too_far_is_a_violation() {
    for (start, index, good) in [
        (0, 4, true),
        (0, 5, false),
        (0, u32::MAX, false),
        (u32::MAX, 3, true),
        (u32::MAX, 4, false),
        (u32::MAX, u32::MAX - 1, false),
        (7, 6, false),
    ] {
        let layout = Layout::new::<u8, u8>(4, 4).unwrap();
        let memory = Memory::starting_at(&layout, start);
        let mut back = Back::<_, u8, u8>::resume(memory.clone(), &layout).unwrap();
        memory.store(FRONT_LINE, index);
        let expected = Violation { found: index, low: start, high: start.wrapping_add(4) };
        match back.requests.available() {
            Ok(count) => assert!(good && count == index.wrapping_sub(start)),
            Err(violation) => assert!(!good && violation == expected, "{violation}"),
        }
    }
}

#[test]
fn a_consumer_cannot_take_what_was_not_published() {
    let (mut front, _, memory) = fresh(4);
    assert_eq!(front.requests.push(&[1, 2, 3]), Ok(3));
    let _ = front.requests.publish();
    assert_eq!(front.requests.push(&[4]), Ok(1));
    memory.store(BACK_LINE + 8, 4);
    assert_eq!(front.requests.room(), Err(Violation { found: 4, low: 0, high: 3 }));
}

#[test]
fn only_powers_of_two_up_to_2_to_the_20_are_sizes() {
    let valid = |requests, responses| Layout::new::<u64, u64>(requests, responses).is_some();
    for size in [1, 2, 128, 1 << 20] {
        assert!(valid(size, 1) && valid(1, size));
    }
    for size in [0, 3, 127, 1 << 21, 1 << 31, u32::MAX] {
        assert!(!valid(size, 1) && !valid(1, size));
    }
}

#[test]
fn the_closed_word_is_no_index() {
    let (mut front, mut back, memory) = fresh(4);
    memory.store(CLOSED_OFFSET, 1);
    assert_eq!(back.requests.available(), Ok(0));
    assert_eq!(front.responses.available(), Ok(0));
    assert_eq!(front.requests.room(), Ok(4));
    assert_eq!(back.responses.room(), Ok(4));
}
