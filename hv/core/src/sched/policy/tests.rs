//! The policy on simulated processors, with a simulated clock.

mod groups;

use super::budget::PERIOD;
use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// What a task does, and what has happened to it.
struct Job {
    share: Share,
    /// It blocks after so much CPU time …
    work: u64,
    /// … for so long.
    sleep: u64,
    /// What remains of `work`.
    left: u64,
    used: u64,
    /// Since when it has wanted to run without running, and whether it was blocked before that.
    wants: Option<(Time, bool)>,
    /// The longest times from a wake-up to a time slice, and between two time slices.
    latency: u64,
    wait: u64,
    gone: bool,
}

/// Uses all CPU time that it gets.
fn spinner(weight: u32, cap: u32) -> Job {
    job(weight, cap, u64::MAX, 0)
}

fn job(weight: u32, cap: u32, work: u64, sleep: u64) -> Job {
    let share = Share::new(weight, cap).unwrap();
    Job { share, work, sleep, left: work, used: 0, wants: None, latency: 0, wait: 0, gone: false }
}

struct Machine {
    policy: Policy<usize>,
    processors: usize,
    jobs: Vec<Job>,
    ids: Vec<Id>,
    /// Which task runs, since when, and until when, if that is decided.
    running: Vec<(usize, Time, Option<Time>)>,
    now: Time,
    /// Time from the request to give way until a task does.
    lag: u64,
}

impl Machine {
    fn new(processors: usize, jobs: impl IntoIterator<Item = Job>) -> Self {
        let policy = Policy::new();
        let mut machine =
            Machine { policy, processors, jobs: vec![], ids: vec![], running: vec![], now: 0, lag: 30_000 };
        jobs.into_iter().for_each(|job| machine.add(job));
        machine
    }

    fn add(&mut self, job: Job) {
        self.add_in(ROOT, job);
    }

    fn add_in(&mut self, group: NodeId, job: Job) {
        let id = self.policy.add(group, job.share, self.jobs.len(), self.now);
        self.begin(id, job);
    }

    /// A group in another one.
    fn group(&mut self, above: NodeId, weight: u32, cap: u32) -> NodeId {
        self.policy.add_group(above, Share::new(weight, cap).unwrap(), self.now)
    }

    /// A job whose task shares with another one.
    fn add_beside(&mut self, other: usize, job: Job) {
        let id = self.policy.add_beside(self.ids[other], self.jobs.len());
        self.begin(id, job);
    }

    fn begin(&mut self, id: Id, mut job: Job) {
        job.wants = Some((self.now, true));
        self.jobs.push(job);
        self.ids.push(id);
        self.policy.wake(id, self.now);
    }

    fn remove(&mut self, job: usize) {
        self.jobs[job].gone = true;
        let gone = self.policy.remove(self.ids[job]);
        let runs = self.running.iter().any(|slice| slice.0 == job);
        assert_eq!(gone, (!runs).then_some(job));
    }

    /// Runs all tasks until then.
    fn run(&mut self, until: Time) {
        while self.now < until {
            self.policy.tick(self.now);
            while self.running.len() < self.processors
                && let Some(id) = self.policy.pick(self.now)
            {
                let number = *self.policy.payload(id);
                let job = &mut self.jobs[number];
                let (since, blocked) = job.wants.take().expect("what is chosen wanted to run");
                let waited = self.now - since;
                job.wait = job.wait.max(waited);
                job.latency = job.latency.max(if blocked { waited } else { 0 });
                let end = (job.left != u64::MAX).then(|| self.now + job.left);
                self.running.push((number, self.now, end));
            }
            assert!(self.policy.waiting() == 0 || self.running.len() == self.processors, "no idle processor");
            for id in self.policy.overdue(0, self.now) {
                let number = *self.policy.payload(id);
                let slice = self.running.iter_mut().find(|slice| slice.0 == number).expect("it runs");
                slice.2 = Some(slice.2.unwrap_or(Time::MAX).min(self.now + self.lag));
            }
            let ends = self.running.iter().filter_map(|slice| slice.2);
            let next = ends.chain(self.policy.next_event(0, self.now)).chain([until]).min().unwrap();
            assert!(
                next > self.now || self.running.iter().any(|slice| slice.2 == Some(next)),
                "time goes on"
            );
            self.now = next.max(self.now);
            for at in (0..self.running.len()).rev() {
                if self.running[at].2.is_some_and(|end| end <= self.now) {
                    let (number, since, _) = self.running.remove(at);
                    self.stop(number, self.now - since);
                }
            }
        }
    }

    fn stop(&mut self, number: usize, used: u64) {
        let job = &mut self.jobs[number];
        job.used += used;
        let after = if job.left == u64::MAX {
            After::Ready
        } else {
            job.left -= used;
            if job.left == 0 {
                job.left = job.work;
                After::Blocked(Some(self.now + job.sleep))
            } else {
                After::Ready
            }
        };
        job.wants = Some(match after {
            After::Blocked(Some(at)) => (at, true),
            _ => (self.now, false),
        });
        let gone = self.policy.stop(self.ids[number], used, after, self.now);
        assert_eq!(gone, self.jobs[number].gone.then_some(number));
    }

    /// CPU time that a job has used, including the current time slice.
    fn used(&self, job: usize) -> u64 {
        let slice = self.running.iter().find(|slice| slice.0 == job).map_or(0, |slice| self.now - slice.1);
        self.jobs[job].used + slice
    }

    fn all_used(&self) -> Vec<u64> {
        (0..self.jobs.len()).map(|job| self.used(job)).collect()
    }
}

/// What spinners get of some processors in theory: CPU time by their weights, at most a task's cap or one processor. What
/// one task cannot use goes to the others.
fn ideal(processors: usize, jobs: &[(u32, u32)]) -> Vec<f64> {
    let most = |&(_, cap): &(u32, u32)| if cap == 0 { 1.0 } else { f64::from(cap) / 100.0 };
    let mut shares = vec![None; jobs.len()];
    loop {
        let open = || (0..jobs.len()).filter(|&n| shares[n].is_none());
        let left = processors as f64 - shares.iter().flatten().sum::<f64>();
        let weights: f64 = open().map(|n| f64::from(jobs[n].0)).sum();
        let part = |n: usize| left * f64::from(jobs[n].0) / weights;
        let full: Vec<_> = open().filter(|&n| part(n) >= most(&jobs[n])).collect();
        if full.is_empty() {
            return (0..jobs.len()).map(|n| shares[n].unwrap_or_else(|| part(n))).collect();
        }
        full.into_iter().for_each(|n| shares[n] = Some(most(&jobs[n])));
    }
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance * expected, "{what}: {found:.4}, expected {expected:.4}");
}

/// Runs spinners of these weights and caps, and compares what they got with theory.
#[track_caller]
fn fair(processors: usize, jobs: &[(u32, u32)], seconds: u64, tolerance: f64) {
    let mut machine = Machine::new(processors, jobs.iter().map(|&(weight, cap)| spinner(weight, cap)));
    machine.run(seconds * SECOND);
    for (n, expected) in ideal(processors, jobs).into_iter().enumerate() {
        let found = machine.used(n) as f64 / (seconds * SECOND) as f64;
        close(found, expected, tolerance, &format!("{n} of {jobs:?} on {processors}"));
    }
}

#[test]
fn weights_divide_a_processor() {
    fair(1, &[(512, 0), (256, 0)], 10, 0.01);
    fair(1, &[(1, 0), (2, 0), (5, 0)], 10, 0.01);
    fair(1, &[(256, 0); 100], 10, 0.03);
    fair(1, &(1..=20).map(|n| (10 * n, 0)).collect::<Vec<_>>(), 60, 0.03);
    fair(1, &[(65_535, 0), (655, 0)], 100, 0.03);
}

#[test]
fn weights_divide_several_processors() {
    fair(2, &[(256, 0), (256, 0), (256, 0)], 10, 0.01);
    fair(2, &[(2, 0), (1, 0), (1, 0)], 10, 0.02);
    fair(4, &(1..=20).map(|n| (10 * n, 0)).collect::<Vec<_>>(), 60, 0.03);
    // No task can use more than one processor.
    fair(2, &[(1000, 0), (100, 0), (100, 0)], 10, 0.02);
    fair(3, &[(65_535, 0), (65_535, 0), (100, 0), (200, 0)], 10, 0.02);
}

#[test]
fn caps_are_kept_exactly() {
    for cap in [1, 5, 25, 50, 99] {
        fair(1, &[(256, cap)], 20, 0.01);
        fair(2, &[(256, cap)], 20, 0.01);
    }
    fair(1, &[(256, 25), (256, 0)], 10, 0.02);
    fair(2, &[(256, 25), (256, 50), (256, 0), (256, 0)], 10, 0.03);
    fair(1, &[(256, 10); 5], 20, 0.03);
    // Capped, but entitled to less than that.
    fair(1, &[(256, 25), (256, 0), (256, 0), (256, 0), (256, 0)], 10, 0.03);
}

#[test]
fn a_cap_holds_in_every_second() {
    let mut machine = Machine::new(2, [spinner(256, 25), spinner(256, 0), job(256, 0, MS / 2, 3 * MS)]);
    for second in 1..=20 {
        let before = machine.used(0);
        machine.run(second * SECOND);
        close((machine.used(0) - before) as f64, 0.25 * SECOND as f64, 0.05, "a second");
    }
}

#[test]
fn who_wakes_up_does_not_wait_for_slices() {
    for (processors, spinners) in [(1, 1), (1, 10), (2, 10), (4, 1000)] {
        let jobs = (0..spinners).map(|_| spinner(256, 0)).chain([job(256, 0, 10_000, 97 * MS)]);
        let mut machine = Machine::new(processors, jobs);
        machine.run(2 * SECOND);
        // In the first round, all have the same virtual time.
        machine.jobs[spinners].latency = 0;
        machine.run(60 * SECOND);
        let latency = machine.jobs[spinners].latency;
        let most = GRAIN_NANOS + machine.lag;
        assert!(latency <= most, "{spinners} spinners on {processors}: {latency} ns");
    }
}

#[test]
fn who_wakes_up_waits_neither_for_one_that_is_behind_nor_for_one_that_has_no_processor() {
    // Of three that always want to run, the first is ahead. The task that wakes up often is between it and the others.
    let mut machine = Machine::new(2, [spinner(256, 0), spinner(256, 0), job(256, 0, 50_000, MS)]);
    machine.policy.charge(machine.ids[0], 50 * MS, 0);
    machine.run(10 * MS);
    machine.jobs[2].latency = 0;
    machine.run(50 * MS);
    let latency = machine.jobs[2].latency;
    assert!(latency <= 2 * (GRAIN_NANOS + machine.lag), "{latency} ns");

    // A task that was told to end its time slice, and does not.
    let mut policy = Policy::new();
    let ids: Vec<_> = (0..3).map(|n| policy.add(ROOT, Share::default(), n, 0)).collect();
    (0..2).for_each(|n| policy.wake(ids[n], 0));
    (0..2).for_each(|_| assert!(policy.pick(0).is_some()));
    let told = policy.running[0].id;
    policy.running[0].slice_end = MS;
    policy.wake(ids[2], MS);
    assert_eq!(policy.overdue(0, MS), [told]);
    assert_eq!(policy.next_event(0, MS), Some(MS + YIELD_NANOS));
    assert_eq!(policy.overdue(0, MS + YIELD_NANOS), [policy.running[1].id]);
}

#[test]
fn tasks_that_come_and_go_leave_time_to_those_that_stay() {
    let mut machine = Machine::new(1, [spinner(256, 0)]);
    machine.run(SECOND);
    let before = machine.used(0);
    // Each task exists for a millisecond of work. The next one comes when it has gone.
    for _ in 0..1000 {
        let job = machine.jobs.len();
        machine.add(job_of(MS));
        while machine.jobs[job].used < MS {
            machine.run(machine.now + MS / 10);
        }
        machine.remove(job);
    }
    let stayed = machine.used(0) - before;
    assert!(stayed >= 150 * MS, "{} ms beside a second of others", stayed / MS);
}

/// A task that works for this long and then sleeps.
fn job_of(work: u64) -> Job {
    job(256, 0, work, 1000 * SECOND)
}

#[test]
fn several_that_wake_up_at_once_share_what_is_cut_short() {
    let jobs = (0..8).map(|n| if n < 4 { spinner(256, 0) } else { job(256, 0, 10_000, 50 * MS) });
    let mut machine = Machine::new(2, jobs);
    machine.run(SECOND);
    machine.jobs.iter_mut().for_each(|job| job.latency = 0);
    machine.run(10 * SECOND);
    let latency = machine.jobs.iter().map(|job| job.latency).max().unwrap();
    assert!(latency <= 2 * (GRAIN_NANOS + machine.lag) + 4 * 10_000, "{latency} ns");
}

#[test]
fn waking_up_often_gains_nothing() {
    // Two tasks that block briefly and often, as if to jump the queue, and one that does not block.
    let mut machine = Machine::new(1, [job(256, 0, MS, 1000), job(256, 0, 100_000, 1000), spinner(256, 0)]);
    machine.run(20 * SECOND);
    let used = machine.all_used();
    assert!(used[2] as f64 >= 0.32 * (20 * SECOND) as f64, "{used:?}");
}

#[test]
fn sleep_saves_nothing_up() {
    let mut machine = Machine::new(1, [spinner(256, 0)]);
    machine.add(job(256, 0, 1000, 10 * SECOND));
    machine.run(10 * SECOND);
    machine.jobs[1].work = u64::MAX;
    machine.jobs[1].left = u64::MAX;
    let before = machine.all_used();
    machine.run(11 * SECOND);
    close((machine.used(0) - before[0]) as f64, SECOND as f64 / 2.0, 0.02, "who was awake");
}

#[test]
fn to_have_run_alone_is_no_debt() {
    for processors in [1, 2] {
        let mut machine = Machine::new(processors, (0..processors).map(|_| spinner(256, 0)));
        machine.run(100 * SECOND);
        let before = machine.used(0);
        (0..processors).for_each(|_| machine.add(spinner(256, 0)));
        machine.run(101 * SECOND);
        close((machine.used(0) - before) as f64, SECOND as f64 / 2.0, 0.02, "who was first");
    }
}

#[test]
fn a_weight_beyond_a_processor_is_not_owed_later() {
    let mut machine = Machine::new(2, [spinner(1000, 0), spinner(100, 0), spinner(100, 0)]);
    machine.run(100 * SECOND);
    // From now on it may use its weight: its part is two thirds of a processor.
    (0..2).for_each(|_| machine.add(spinner(1000, 0)));
    let before = machine.all_used();
    machine.run(110 * SECOND);
    let part = 10.0 * 1000.0 / 3200.0 * 2.0 * SECOND as f64;
    for (n, before) in [before[0], 0, 0, 0, 0].into_iter().enumerate().filter(|(n, _)| ![1, 2].contains(n)) {
        close((machine.used(n) - before) as f64, part, 0.05, &format!("{n}"));
    }
}

#[test]
fn a_new_share_counts_from_then_on() {
    let mut machine = Machine::new(1, [spinner(256, 0), spinner(256, 1)]);
    machine.run(SECOND);
    let id = machine.ids[1];
    machine.policy.set_share(id, Share::new(768, 0).unwrap(), machine.now);
    let before = machine.used(1);
    machine.run(3 * SECOND);
    close((machine.used(1) - before) as f64, 1.5 * SECOND as f64, 0.02, "uncapped");
    // A running task is capped during its time slice, even if it is alone.
    let mut machine = Machine::new(1, [spinner(256, 0)]);
    machine.run(SECOND);
    machine.policy.set_share(machine.ids[0], Share::new(256, 10).unwrap(), machine.now);
    machine.run(11 * SECOND);
    close((machine.used(0) - SECOND) as f64, SECOND as f64, 0.02, "capped");
}

#[test]
fn wake_ups_are_not_lost_and_ends_are_final() {
    let mut policy = Policy::new();
    let id = policy.add(ROOT, Share::default(), (), 0);
    assert_eq!(policy.pick(0), None, "new tasks are blocked");
    policy.wake(id, 0);
    policy.wake(id, 0);
    assert_eq!((policy.pick(0), policy.pick(0)), (Some(id), None));
    // Woken while it runs: that it blocks does not count, nor does its deadline.
    policy.wake(id, 1);
    assert_eq!(policy.stop(id, 10, After::Blocked(Some(5)), 2), None);
    assert_eq!((policy.alarms(), policy.pick(2)), (0, Some(id)));
    // Woken before its deadline: the deadline is disarmed.
    policy.stop(id, 10, After::Blocked(Some(MS)), 3);
    assert_eq!((policy.alarms(), policy.next_event(0, 0)), (1, Some(MS)));
    policy.wake(id, 4);
    assert_eq!((policy.alarms(), policy.pick(4)), (0, Some(id)));
    policy.stop(id, 10, After::Ended, 5);
    policy.wake(id, 6);
    policy.tick(SECOND);
    assert_eq!((policy.pick(SECOND), policy.used(id)), (None, Duration::from_nanos(30)));
    assert_eq!(policy.remove(id), Some(()));
}

#[test]
fn removal_in_every_state_leaves_nothing() {
    let mut policy = Policy::new();
    let share = Share::new(256, 10).unwrap();
    let ids: Vec<_> = (0..6).map(|n| policy.add(ROOT, share, n, 0)).collect();
    ids[..5].iter().for_each(|&id| policy.wake(id, 0));
    let running: Vec<_> = (0..4).map(|_| policy.pick(0).unwrap()).collect();
    policy.stop(running[0], 10, After::Blocked(Some(Time::MAX)), MS);
    policy.stop(running[1], 9 * MS, After::Ready, 9 * MS);
    policy.stop(running[2], 10, After::Ended, 9 * MS);
    assert_eq!((policy.alarms(), policy.waiting()), (2, 1));
    let removed: Vec<_> = ids.iter().map(|&id| policy.remove(id)).collect();
    assert_eq!(removed.iter().filter(|removed| removed.is_none()).count(), 1, "one runs");
    assert!(policy.stop(running[3], 10, After::Blocked(Some(20 * MS)), 10 * MS).is_some());
    assert_eq!((policy.alarms(), policy.waiting(), policy.tasks.len()), (0, 0, 0));
}

#[test]
fn a_blocked_task_takes_little_memory() {
    // TaskEntry, alarm (sets keep at least half of their space in use), the task's
    // pointers and the time slice's clock.
    type Slot = (Option<std::sync::Arc<()>>, [u64; 5]);
    let bytes = size_of::<TaskEntry<Slot>>() + 2 * size_of::<(Time, Id)>();
    assert!(bytes <= 220, "{bytes}");
}

#[test]
fn sixteen_thousand_tasks() {
    let blocked = (0..16_000).map(|n| job(256, 0, 5_000, 2 * SECOND + n * 10_000));
    let mut machine = Machine::new(2, blocked.chain([spinner(256, 0), spinner(256, 0)]));
    machine.run(SECOND);
    machine.jobs.iter_mut().for_each(|job| job.latency = 0);
    machine.run(10 * SECOND);
    let mut latencies: Vec<_> = machine.jobs[..16_000].iter().map(|job| job.latency).collect();
    latencies.sort_unstable();
    assert!(latencies[15_840] <= 2 * SLICE_NANOS, "{}", latencies[15_840]);
    let spun = machine.used(16_000) + machine.used(16_001);
    assert!(spun > 19 * SECOND, "{spun}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn spinners_get_their_parts(
        processors in 1usize..5,
        weights in prop::collection::vec(1u32..50, 1..12),
    ) {
        let jobs: Vec<_> = weights.into_iter().map(|weight| (weight, 0)).collect();
        fair(processors, &jobs, 60, 0.05);
    }

    #[test]
    fn nobody_gets_more_than_its_cap(
        processors in 1usize..5,
        jobs in prop::collection::vec((1u32..50, 1u32..100), 1..12),
    ) {
        let mut machine = Machine::new(processors, jobs.iter().map(|&(weight, cap)| spinner(weight, cap)));
        machine.run(20 * SECOND);
        let sum: u32 = jobs.iter().map(|&(_, cap)| cap).sum();
        for (n, &(_, cap)) in jobs.iter().enumerate() {
            let most = u64::from(cap) * 20 * SECOND / 100;
            prop_assert!(machine.used(n) <= most + most / 100, "{}: {} of {}", n, machine.used(n), most);
            // If there are enough processors for all at any time, every task gets all that its cap allows.
            let room = jobs.len() <= processors || processors == 1 && sum <= 80;
            prop_assert!(!room || machine.used(n) >= most - most / 50, "{}: {} of {}", n, machine.used(n), most);
        }
    }

    /// Whatever other tasks do, no task waits for longer than the others' weights allow.
    #[test]
    fn nobody_starves(
        processors in 1usize..4,
        weights in prop::collection::vec(1u32..20, 1..10),
        others in prop::collection::vec((1u32..20, 1u64..5 * MS, 1u64..20 * MS), 0..10),
    ) {
        let spinners = weights.iter().map(|&weight| spinner(weight, 0));
        let others = others.iter().map(|&(weight, work, sleep)| job(weight, 0, work, sleep));
        let mut machine = Machine::new(processors, spinners.chain(others));
        machine.run(20 * SECOND);
        let total: u64 = machine.jobs.iter().map(|job| u64::from(job.share.weight())).sum();
        for (n, job) in machine.jobs[..weights.len()].iter().enumerate() {
            let slices = total.div_ceil(u64::from(job.share.weight())) + 2 * machine.jobs.len() as u64;
            let most = 2 * slices * (SLICE_NANOS + machine.lag);
            prop_assert!(job.wait <= most, "{}: {} ns of {}", n, job.wait, most);
        }
    }

    /// Tasks come, go, are capped and sleep. No processor idles while a task waits (the machine checks this), caps hold,
    /// and nothing is left in the tables.
    #[test]
    fn tasks_come_and_go(
        processors in 1usize..4,
        arrivals in prop::collection::vec(
            (1u32..1000, 0u32..100, prop_oneof![Just(u64::MAX), 1000u64..10 * MS], 1u64..50 * MS, 1u64..400 * MS),
            1..40,
        ),
    ) {
        let mut machine = Machine::new(processors, []);
        let mut leaving = std::collections::BTreeSet::new();
        for (n, &(weight, cap, work, sleep, stay)) in arrivals.iter().enumerate() {
            let arrival = n as u64 * 20 * MS;
            while let Some(&(at, job)) = leaving.first() && at <= arrival {
                machine.run(at);
                machine.remove(job);
                leaving.pop_first();
            }
            machine.run(arrival);
            machine.add(job(weight, cap, work, sleep));
            leaving.insert((arrival + stay, n));
        }
        for (at, job) in leaving {
            machine.run(at);
            machine.remove(job);
        }
        machine.run(machine.now + SECOND);
        for (n, &(_, cap, .., stay)) in arrivals.iter().enumerate() {
            let cap = if cap == 0 { 100 } else { u64::from(cap) };
            // The budget of two periods, the least time of a time slice, and the lag.
            let most = (stay + 2 * PERIOD.as_nanos() as u64) * cap / 100 + GRAIN_NANOS + machine.lag;
            prop_assert!(machine.used(n) <= most || cap == 100, "{}: {} of {}", n, machine.used(n), most);
        }
        prop_assert!(machine.running.is_empty() && machine.policy.tasks.is_empty());
        prop_assert_eq!((machine.policy.waiting(), machine.policy.alarms()), (0, 0));
    }
}

#[test]
fn what_others_do_for_a_task_is_of_its_share_and_of_its_cap() {
    let charged = |jobs: [Job; 2]| {
        let mut machine = Machine::new(1, jobs);
        // A quarter of the time, in pieces.
        for step in 1..=10_000 {
            machine.run(step * MS);
            machine.policy.charge(machine.ids[0], MS / 4, machine.now);
        }
        machine.all_used().into_iter().map(|used| used as f64 / (10 * SECOND) as f64).collect::<Vec<_>>()
    };
    let shared = charged([spinner(256, 0), spinner(256, 0)]);
    close(shared[0] + 0.25, shared[1], 0.02, "of its share");
    let capped = charged([spinner(256, 40), spinner(256, 0)]);
    close(capped[0], 0.15, 0.02, "of its cap");
}
