//! Guests with several tasks, and groups of guests.

use super::*;

/// Guests of several spinners: how many each has, its weight and its cap; and what each gets of the processors, in percent of one.
#[track_caller]
fn guests(processors: usize, all: &[(usize, u32, u32)], expected: &[f64]) {
    const SECONDS: u64 = 5;
    let mut machine = Machine::new(processors, []);
    let mut members = Vec::new();
    for &(count, weight, cap) in all {
        let first = machine.jobs.len();
        machine.add(spinner(weight, cap));
        (1..count).for_each(|_| machine.add_beside(first, spinner(weight, cap)));
        members.push(first..first + count);
    }
    machine.run(SECONDS * SECOND);
    for (guest, expected) in members.into_iter().zip(expected) {
        let each: Vec<u64> = guest.map(|job| machine.used(job)).collect();
        let used: u64 = each.iter().sum();
        // No task of a guest starves.
        for &one in &each {
            close(one as f64, used as f64 / each.len() as f64, 0.3, &format!("one of {all:?}"));
        }
        let found = used as f64 * 100.0 / (SECONDS * SECOND) as f64;
        close(found, *expected, 0.03, &format!("{all:?} on {processors}"));
    }
}

#[test]
fn a_guest_has_the_weight_of_one_task() {
    guests(1, &[(2, 256, 0), (1, 256, 0)], &[50.0, 50.0]);
    guests(2, &[(2, 256, 0), (1, 256, 0)], &[100.0, 100.0]);
    guests(2, &[(4, 256, 0), (2, 256, 0), (2, 512, 0)], &[50.0, 50.0, 100.0]);
    guests(4, &[(4, 300, 0), (4, 100, 0)], &[300.0, 100.0]);
    guests(4, &[(2, 256, 0), (3, 256, 0)], &[200.0, 200.0]);
}

#[test]
fn a_guest_has_one_cap() {
    guests(2, &[(2, 256, 50)], &[50.0]);
    guests(2, &[(2, 256, 150)], &[150.0]);
    guests(2, &[(2, 256, 100), (1, 256, 0)], &[100.0, 100.0]);
    guests(4, &[(3, 256, 120), (4, 256, 0)], &[120.0, 280.0]);
    guests(2, &[(2, 256, 200)], &[200.0]);
}

#[test]
fn guests_go_with_their_last_task() {
    let mut machine = Machine::new(1, [spinner(256, 0)]);
    machine.add_beside(0, spinner(256, 0));
    machine.add(spinner(256, 0));
    machine.run(SECOND);
    machine.remove(0);
    machine.run(2 * SECOND);
    machine.remove(1);
    machine.remove(2);
    machine.run(3 * SECOND);
    assert_eq!((machine.policy.nodes.len(), machine.policy.waiting()), (1, 0), "the root is left");
}

#[test]
fn a_guest_that_ran_alone_has_no_debt_when_its_second_task_wakes_up() {
    let mut machine = Machine::new(3, [spinner(256, 0)]);
    machine.add(spinner(256, 0));
    machine.run(100 * SECOND);
    machine.add_beside(0, spinner(256, 0));
    machine.add(spinner(256, 0));
    let before = machine.all_used();
    machine.run(103 * SECOND);
    for job in [0, 1, 2, 3] {
        close(
            (machine.used(job) - before[job]) as f64,
            [2.25, 3.0, 2.25, 3.0][job] * SECOND as f64,
            0.35,
            "one of four",
        );
    }
}

/// What is in a group: tasks with their weights and caps, and groups.
#[derive(Clone, Debug)]
enum Tree {
    Task(u32, u32),
    Group(u32, u32, Vec<Tree>),
}

use Tree::{Group, Task};

impl Tree {
    fn weight(&self) -> f64 {
        let (Task(weight, _) | Group(weight, ..)) = self;
        f64::from(*weight)
    }

    /// The most processors that it can use.
    fn most(&self) -> f64 {
        let (Task(_, cap) | Group(_, cap, _)) = self;
        let cap = if *cap == 0 { f64::INFINITY } else { f64::from(*cap) / 100.0 };
        match self {
            Task(..) => cap.min(1.0),
            Group(_, _, members) => cap.min(members.iter().map(Tree::most).sum()),
        }
    }

    /// What its tasks get in theory of so many processors, in their order.
    fn ideal(&self, processors: f64, out: &mut Vec<f64>) {
        let Group(_, _, members) = self else { return out.push(processors) };
        let mut parts = vec![None; members.len()];
        loop {
            let open: Vec<_> = (0..members.len()).filter(|&n| parts[n].is_none()).collect();
            let left = processors - parts.iter().flatten().sum::<f64>();
            let weights: f64 = open.iter().map(|&n| members[n].weight()).sum();
            let part = |n: usize| left * members[n].weight() / weights;
            let full: Vec<_> = open.iter().copied().filter(|&n| part(n) >= members[n].most()).collect();
            if full.is_empty() {
                open.into_iter().for_each(|n| parts[n] = Some(part(n)));
                break;
            }
            full.into_iter().for_each(|n| parts[n] = Some(members[n].most()));
        }
        for (member, part) in members.iter().zip(parts) {
            member.ideal(part.expect("all have theirs"), out);
        }
    }

    fn build(&self, machine: &mut Machine, above: NodeId) {
        match self {
            Task(weight, cap) => machine.add_in(above, spinner(*weight, *cap)),
            Group(weight, cap, members) => {
                let group = machine.group(above, *weight, *cap);
                members.iter().for_each(|member| member.build(machine, group));
            }
        }
    }
}

/// What each task below the root gets of the processors in theory.
fn ideal(processors: usize, members: &[Tree]) -> Vec<f64> {
    let root = Group(1, 0, members.to_vec());
    let mut parts = Vec::new();
    root.ideal((processors as f64).min(root.most()), &mut parts);
    parts
}

/// Seconds in which each of these has at least a hundred time slices. What a task has used differs from its part by a time slice or two, so
/// comparisons of tasks with few of them would be of these alone.
fn long_enough(processors: usize, members: &[Tree]) -> u64 {
    let least = ideal(processors, members).into_iter().fold(f64::INFINITY, f64::min);
    ((100 * SLICE_NANOS) as f64 / (least * SECOND as f64)).ceil() as u64
}

/// Builds this below the root and runs it. Returns what each task gets of the processors in theory, and what it got.
fn run(processors: usize, members: &[Tree], seconds: u64) -> Vec<(f64, f64)> {
    let mut machine = Machine::new(processors, []);
    members.iter().for_each(|member| member.build(&mut machine, ROOT));
    machine.run(seconds * SECOND);
    let parts = ideal(processors, members);
    let found = (0..parts.len()).map(|n| machine.used(n) as f64 / (seconds * SECOND) as f64);
    parts.into_iter().zip(found.collect::<Vec<_>>()).collect()
}

/// Compares with theory what each task got.
#[track_caller]
fn nested(processors: usize, members: Vec<Tree>, seconds: u64, tolerance: f64) {
    for (n, (expected, found)) in run(processors, &members, seconds).into_iter().enumerate() {
        close(found, expected, tolerance, &format!("{n} of {members:?} on {processors}"));
    }
}

fn tasks(count: usize) -> Vec<Tree> {
    vec![Task(256, 0); count]
}

#[test]
fn weights_hold_between_groups_however_many_guests_they_have() {
    nested(1, vec![Group(256, 0, tasks(64)), Group(256, 0, tasks(1))], 20, 0.02);
    nested(2, vec![Group(256, 0, tasks(64)), Group(256, 0, tasks(1))], 20, 0.03);
    nested(1, vec![Group(100, 0, tasks(10)), Group(300, 0, tasks(2)), Task(400, 0)], 20, 0.02);
    nested(4, vec![Group(100, 0, tasks(40)), Group(300, 0, tasks(8))], 20, 0.03);
    // A group cannot use more processors than it has guests.
    nested(4, vec![Group(900, 0, tasks(1)), Group(100, 0, tasks(30))], 20, 0.03);
}

#[test]
fn groups_in_groups() {
    let tenant = |weight, functions| Group(weight, 0, functions);
    nested(
        2,
        vec![
            tenant(512, vec![Group(256, 0, tasks(8)), Group(768, 0, tasks(2))]),
            tenant(256, vec![Group(256, 0, tasks(50)), Task(256, 0)]),
            Task(256, 0),
        ],
        30,
        0.03,
    );
    // What a group leaves is its rivals' in the group above first.
    nested(
        1,
        vec![tenant(256, vec![Group(256, 10, tasks(3)), Group(256, 0, tasks(1))]), Task(256, 0)],
        30,
        0.03,
    );
}

/// Compares with its cap what a group got.
#[track_caller]
fn capped(processors: usize, cap: u32, members: Vec<Tree>, rivals: Vec<Tree>) {
    let all = [vec![Group(256, cap, members)], rivals].concat();
    let parts = run(processors, &all, 20);
    let mut guests = Vec::new();
    all[0].ideal(0.0, &mut guests);
    let found: f64 = parts[..guests.len()].iter().map(|(_, found)| found).sum();
    close(found, f64::from(cap) / 100.0, 0.01, &format!("{all:?} on {processors}"));
    for (expected, found) in parts {
        close(found, expected, 0.1, &format!("one of {all:?} on {processors}"));
    }
}

#[test]
fn a_cap_of_a_group_holds_over_guests_and_processors() {
    capped(2, 50, tasks(10), vec![]);
    capped(1, 1, tasks(3), vec![]);
    capped(4, 150, tasks(10), vec![Task(256, 0)]);
    let inner = Group(256, 25, vec![Group(256, 0, tasks(2)), Task(256, 5)]);
    capped(4, 100, tasks(3), vec![inner]);
    capped(2, 130, vec![Group(256, 100, tasks(9)), Group(256, 60, tasks(5))], vec![Task(1, 0), Task(1, 0)]);
}

#[test]
fn a_quota_holds_in_every_period() {
    let ms = Duration::from_millis;
    let mut machine = Machine::new(2, []);
    let share =
        Share::default().with_quota(Some(super::super::super::Quota::new(ms(300), ms(1000)).unwrap()));
    let group = machine.policy.add_group(ROOT, share, 0);
    (0..4).for_each(|_| machine.add_in(group, spinner(256, 0)));
    machine.add(spinner(256, 0));
    for second in 1..=20 {
        let before: u64 = (0..4).map(|job| machine.used(job)).sum();
        // It may use its time at once, on both processors. The first period has less: the time slice in which the budget
        // ends is a debt of the next.
        machine.run((second - 1) * SECOND + 500 * MS);
        let half: u64 = (0..4).map(|job| machine.used(job)).sum();
        machine.run(second * SECOND);
        let all: u64 = (0..4).map(|job| machine.used(job)).sum();
        close((half - before) as f64, 300.0 * MS as f64, 0.05, "half a period");
        close((all - before) as f64, 300.0 * MS as f64, 0.05, "a period");
    }
    // What was not used is not kept.
    let idle = machine.policy.add_group(ROOT, share, machine.now);
    machine.run(machine.now + 10 * SECOND);
    let first = machine.jobs.len();
    machine.add_in(idle, spinner(256, 0));
    machine.run(machine.now + SECOND - 1);
    close(machine.used(first) as f64, 300.0 * MS as f64, 0.05, "after ten idle periods");
}

#[test]
fn who_wakes_up_in_a_small_group_does_not_wait_for_a_large_one() {
    for processors in [1, 2] {
        let mut machine = Machine::new(processors, []);
        let (large, small) = (machine.group(ROOT, 256, 0), machine.group(ROOT, 256, 0));
        (0..64).for_each(|_| machine.add_in(large, spinner(256, 0)));
        machine.add_in(small, job(256, 0, 10_000, 97 * MS));
        machine.run(SECOND);
        machine.jobs[64].latency = 0;
        machine.run(30 * SECOND);
        let latency = machine.jobs[64].latency;
        assert!(latency <= GRAIN_NANOS + machine.lag, "on {processors}: {latency} ns");
    }
}

#[test]
fn requests_one_after_the_other_run_beside_many_at_once() {
    // A function at c=1 beside one at c=64: each request is some milliseconds of work, the next comes at once.
    let work = 6 * MS;
    for (processors, part) in [(1, 0.45), (2, 0.9)] {
        let mut machine = Machine::new(processors, []);
        let (large, small) = (machine.group(ROOT, 256, 0), machine.group(ROOT, 256, 0));
        (0..64).for_each(|_| machine.add_in(large, job(256, 0, work, 100_000)));
        machine.add_in(small, job(256, 0, work, 100_000));
        machine.run(20 * SECOND);
        let alone = work as f64 / (work + 100_000) as f64;
        let found = machine.used(64) as f64 / (20 * SECOND) as f64 / alone;
        assert!(found >= part, "{found:.3} of its rate alone on {processors}");
    }
}

#[test]
fn a_group_that_comes_back_is_owed_no_more_than_a_slice() {
    let mut machine = Machine::new(1, []);
    let (busy, idle) = (machine.group(ROOT, 256, 0), machine.group(ROOT, 256, 0));
    (0..3).for_each(|_| machine.add_in(busy, spinner(256, 0)));
    machine.run(10 * SECOND);
    (0..3).for_each(|_| machine.add_in(idle, spinner(256, 0)));
    machine.run(11 * SECOND);
    let used: u64 = (3..6).map(|job| machine.used(job)).sum();
    close(used as f64, SECOND as f64 / 2.0, 0.02, "who was idle");
}

#[test]
fn a_new_share_of_a_group_counts_from_then_on() {
    let mut machine = Machine::new(2, []);
    let (one, other) = (machine.group(ROOT, 256, 10), machine.group(ROOT, 256, 0));
    (0..4).for_each(|_| machine.add_in(one, spinner(256, 0)));
    (0..4).for_each(|_| machine.add_in(other, spinner(256, 0)));
    let used = |machine: &Machine| (0..4).map(|job| machine.used(job)).sum::<u64>();
    for (weight, cap, expected) in [(256, 10, 0.1), (768, 0, 1.5), (256, 0, 1.0), (256, 50, 0.5)] {
        machine.policy.set_node_share(one, Share::new(weight, cap).unwrap(), machine.now);
        let before = used(&machine);
        machine.run(machine.now + 10 * SECOND);
        close((used(&machine) - before) as f64, expected * 10.0 * SECOND as f64, 0.02, "a new share");
    }
}

#[test]
fn groups_live_as_long_as_a_handle_or_a_member() {
    let mut machine = Machine::new(1, []);
    let tenant = machine.group(ROOT, 256, 1);
    let function = machine.group(tenant, 256, 0);
    machine.add_in(function, spinner(256, 0));
    machine.policy.drop_group(tenant);
    machine.policy.drop_group(function);
    machine.run(SECOND);
    assert_eq!(machine.policy.nodes.len(), 4);
    machine.remove(0);
    machine.run(2 * SECOND);
    assert_eq!((machine.policy.nodes.len(), machine.policy.waiting(), machine.policy.alarms()), (1, 0, 0));
    let empty = machine.group(ROOT, 256, 1);
    machine.policy.drop_group(empty);
    assert_eq!(machine.policy.nodes.len(), 1);
}

/// Tenants with functions, and functions beside them; each has at least so many guests.
fn tree(least: usize) -> impl Strategy<Value = Vec<Tree>> {
    let function = move || {
        let guests = prop::collection::vec(Just(Task(256, 0)), least..least + 6);
        (1u32..20, guests).prop_map(|(weight, guests)| Group(weight, 0, guests))
    };
    let tenant = (1u32..20, prop::collection::vec(function(), 1..4));
    let tenant = tenant.prop_map(|(weight, functions)| Group(weight, 0, functions));
    prop::collection::vec(prop_oneof![function(), tenant], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_group_gets_its_part_of_that_of_the_group_above(processors in 1usize..5, members in tree(4)) {
        let seconds = long_enough(processors, &members).max(30);
        nested(processors, members, seconds, 0.08);
    }

    /// What has fewer guests than processors cannot always use its part when its group gets it.
    #[test]
    fn tenants_get_their_parts_and_none_of_their_guests_starves(processors in 1usize..5, members in tree(1)) {
        let mut parts = run(processors, &members, long_enough(processors, &members).max(30));
        for member in &members {
            let mut count = Vec::new();
            member.ideal(0.0, &mut count);
            let own: Vec<_> = parts.drain(..count.len()).collect();
            let (expected, found) = own.iter().fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
            prop_assert!((found - expected).abs() <= 0.08 * expected, "{member:?}: {found}, expected {expected}");
            for (expected, found) in own {
                prop_assert!(found >= 0.5 * expected, "{member:?}: a guest has {found}, expected {expected}");
            }
        }
    }

    /// Guests come, go and sleep in groups with caps. No processor idles while one waits (the machine checks this), no cap
    /// is exceeded, and nothing is left in the tables.
    #[test]
    fn guests_come_and_go(
        processors in 1usize..4,
        caps in prop::collection::vec((prop_oneof![Just(0u32), 5u32..250], 0usize..4), 1..6),
        arrivals in prop::collection::vec(
            (0usize..6, prop_oneof![Just(u64::MAX), 1000u64..10 * MS], 1u64..50 * MS, 1u64..400 * MS),
            1..40,
        ),
    ) {
        let mut machine = Machine::new(processors, []);
        let mut groups: Vec<NodeId> = Vec::new();
        for &(cap, above) in &caps {
            let above = groups.get(above).copied().unwrap_or(ROOT);
            groups.push(machine.group(above, 256, cap));
        }
        let mut leaving = std::collections::BTreeSet::new();
        let mut places = Vec::new();
        for (n, &(place, work, sleep, stay)) in arrivals.iter().enumerate() {
            let arrival = n as u64 * 20 * MS;
            while let Some(&(at, job)) = leaving.first() && at <= arrival {
                machine.run(at);
                machine.remove(job);
                leaving.pop_first();
            }
            machine.run(arrival);
            let group = groups.get(place).copied().unwrap_or(ROOT);
            places.push(group);
            machine.add_in(group, job(256, 0, work, sleep));
            leaving.insert((arrival + stay, n));
        }
        let paths: Vec<Vec<NodeId>> =
            places.iter().map(|group| machine.policy.path(*group).chain([ROOT]).collect()).collect();
        for (at, job) in leaving {
            machine.run(at);
            machine.remove(job);
        }
        machine.run(machine.now + SECOND);
        for (group, &(cap, _)) in groups.iter().zip(&caps).filter(|(_, cap)| cap.0 > 0) {
            let jobs = (0..paths.len()).filter(|job| paths[*job].contains(group));
            let used: u64 = jobs.map(|job| machine.used(job)).sum();
            // The budget of two periods, and for each processor the least time of a time slice, and the lag.
            let most = (machine.now + 2 * PERIOD.as_nanos() as u64) * u64::from(cap) / 100
                + processors as u64 * (10 * MS + GRAIN_NANOS + machine.lag);
            prop_assert!(used <= most, "{}: {} of {}", cap, used, most);
        }
        prop_assert!(machine.running.is_empty() && machine.policy.tasks.is_empty());
        prop_assert_eq!(machine.policy.waiting(), 0);
        groups.into_iter().for_each(|group| machine.policy.drop_group(group));
        prop_assert_eq!((machine.policy.nodes.len(), machine.policy.alarms()), (1, 0));
    }
}
