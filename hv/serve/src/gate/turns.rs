//! Whose turn it is: permits for guests are shared between tenants, and those of a tenant between its functions. Pure: who
//! waits is a value of the caller's.
//!
//! Whoever has the fewest requests in guests for its weight comes first; of equals, the one that has waited longest for a turn. So
//! a function with one request at a time gets the next permit that is free, however many requests of others wait; and
//! those get everything that it leaves.

use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};

/// What a tenant or a function may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Limits {
    pub(in crate::gate) weight: u32,
    /// Most requests in guests.
    pub(in crate::gate) running: usize,
    /// Most requests that wait.
    pub(in crate::gate) waiting: usize,
    /// Of a tenant: most bytes of memory that its requests in guests are promised. Of a function: what one of them is.
    pub(in crate::gate) memory: u64,
}

/// Identifies a tenant. Reused after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::gate) struct TenantKey(usize);

/// Identifies a function. Reused after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::gate) struct FunctionKey(usize);

/// What happens to a request that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate) enum Entry {
    /// It has a permit.
    Now,
    /// It may wait.
    Wait,
    /// Too many of its function wait.
    Full,
    /// Too many of its tenant wait.
    TenantFull,
}

/// A position among rivals: requests in guests for the weight, then the number of the last turn.
type Place<K> = (u64, u64, K);

/// A tenant or a function among its rivals.
struct Rival<K> {
    limits: Limits,
    running: usize,
    waiting: usize,
    /// Bytes that its requests in guests are promised.
    memory: u64,
    /// When it had its last turn.
    turn: u64,
    /// Where it is among those that could use a permit.
    place: Option<Place<K>>,
}

impl<K: Copy + Ord> Rival<K> {
    fn new(limits: Limits) -> Self {
        Rival { limits, running: 0, waiting: 0, memory: 0, turn: 0, place: None }
    }

    fn has_room(&self) -> bool {
        self.running < self.limits.running
    }

    /// Whether a tenant may have so many more bytes.
    fn has_memory(&self, bytes: u64) -> bool {
        self.memory.saturating_add(bytes) <= self.limits.memory
    }

    /// Takes it out of the rivals, or puts it where it belongs.
    fn stand(&mut self, key: K, among: &mut BTreeSet<Place<K>>, could_use: bool) {
        let load = (self.running as u64) << 16;
        let place = could_use.then(|| (load / u64::from(self.limits.weight), self.turn, key));
        if place != self.place {
            if let Some(place) = &self.place {
                among.remove(place);
            }
            among.extend(place);
            self.place = place;
        }
    }
}

struct Tenant {
    rival: Rival<TenantKey>,
    /// Its functions that could use a permit.
    ready: BTreeSet<Place<FunctionKey>>,
}

struct Function<W> {
    /// Its memory is what one request is promised.
    rival: Rival<FunctionKey>,
    tenant: TenantKey,
    /// By the number of their arrival.
    waiting: BTreeMap<u64, W>,
}

/// The permits of a server, and the requests that wait for them.
pub(in crate::gate) struct Turns<W> {
    free: usize,
    /// Bytes that may be promised to requests in guests, and those that are.
    memory: u64,
    promised: u64,
    tenants: Slab<Tenant>,
    functions: Slab<Function<W>>,
    /// Tenants that could use a permit.
    ready: BTreeSet<Place<TenantKey>>,
    /// Counts arrivals and turns.
    count: u64,
}

impl<W> Turns<W> {
    /// With so many permits, and memory without limit.
    pub(in crate::gate) fn new(permits: usize) -> Self {
        let (tenants, functions) = (Slab::new(), Slab::new());
        let (memory, promised, ready) = (u64::MAX, 0, BTreeSet::new());
        Turns { free: permits, memory, promised, tenants, functions, ready, count: 0 }
    }

    /// Sets how many bytes may be promised to requests in guests. [`next`](Self::next) may have something to do then.
    pub(in crate::gate) fn set_memory(&mut self, bytes: u64) {
        self.memory = bytes;
    }

    fn has_memory(&self, bytes: u64) -> bool {
        self.promised.saturating_add(bytes) <= self.memory
    }

    /// Whether a request of this function waits for nothing but memory.
    pub(in crate::gate) fn lacks_memory(&self, key: FunctionKey) -> bool {
        let Function { rival, tenant, .. } = &self.functions[key.0];
        let (needed, tenant) = (rival.limits.memory, &self.tenants[tenant.0].rival);
        let room = self.free > 0 && rival.has_room() && tenant.has_room();
        room && !(self.has_memory(needed) && tenant.has_memory(needed))
    }

    pub(in crate::gate) fn add_tenant(&mut self, limits: Limits) -> TenantKey {
        TenantKey(self.tenants.insert(Tenant { rival: Rival::new(limits), ready: BTreeSet::new() }))
    }

    pub(in crate::gate) fn add_function(&mut self, tenant: TenantKey, limits: Limits) -> FunctionKey {
        FunctionKey(self.functions.insert(Function {
            rival: Rival::new(limits),
            tenant,
            waiting: BTreeMap::new(),
        }))
    }

    /// Gives a tenant other limits, from now on. [`next`](Self::next) may have something to do then.
    pub(in crate::gate) fn limit_tenant(&mut self, tenant: TenantKey, limits: Limits) {
        self.tenants[tenant.0].rival.limits = limits;
        self.update_tenant(tenant);
    }

    /// Removes a tenant without functions.
    pub(in crate::gate) fn remove_tenant(&mut self, tenant: TenantKey) {
        self.tenants.remove(tenant.0);
    }

    /// Removes a function without requests.
    pub(in crate::gate) fn remove_function(&mut self, function: FunctionKey) {
        self.functions.remove(function.0);
    }

    /// A request of a function has come.
    pub(in crate::gate) fn enter(&mut self, key: FunctionKey) -> Entry {
        let function = &self.functions[key.0];
        let tenant = &self.tenants[function.tenant.0].rival;
        let own = &function.rival;
        let needed = own.limits.memory;
        // Where others wait for memory, a small request does not pass a large one.
        let memory = self.ready.is_empty() && self.has_memory(needed) && tenant.has_memory(needed);
        if self.free > 0 && memory && own.waiting == 0 && own.has_room() && tenant.has_room() {
            self.give(key);
            Entry::Now
        } else if own.waiting >= own.limits.waiting {
            Entry::Full
        } else if tenant.waiting >= tenant.limits.waiting {
            Entry::TenantFull
        } else {
            Entry::Wait
        }
    }

    /// A request waits. Returns its number.
    pub(in crate::gate) fn wait(&mut self, key: FunctionKey, waiter: W) -> u64 {
        self.count += 1;
        let (function, number) = (&mut self.functions[key.0], self.count);
        function.waiting.insert(number, waiter);
        function.rival.waiting += 1;
        self.tenants[function.tenant.0].rival.waiting += 1;
        self.update(key);
        number
    }

    /// A request waits no more. Returns its value, unless it has had its turn.
    pub(in crate::gate) fn cancel(&mut self, key: FunctionKey, number: u64) -> Option<W> {
        let function = &mut self.functions[key.0];
        let waiter = function.waiting.remove(&number)?;
        function.rival.waiting -= 1;
        self.tenants[function.tenant.0].rival.waiting -= 1;
        self.update(key);
        Some(waiter)
    }

    /// A permit of a function's request comes back.
    pub(in crate::gate) fn leave(&mut self, key: FunctionKey) {
        self.free += 1;
        let function = &mut self.functions[key.0];
        let needed = function.rival.limits.memory;
        function.rival.running -= 1;
        let tenant = &mut self.tenants[function.tenant.0].rival;
        tenant.running -= 1;
        tenant.memory -= needed;
        self.promised -= needed;
        self.update(key);
    }

    /// The request that has a permit now, as long as there are any that may have one.
    pub(in crate::gate) fn next(&mut self) -> Option<W> {
        if self.free == 0 {
            return None;
        }
        let &(_, _, tenant) = self.ready.first()?;
        let &(_, _, key) = self.tenants[tenant.0].ready.first()?;
        if !self.has_memory(self.functions[key.0].rival.limits.memory) {
            return None;
        }
        let function = &mut self.functions[key.0];
        let (_, waiter) = function.waiting.pop_first()?;
        function.rival.waiting -= 1;
        self.tenants[tenant.0].rival.waiting -= 1;
        self.give(key);
        Some(waiter)
    }

    /// Requests of a function that wait.
    pub(in crate::gate) fn waiting(&self, key: FunctionKey) -> usize {
        self.functions[key.0].rival.waiting
    }

    fn give(&mut self, key: FunctionKey) {
        self.free -= 1;
        self.count += 1;
        let function = &mut self.functions[key.0];
        let tenant = &mut self.tenants[function.tenant.0].rival;
        tenant.memory += function.rival.limits.memory;
        self.promised += function.rival.limits.memory;
        for (running, turn) in
            [(&mut function.rival.running, &mut function.rival.turn), (&mut tenant.running, &mut tenant.turn)]
        {
            *running += 1;
            *turn = self.count;
        }
        self.update(key);
    }

    fn update(&mut self, key: FunctionKey) {
        let Function { rival, tenant, .. } = &mut self.functions[key.0];
        let could_use = rival.waiting > 0 && rival.has_room();
        rival.stand(key, &mut self.tenants[tenant.0].ready, could_use);
        let tenant = *tenant;
        self.update_tenant(tenant);
    }

    fn update_tenant(&mut self, key: TenantKey) {
        let Tenant { rival, ready } = &mut self.tenants[key.0];
        let first = ready.first().map(|(.., function)| self.functions[function.0].rival.limits.memory);
        let could_use = rival.has_room() && first.is_some_and(|needed| rival.has_memory(needed));
        rival.stand(key, &mut self.ready, could_use);
    }
}

#[cfg(test)]
mod tests;
