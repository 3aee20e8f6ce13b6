//! One direction of a ring: a queue with one producer and one consumer.

use super::{CONS, CONS_EVENT, PROD, PROD_EVENT, SharedMemory};
use core::marker::PhantomData;
use core::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The other end's indices make no sense; the ring is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The index as the other end has written it.
    pub found: u32,
    /// The lowest index it could have been.
    pub low: u32,
    /// The highest index it could have been.
    pub high: u32,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ring index {} is not within {}..={} (modulo 2^32)", self.found, self.low, self.high)
    }
}

impl core::error::Error for Violation {}

/// Where the parts of a queue lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The producer's words: `prod`, then `cons_event`.
    pub(super) producer: usize,
    /// The consumer's words: `cons`, then `prod_event`.
    pub(super) consumer: usize,
    pub(super) slots: usize,
    pub(super) entries: u32,
}

impl Place {
    const fn prod(&self) -> usize {
        self.producer
    }
    const fn cons_event(&self) -> usize {
        self.producer + (CONS_EVENT - PROD)
    }
    const fn cons(&self) -> usize {
        self.consumer
    }
    const fn prod_event(&self) -> usize {
        self.consumer + (PROD_EVENT - CONS)
    }
    const fn slot(&self, index: u32, size: usize) -> usize {
        self.slots + (index & (self.entries - 1)) as usize * size
    }
    /// The longest run of slots from `index` that does not wrap, at most `count`.
    fn run(&self, index: u32, count: u32) -> u32 {
        count.min(self.entries - (index & (self.entries - 1)))
    }
}

/// Validates an index of the other end: it may only have moved on from `low`, up to `high`.
const fn validate(found: u32, low: u32, high: u32) -> Result<u32, Violation> {
    if found.wrapping_sub(low) <= high.wrapping_sub(low) {
        Ok(found)
    } else {
        Err(Violation { found, low, high })
    }
}

/// Whether moving an index from `old` to `new` passes `event`.
const fn passed(event: u32, old: u32, new: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// The writing end of a queue.
#[derive(Debug)]
pub struct Producer<M, T> {
    memory: M,
    place: Place,
    /// Next slot to fill; everything before `published` is the consumer's to see.
    prod: u32,
    published: u32,
    /// The consumer's index as last validated.
    cons: u32,
    entry: PhantomData<fn(T)>,
}

impl<M: SharedMemory, T: IntoBytes + Immutable> Producer<M, T> {
    pub(super) fn new(memory: M, place: Place) -> Self {
        Producer { memory, place, prod: 0, published: 0, cons: 0, entry: PhantomData }
    }

    /// Takes up a queue where an earlier producer of the same memory left it.
    pub(super) fn resume(memory: M, place: Place) -> Result<Self, Violation> {
        let prod = memory.load(place.prod());
        let cons = validate(memory.load(place.cons()), prod.wrapping_sub(place.entries), prod)?;
        Ok(Producer { memory, place, prod, published: prod, cons, entry: PhantomData })
    }

    /// Number of entries that can be written now.
    pub fn room(&mut self) -> Result<u32, Violation> {
        let found = self.memory.load(self.place.cons());
        self.cons = validate(found, self.cons, self.published)?;
        Ok(self.place.entries - self.prod.wrapping_sub(self.cons))
    }

    /// Writes as many of `entries` as there is room for, and tells how many.
    /// The consumer sees them after [`publish`](Self::publish).
    pub fn push(&mut self, entries: &[T]) -> Result<usize, Violation> {
        let count = entries.len().min(self.place.entries as usize) as u32;
        let mut free = self.place.entries - self.prod.wrapping_sub(self.cons);
        if free < count {
            free = self.room()?;
        }
        let count = count.min(free);
        let mut done = 0;
        while done < count {
            let run = self.place.run(self.prod, count - done);
            let bytes = entries[done as usize..][..run as usize].as_bytes();
            self.memory.write(self.place.slot(self.prod, size_of::<T>()), bytes);
            self.prod = self.prod.wrapping_add(run);
            done += run;
        }
        Ok(count as usize)
    }

    /// Shows what was pushed to the consumer. Returns whether it asked to be notified.
    #[must_use = "a consumer that sleeps has to be notified"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.prod);
        if old == new {
            return false;
        }
        self.memory.store(self.place.prod(), new);
        self.published = new;
        self.memory.fence();
        passed(self.memory.load(self.place.prod_event()), old, new)
    }

    /// Asks to be notified once `wanted` entries can be written (at most all).
    /// Returns true if that is so already: then nothing will come. Publish
    /// first: no consumer makes room by taking what it does not see.
    pub fn wait_for_room(&mut self, wanted: u32) -> Result<bool, Violation> {
        let wanted = wanted.clamp(1, self.place.entries);
        // There is room for `wanted` once cons has reached this index.
        let event = self.prod.wrapping_add(wanted).wrapping_sub(self.place.entries);
        self.memory.store(self.place.cons_event(), event);
        self.memory.fence();
        Ok(self.room()? >= wanted)
    }

    /// Number of published entries that the consumer has not taken.
    pub fn unread(&mut self) -> Result<u32, Violation> {
        self.room()?;
        Ok(self.published.wrapping_sub(self.cons))
    }
}

/// The reading end of a queue.
#[derive(Debug)]
pub struct Consumer<M, T> {
    memory: M,
    place: Place,
    /// Next slot to take; `released` is what the producer has been told.
    cons: u32,
    released: u32,
    /// The producer's index as last validated.
    prod: u32,
    entry: PhantomData<fn() -> T>,
}

impl<M: SharedMemory, T: FromBytes + IntoBytes> Consumer<M, T> {
    pub(super) fn new(memory: M, place: Place) -> Self {
        Consumer { memory, place, cons: 0, released: 0, prod: 0, entry: PhantomData }
    }

    /// Takes up a queue where an earlier consumer of the same memory left it.
    pub(super) fn resume(memory: M, place: Place) -> Result<Self, Violation> {
        let cons = memory.load(place.cons());
        let prod = validate(memory.load(place.prod()), cons, cons.wrapping_add(place.entries))?;
        Ok(Consumer { memory, place, cons, released: cons, prod, entry: PhantomData })
    }

    /// Number of entries that wait.
    pub fn available(&mut self) -> Result<u32, Violation> {
        let found = self.memory.load(self.place.prod());
        self.prod = validate(found, self.prod, self.cons.wrapping_add(self.place.entries))?;
        Ok(self.prod.wrapping_sub(self.cons))
    }

    /// Copies out up to `entries.len()` entries, and tells how many.
    /// The producer gets the room back at [`release`](Self::release).
    pub fn pop(&mut self, entries: &mut [T]) -> Result<usize, Violation> {
        let mut waiting = self.prod.wrapping_sub(self.cons);
        if (waiting as usize) < entries.len() {
            waiting = self.available()?;
        }
        let count = entries.len().min(waiting as usize) as u32;
        let mut done = 0;
        while done < count {
            let run = self.place.run(self.cons, count - done);
            let bytes = entries[done as usize..][..run as usize].as_mut_bytes();
            self.memory.read(self.place.slot(self.cons, size_of::<T>()), bytes);
            self.cons = self.cons.wrapping_add(run);
            done += run;
        }
        Ok(count as usize)
    }

    /// Copies out one entry.
    pub fn pop_one(&mut self) -> Result<Option<T>, Violation> {
        let mut entry = [T::new_zeroed()];
        let count = self.pop(&mut entry)?;
        let [entry] = entry;
        Ok((count == 1).then_some(entry))
    }

    /// Gives the slots of everything popped back to the producer. Returns
    /// whether it asked to be notified.
    #[must_use = "a producer that waits for room has to be notified"]
    pub fn release(&mut self) -> bool {
        let (old, new) = (self.released, self.cons);
        if old == new {
            return false;
        }
        self.memory.store(self.place.cons(), new);
        self.released = new;
        self.memory.fence();
        passed(self.memory.load(self.place.cons_event()), old, new)
    }

    /// Asks to be notified of the next entry. Returns true if one is there
    /// already: then nothing will come. Release first: a producer that waits
    /// for room makes no entries.
    pub fn wait_for_entries(&mut self) -> Result<bool, Violation> {
        self.memory.store(self.place.prod_event(), self.cons.wrapping_add(1));
        self.memory.fence();
        Ok(self.available()? > 0)
    }

    /// Asks not to be notified: this end is looking by itself. An index comes
    /// round after 2^32 entries, so one needless notification may come then.
    pub fn suppress_events(&mut self) {
        self.memory.store(self.place.prod_event(), self.cons);
    }
}
