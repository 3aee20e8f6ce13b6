//! ⚠ Both ends of a ring over every interleaving that loom can make of them.
//!
//! Run it with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p hv-abi --test loom --release
//! ```
//!
//! The memory of the ring is made of loom's types: index words are atomics,
//! which may read stale values wherever the memory model allows it, and each
//! slot is an `UnsafeCell`, which fails the test when one end touches it while
//! the other may be in it. Sleeping is waiting for a doorbell; a wake-up that
//! is lost leaves both ends asleep, and loom reports the deadlock. That the
//! tests can fail is tested, too: over memory with [`Fault`]s they do.
#![cfg(loom)]

use hv_abi::ring::{BACK_LINE, Back, Front, Layout, REQUEST_SLOTS, SharedMemory};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What is wrong with a ring's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Fences do nothing.
    NoFence,
    /// Indices are stored and loaded without ordering.
    Relaxed,
}

/// A ring's memory: index words, and slots of `SIZE` bytes.
struct Memory<const SIZE: usize> {
    fault: Fault,
    words: Vec<AtomicU32>,
    requests: Vec<UnsafeCell<[u8; SIZE]>>,
    responses: Vec<UnsafeCell<[u8; SIZE]>>,
    response_slots: usize,
}

// SAFETY: loom checks every access to the cells, and the point of these tests
// is that none is concurrent with a write.
unsafe impl<const SIZE: usize> Send for Memory<SIZE> {}
// SAFETY: as for `Send`.
unsafe impl<const SIZE: usize> Sync for Memory<SIZE> {}

#[derive(Clone)]
struct Shared<const SIZE: usize>(Arc<Memory<SIZE>>);

/// Each end writes four words.
const WORDS: usize = 4;

impl<const SIZE: usize> Shared<SIZE> {
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        match offset {
            BACK_LINE.. => &self.0.words[WORDS + (offset - BACK_LINE) / 4],
            _ => &self.0.words[offset / 4],
        }
    }

    fn slots(&self, offset: usize, len: usize) -> &[UnsafeCell<[u8; SIZE]>] {
        let (slots, start) = match offset {
            _ if offset >= self.0.response_slots => (&self.0.responses, self.0.response_slots),
            _ => (&self.0.requests, REQUEST_SLOTS),
        };
        let first = (offset - start) / SIZE;
        assert!((offset - start).is_multiple_of(SIZE) && len.is_multiple_of(SIZE));
        &slots[first..first + len / SIZE]
    }
}

impl<const SIZE: usize> SharedMemory for Shared<SIZE> {
    fn load(&self, offset: usize) -> u32 {
        let relaxed = self.0.fault == Fault::Relaxed;
        self.word(offset).load(if relaxed { Ordering::Relaxed } else { Ordering::Acquire })
    }
    fn store(&self, offset: usize, value: u32) {
        let relaxed = self.0.fault == Fault::Relaxed;
        self.word(offset).store(value, if relaxed { Ordering::Relaxed } else { Ordering::Release });
    }
    fn fence(&self) {
        if self.0.fault != Fault::NoFence {
            fence(Ordering::SeqCst);
        }
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        for (slot, to) in self.slots(offset, bytes.len()).iter().zip(bytes.chunks_exact_mut(SIZE)) {
            // SAFETY: the pointer is valid, and loom has just checked that nobody writes.
            slot.with(|from| to.copy_from_slice(unsafe { &*from }));
        }
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (slot, from) in self.slots(offset, bytes.len()).iter().zip(bytes.chunks_exact(SIZE)) {
            // SAFETY: the pointer is valid, and loom has just checked that nobody else is here.
            slot.with_mut(|to| unsafe { (*to).copy_from_slice(from) });
        }
    }
}

/// An entry whose two halves must come out of the same write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    number: u32,
    inverse: u32,
}

fn entry(number: u32) -> Entry {
    Entry { number, inverse: !number }
}

/// A ring of `requests` and `responses` entries whose indices all begin at `start`.
fn ring<const SIZE: usize>(
    layout: Layout,
    requests: u32,
    responses: u32,
    start: u32,
    fault: Fault,
) -> Shared<SIZE> {
    let cells = |count: u32| (0..count).map(|_| UnsafeCell::new([0; SIZE])).collect();
    Shared(Arc::new(Memory {
        fault,
        words: (0..2 * WORDS).map(|_| AtomicU32::new(start)).collect(),
        requests: cells(requests),
        responses: cells(responses),
        response_slots: layout.response_slots(),
    }))
}

/// What both ends of a test get: the ring with `entries` entries each way,
/// and a doorbell each way, as host and guest have them.
struct Ends<T> {
    front: Front<Shared<8>, T, T>,
    back: Back<Shared<8>, T, T>,
    to_front: Doorbell,
    to_back: Doorbell,
}

/// Rung by one end, slept at by the other; remembers that it was rung.
#[derive(Clone)]
struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Doorbell {
    fn new() -> Self {
        Doorbell(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn ring_if(&self, asked: bool) {
        if asked {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }

    fn sleep(&self) {
        let mut rung = self.0.0.lock().unwrap();
        while !*rung {
            rung = self.0.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn ends(entries: u32, start: u32) -> Ends<Entry> {
    faulty_ends(entries, start, Fault::Nothing)
}

fn faulty_ends(entries: u32, start: u32, fault: Fault) -> Ends<Entry> {
    let layout = Layout::new::<Entry, Entry>(entries, entries).unwrap();
    let memory = ring(layout, entries, entries, start, fault);
    Ends {
        front: Front::resume(memory.clone(), &layout).unwrap(),
        back: Back::resume(memory, &layout).unwrap(),
        to_front: Doorbell::new(),
        to_back: Doorbell::new(),
    }
}

/// Explores the interleavings with at most this many preemptions.
fn explore(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(test);
}

/// Sends `count` requests, `burst` at a time, sleeping while there is no room
/// for `burst`; the other end sleeps while there is nothing.
fn one_way(entries: u32, start: u32, count: u32, burst: u32) {
    pass(ends(entries, start), count, burst);
}

fn pass(ends: Ends<Entry>, count: u32, burst: u32) {
    let Ends { mut front, mut back, to_front, to_back } = ends;
    let (ring_front, ring_back) = (to_front.clone(), to_back.clone());
    let producer = thread::spawn(move || {
        let mut next = 0;
        while next < count {
            let wanted = burst.min(count - next);
            if front.requests.room().unwrap() < wanted {
                if !front.requests.wait_for_room(wanted).unwrap() {
                    to_front.sleep();
                }
                continue;
            }
            let entries: Vec<_> = (next..next + wanted).map(entry).collect();
            assert_eq!(front.requests.push(&entries).unwrap() as u32, wanted);
            ring_back.ring_if(front.requests.publish());
            next += wanted;
        }
    });
    let mut next = 0;
    while next < count {
        let mut entries = [entry(0); 2];
        let got = back.requests.pop(&mut entries).unwrap();
        for (n, found) in entries[..got].iter().enumerate() {
            assert_eq!(*found, entry(next + n as u32));
        }
        next += got as u32;
        ring_front.ring_if(back.requests.release());
        if got == 0 && !back.requests.wait_for_entries().unwrap() {
            to_back.sleep();
        }
    }
    producer.join().unwrap();
    assert_eq!(back.requests.pop_one().unwrap(), None, "nothing comes twice");
}

#[test]
fn a_ring_of_one_entry_passes_everything_once_and_in_order() {
    explore(3, || one_way(1, 0, 3, 1));
}

#[test]
fn a_ring_of_two_entries_passes_everything_once_and_in_order() {
    explore(3, || one_way(2, 0, 4, 1));
}

#[test]
fn who_waits_for_more_room_than_one_entry_is_woken() {
    explore(3, || one_way(2, 0, 4, 2));
}

#[test]
fn indices_that_wrap_lose_nothing() {
    explore(3, || one_way(2, u32::MAX - 1, 4, 1));
    explore(3, || one_way(1, u32::MAX, 2, 1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_wake_up_is_lost() {
    explore(3, || pass(faulty_ends(1, 0, Fault::NoFence), 3, 1));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_ordering_an_entry_is_read_while_it_is_written() {
    explore(3, || pass(faulty_ends(1, 0, Fault::Relaxed), 3, 1));
}

/// Requests go to the back end and come back as responses; both directions
/// share one doorbell each way, as they do between host and guest.
fn round_trip(entries: u32, start: u32, count: u32) {
    let Ends { mut front, mut back, to_front, to_back } = ends(entries, start);
    let (ring_front, ring_back) = (to_front.clone(), to_back.clone());
    let device = thread::spawn(move || {
        let mut answered = 0;
        while answered < count {
            let Some(request) = back.requests.pop_one().unwrap() else {
                if !back.requests.wait_for_entries().unwrap() {
                    to_back.sleep();
                }
                continue;
            };
            assert_eq!(request, entry(answered));
            // Like the block device: the slot is given back with the answer. A
            // request is only sent with room for its response.
            let mut notify = back.requests.release();
            assert_eq!(back.responses.push(&[entry(1000 + answered)]).unwrap(), 1);
            notify |= back.responses.publish();
            ring_front.ring_if(notify);
            answered += 1;
        }
    });
    let (mut sent, mut finished) = (0, 0);
    while finished < count {
        // At most `entries` in flight, so there is always room.
        while sent < count && sent - finished < entries {
            assert_eq!(front.requests.push(&[entry(sent)]).unwrap(), 1);
            ring_back.ring_if(front.requests.publish());
            sent += 1;
        }
        match front.responses.pop_one().unwrap() {
            Some(response) => {
                assert_eq!(response, entry(1000 + finished));
                ring_back.ring_if(front.responses.release());
                finished += 1;
            }
            None if front.responses.wait_for_entries().unwrap() => {}
            None => to_front.sleep(),
        }
    }
    device.join().unwrap();
}

#[test]
fn requests_come_back_as_responses_with_one_entry() {
    explore(3, || round_trip(1, 0, 2));
    explore(2, || round_trip(1, u32::MAX, 2));
}

#[test]
fn requests_come_back_as_responses_with_two_entries() {
    explore(3, || round_trip(2, 0, 3));
}

/// A consumer that has turned notifications off, has looked, and turns them on
/// again before it sleeps.
#[test]
fn a_consumer_that_looks_by_itself_for_a_while_misses_nothing() {
    explore(3, || {
        let Ends { mut front, mut back, to_back, .. } = ends(2, 0);
        let ring_back = to_back.clone();
        let producer = thread::spawn(move || {
            for n in 0..2 {
                assert_eq!(front.requests.push(&[entry(n)]).unwrap(), 1);
                ring_back.ring_if(front.requests.publish());
            }
        });
        let mut next = 0;
        while next < 2 {
            back.requests.suppress_events();
            while let Some(found) = back.requests.pop_one().unwrap() {
                assert_eq!(found, entry(next));
                next += 1;
            }
            if next < 2 && !back.requests.wait_for_entries().unwrap() {
                to_back.sleep();
            }
        }
        producer.join().unwrap();
    });
}

/// A queue of bytes, as the console has it: slices that do not divide the ring.
#[test]
fn bytes_pass_in_slices_of_any_length() {
    explore(3, || {
        let layout = Layout::new::<u8, u8>(4, 1).unwrap();
        let memory = ring::<1>(layout, 4, 1, u32::MAX - 1, Fault::Nothing);
        let mut front = Front::<_, u8, u8>::resume(memory.clone(), &layout).unwrap();
        let mut back = Back::<_, u8, u8>::resume(memory, &layout).unwrap();
        let (to_front, to_back) = (Doorbell::new(), Doorbell::new());
        let (ring_front, ring_back) = (to_front.clone(), to_back.clone());
        let text = b"abcdefg";
        let producer = thread::spawn(move || {
            let mut rest = &text[..];
            while !rest.is_empty() {
                let count = front.requests.push(&rest[..rest.len().min(3)]).unwrap();
                rest = &rest[count..];
                ring_back.ring_if(front.requests.publish());
                if count == 0 && !front.requests.wait_for_room(1).unwrap() {
                    to_front.sleep();
                }
            }
        });
        let mut found = Vec::new();
        while found.len() < text.len() {
            let mut bytes = [0; 3];
            let count = back.requests.pop(&mut bytes).unwrap();
            found.extend_from_slice(&bytes[..count]);
            ring_front.ring_if(back.requests.release());
            if count == 0 && !back.requests.wait_for_entries().unwrap() {
                to_back.sleep();
            }
        }
        assert_eq!(found, text);
        producer.join().unwrap();
    });
}

/// One event channel towards the guest: a pending bit, and a guest that blocks.
struct Channel {
    pending: AtomicU32,
    blocked: Mutex<()>,
    wake: Condvar,
}

impl Channel {
    fn raise(&self) {
        self.pending.fetch_or(1, Ordering::SeqCst);
        drop(self.blocked.lock().unwrap());
        self.wake.notify_one();
    }

    fn clear(&self) {
        self.pending.fetch_and(0, Ordering::SeqCst);
    }

    fn block(&self) {
        let mut blocked = self.blocked.lock().unwrap();
        while self.pending.load(Ordering::SeqCst) == 0 {
            blocked = self.wake.wait(blocked).unwrap();
        }
    }
}

/// A guest that takes two responses, and blocks while there is none. It clears
/// the event when `clear_first` says: before it looks at the ring, or after.
fn guest_takes_responses(clear_first: bool) {
    let Ends { mut front, mut back, .. } = ends(2, 0);
    let channel =
        Arc::new(Channel { pending: AtomicU32::new(0), blocked: Mutex::new(()), wake: Condvar::new() });
    let to_guest = channel.clone();
    let device = thread::spawn(move || {
        for n in 0..2 {
            assert_eq!(back.responses.push(&[entry(n)]).unwrap(), 1);
            if back.responses.publish() {
                to_guest.raise();
            }
        }
    });
    let mut taken = 0;
    while taken < 2 {
        if clear_first {
            channel.clear();
        }
        while let Some(found) = front.responses.pop_one().unwrap() {
            assert_eq!(found, entry(taken));
            taken += 1;
        }
        let waits = taken < 2 && !front.responses.wait_for_entries().unwrap();
        if !clear_first {
            channel.clear();
        }
        if waits {
            channel.block();
        }
    }
    device.join().unwrap();
}

#[test]
fn a_guest_that_clears_the_event_before_it_looks_misses_nothing() {
    explore(3, || guest_takes_responses(true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_guest_that_clears_the_event_after_it_has_looked_sleeps_for_ever() {
    explore(3, || guest_takes_responses(false));
}
