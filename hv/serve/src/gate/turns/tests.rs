//! Turns, without a clock and without threads.

use super::*;
use proptest::prelude::*;

const MANY: usize = 1 << 30;

/// A tenant with so many requests at a time, as far as it is up to its own limits.
fn tenant(running: usize) -> Limits {
    Limits { memory: u64::MAX, ..limits(running) }
}

fn limits(running: usize) -> Limits {
    Limits { weight: 256, running, waiting: MANY, memory: 1 }
}

/// Functions that send requests without end; a request takes so many steps. Returns how many of each ended.
struct Load {
    turns: Turns<usize>,
    keys: Vec<FunctionKey>,
    /// Requests in guests: function, and steps that are left.
    running: Vec<(usize, u32)>,
    steps: Vec<u32>,
    ended: Vec<usize>,
}

impl Load {
    fn new(permits: usize) -> Self {
        Load { turns: Turns::new(permits), keys: vec![], running: vec![], steps: vec![], ended: vec![] }
    }

    /// A function with so many clients, each of which asks again as soon as it has an answer.
    fn function(&mut self, tenant: TenantKey, clients: usize, steps: u32) {
        let number = self.keys.len();
        self.keys.push(self.turns.add_function(tenant, limits(MANY)));
        self.steps.push(steps);
        self.ended.push(0);
        (0..clients).for_each(|_| self.ask(number));
    }

    fn ask(&mut self, number: usize) {
        match self.turns.enter(self.keys[number]) {
            Entry::Now => self.running.push((number, self.steps[number])),
            Entry::Wait => drop(self.turns.wait(self.keys[number], number)),
            full => panic!("{full:?}"),
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.running.iter_mut().for_each(|(_, left)| *left -= 1);
            let ended: Vec<_> = self.running.extract_if(.., |(_, left)| *left == 0).collect();
            for (number, _) in ended {
                self.ended[number] += 1;
                self.turns.leave(self.keys[number]);
                self.ask(number);
                while let Some(next) = self.turns.next() {
                    self.running.push((next, self.steps[next]));
                }
            }
        }
    }
}

#[test]
fn one_client_beside_many_gets_the_next_permit() {
    let mut load = Load::new(8);
    let (many, one) = (load.turns.add_tenant(tenant(MANY)), load.turns.add_tenant(tenant(MANY)));
    load.function(many, 64, 5);
    load.function(one, 1, 5);
    load.run(5000);
    // Alone it would have 1000.
    assert!(load.ended[1] >= 400, "{:?}", load.ended);
    assert!(load.ended[0] >= 6500, "the rest is not wasted: {:?}", load.ended);
}

#[test]
fn permits_are_shared_by_weight_between_tenants_and_then_functions() {
    let mut load = Load::new(12);
    let a = load.turns.add_tenant(Limits { weight: 512, ..tenant(MANY) });
    let b = load.turns.add_tenant(tenant(MANY));
    load.function(a, 20, 3);
    load.function(b, 20, 3);
    load.function(b, 20, 3);
    // A function that takes longer gets no more of the permits.
    load.function(b, 20, 30);
    load.run(30_000);
    let held: Vec<_> = load.ended.iter().zip([3, 3, 3, 30]).map(|(ended, steps)| ended * steps).collect();
    let share = |part: usize| part as f64 / 30_000.0;
    assert!((share(held[0]) - 8.0).abs() < 0.2, "{held:?}");
    for held in &held[1..] {
        assert!((0.95..=2.05).contains(&share(*held)), "four permits for three: {held:?}");
    }
}

#[test]
fn a_tenant_has_its_own_permits_and_places() {
    let mut turns = Turns::new(10);
    let a = turns.add_tenant(Limits { waiting: 3, ..tenant(2) });
    let b = turns.add_tenant(tenant(MANY));
    let one = turns.add_function(a, limits(MANY));
    let two = turns.add_function(a, Limits { waiting: 1, ..limits(1) });
    let other = turns.add_function(b, limits(MANY));
    assert_eq!([turns.enter(one), turns.enter(two)], [Entry::Now; 2]);
    assert_eq!(turns.enter(two), Entry::Wait);
    turns.wait(two, 2);
    assert_eq!(turns.enter(two), Entry::Full);
    for _ in 0..2 {
        assert_eq!(turns.enter(one), Entry::Wait);
        turns.wait(one, 1);
    }
    assert_eq!(turns.enter(one), Entry::TenantFull);
    // The other tenant is none the worse.
    assert_eq!(turns.enter(other), Entry::Now);
    assert_eq!(turns.next(), None);
    // Whose function has the permit does not matter to the tenant, but its other one has no room.
    turns.leave(one);
    assert_eq!((turns.next(), turns.next()), (Some(1), None));
    turns.leave(two);
    assert_eq!((turns.next(), turns.next()), (Some(2), None));
    // A tenant that may have more has it at once.
    turns.limit_tenant(a, tenant(MANY));
    assert_eq!((turns.next(), turns.next()), (Some(1), None));
}

#[test]
fn who_gives_up_takes_no_turn() {
    let mut turns = Turns::new(1);
    let tenant = turns.add_tenant(tenant(MANY));
    let function = turns.add_function(tenant, limits(MANY));
    assert_eq!(turns.enter(function), Entry::Now);
    let first = turns.wait(function, 1);
    turns.wait(function, 2);
    assert_eq!(turns.cancel(function, first), Some(1));
    assert_eq!(turns.cancel(function, first), None);
    turns.leave(function);
    assert_eq!((turns.next(), turns.next(), turns.waiting(function)), (Some(2), None, 0));
    turns.leave(function);
    turns.remove_function(function);
    turns.remove_tenant(tenant);
    assert!(turns.ready.is_empty() && turns.free == 1);
}

#[test]
fn memory_is_promised_as_permits_are() {
    let mut turns = Turns::new(10);
    turns.set_memory(10);
    let a = turns.add_tenant(Limits { memory: 6, ..tenant(MANY) });
    let b = turns.add_tenant(tenant(MANY));
    let small = turns.add_function(a, Limits { memory: 2, ..limits(MANY) });
    let large = turns.add_function(b, Limits { memory: 6, ..limits(MANY) });
    assert_eq!([turns.enter(small), turns.enter(small), turns.enter(small)], [Entry::Now; 3]);
    // The tenant has no more, the server has.
    assert_eq!(turns.enter(small), Entry::Wait);
    turns.wait(small, 1);
    assert!(turns.lacks_memory(small));
    assert_eq!(turns.enter(large), Entry::Wait);
    turns.wait(large, 2);
    assert!(turns.lacks_memory(large));
    assert_eq!(turns.next(), None);
    // The other tenant has none yet: it is its turn, and what is too little for it is not for others.
    turns.leave(small);
    assert_eq!(turns.next(), Some(2));
    turns.leave(small);
    assert_eq!((turns.next(), turns.next()), (Some(1), None));
    assert_eq!(turns.enter(large), Entry::Wait);
    turns.wait(large, 3);
    assert_eq!(turns.enter(small), Entry::Wait, "one that is larger waits before it");
    turns.wait(small, 4);
    turns.set_memory(100);
    assert_eq!((turns.next(), turns.next(), turns.next()), (Some(3), Some(4), None));
}

proptest! {
    /// Whatever comes and goes: no permit is free while a request waits that may have it, none is lost, and no limit
    /// is exceeded.
    #[test]
    fn permits_are_neither_lost_nor_idle(
        permits in 1usize..6,
        tenants in prop::collection::vec((1usize..4, 0usize..6), 1..4),
        functions in prop::collection::vec((0usize..4, 1usize..4, 0usize..4), 1..6),
        steps in prop::collection::vec((0usize..6, 0u8..3), 0..200),
    ) {
        let mut turns = Turns::new(permits);
        let limits = |&(running, waiting): &(usize, usize)| Limits { waiting, ..tenant(running) };
        let of_function = |running, waiting| Limits { waiting, ..super::tests::limits(running) };
        let tenant_keys: Vec<_> = tenants.iter().map(|tenant| turns.add_tenant(limits(tenant))).collect();
        let functions: Vec<_> =
            functions.iter().map(|&(tenant, running, waiting)| (tenant % tenants.len(), running, waiting)).collect();
        let keys: Vec<_> = functions
            .iter()
            .map(|&(tenant, running, waiting)| turns.add_function(tenant_keys[tenant], of_function(running, waiting)))
            .collect();
        let mut running = vec![0; keys.len()];
        let mut waiting: Vec<Vec<u64>> = vec![vec![]; keys.len()];
        for (n, what) in steps {
            let n = n % keys.len();
            match what {
                0 => match turns.enter(keys[n]) {
                    Entry::Now => running[n] += 1,
                    Entry::Wait => waiting[n].push(turns.wait(keys[n], n)),
                    Entry::Full => prop_assert_eq!(waiting[n].len(), functions[n].2),
                    Entry::TenantFull => {}
                },
                1 if running[n] > 0 => {
                    running[n] -= 1;
                    turns.leave(keys[n]);
                }
                2 if !waiting[n].is_empty() => {
                    let number = waiting[n].remove(0);
                    prop_assert_eq!(turns.cancel(keys[n], number), Some(n));
                }
                _ => {}
            }
            while let Some(next) = turns.next() {
                waiting[next].remove(0);
                running[next] += 1;
            }
            let of = |tenant: usize, counts: &[usize]| -> usize {
                functions.iter().zip(counts).filter(|(function, _)| function.0 == tenant).map(|(_, count)| count).sum()
            };
            let queues: Vec<_> = waiting.iter().map(Vec::len).collect();
            prop_assert_eq!(turns.free + running.iter().sum::<usize>(), permits);
            for (n, &(tenant, most, places)) in functions.iter().enumerate() {
                prop_assert!(running[n] <= most && queues[n] <= places);
                prop_assert!(of(tenant, &running) <= tenants[tenant].0 && of(tenant, &queues) <= tenants[tenant].1);
                let room = turns.free > 0 && running[n] < most && of(tenant, &running) < tenants[tenant].0;
                prop_assert!(queues[n] == 0 || !room, "a permit is free, and function {} waits", n);
                prop_assert_eq!(turns.waiting(keys[n]), queues[n]);
            }
        }
    }
}
