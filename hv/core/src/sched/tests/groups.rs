//! Groups on real threads.

use super::*;

#[test]
fn threads_carry_out_what_is_decided_for_groups() {
    let workers = Workers::new(1);
    let scheduler = &workers.scheduler;
    let tenant = scheduler.group(Share::default());
    let (many, one) = (tenant.group(Share::default()), tenant.group(Share::default()));
    let spin = |group: &Group| {
        let task = scheduler.add_in(Some(group), Arc::new(Spins::default()), Share::default());
        task.wake();
        task
    };
    let crowd: Vec<_> = (0..10).map(|_| spin(&many)).collect();
    let single = spin(&one);
    // Whatever else this host does, it takes its time from both.
    let used = |tasks: &[Arc<Entity>]| tasks.iter().map(|task| task.cpu_time()).sum::<Duration>();
    while used(&crowd) < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (crowd_used, single_used) = (used(&crowd), single.cpu_time());
    assert!(
        single_used > crowd_used / 2 && single_used < crowd_used * 2,
        "{single_used:?} beside {crowd_used:?}"
    );
    // A group with a quota that is used up stands still. One without goes on.
    one.set_share(
        Share::default()
            .with_quota(Some(Quota::new(Duration::from_millis(1), Duration::from_secs(3600)).unwrap())),
    );
    let goal = used(&crowd) + Duration::from_millis(200);
    let before = single.cpu_time();
    while used(&crowd) < goal {
        std::thread::sleep(Duration::from_millis(1));
    }
    let more = single.cpu_time() - before;
    assert!(more < Duration::from_millis(100), "{more:?} of a quota of 1 ms");
    // Handles go before members, and members before handles.
    drop((one, tenant, crowd));
    drop(many);
    assert!(scheduler.has(&scheduler.group(Share::default())));
    assert!(!Scheduler::default().has(&scheduler.group(Share::default())));
}
