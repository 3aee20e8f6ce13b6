//! Tasks on real threads.

mod groups;

use super::*;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Returns one reason to stop after the other, then ends.
struct Steps {
    script: Mutex<Vec<Next>>,
    runs: AtomicUsize,
}

impl Task for Steps {
    fn run(&self) -> Next {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.script.lock().unwrap().pop().unwrap_or(Next::Ended)
    }

    fn preempt(&self) {}
}

fn steps(mut script: Vec<Next>) -> Arc<Steps> {
    script.reverse();
    Arc::new(Steps { script: Mutex::new(script), runs: AtomicUsize::new(0) })
}

/// Runs until it is asked to give way.
#[derive(Default)]
struct Spins {
    asked: AtomicBool,
    slices: AtomicUsize,
}

impl Task for Spins {
    fn run(&self) -> Next {
        self.slices.fetch_add(1, Ordering::SeqCst);
        while !self.asked.swap(false, Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        Next::Ready
    }

    fn preempt(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }
}

fn add(scheduler: &Scheduler, task: Arc<dyn Task>) -> Arc<Entity> {
    let entity = scheduler.add(task, Share::default());
    entity.wake();
    entity
}

fn has_ended(entity: &Entity) -> bool {
    entity.shared.core().policy.payload(entity.id).task.is_none()
}

fn run_to_end(scheduler: &Scheduler, task: &Arc<Steps>) {
    let entity = add(scheduler, task.clone());
    scheduler.work(&|| has_ended(&entity));
}

/// Threads that run tasks until this value is dropped.
struct Workers {
    scheduler: Scheduler,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    fn new(count: usize) -> Self {
        let (scheduler, stop) = (Scheduler::default(), Arc::new(AtomicBool::new(false)));
        let threads = (0..count)
            .map(|_| {
                let (scheduler, stop) = (scheduler.clone(), stop.clone());
                std::thread::spawn(move || scheduler.work(&|| stop.load(Ordering::SeqCst)))
            })
            .collect();
        Workers { scheduler, stop, threads }
    }

    /// Waits until all of these have ended.
    fn wait_for(&self, entities: &[Arc<Entity>]) {
        while !entities.iter().all(|entity| has_ended(entity)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.scheduler.notify();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn a_ready_task_runs_until_it_ends() {
    let task = steps(vec![Next::Ready, Next::Ready]);
    run_to_end(&Scheduler::default(), &task);
    assert_eq!(task.runs.load(Ordering::SeqCst), 3);
}

#[test]
fn a_timer_wakes_a_blocked_task() {
    let task = steps(vec![Next::Blocked(Some(Instant::now() + Duration::from_millis(5)))]);
    let scheduler = Scheduler::default();
    run_to_end(&scheduler, &task);
    assert_eq!(task.runs.load(Ordering::SeqCst), 2);
    assert_eq!(scheduler.timers(), 0);
}

#[test]
fn a_wake_up_while_running_is_not_lost() {
    struct WakesItself(Mutex<Option<Arc<Entity>>>, AtomicBool);
    impl Task for WakesItself {
        fn run(&self) -> Next {
            if self.1.swap(true, Ordering::SeqCst) {
                return Next::Ended;
            }
            self.0.lock().unwrap().as_ref().unwrap().wake();
            Next::Blocked(None)
        }

        fn preempt(&self) {}
    }
    let scheduler = Scheduler::default();
    let task = Arc::new(WakesItself(Mutex::new(None), AtomicBool::new(false)));
    let entity = scheduler.add(task.clone(), Share::default());
    *task.0.lock().unwrap() = Some(entity.clone());
    entity.wake();
    scheduler.work(&|| has_ended(&entity));
}

#[test]
fn tasks_that_never_stop_by_themselves_do_not_starve_others() {
    /// Ends when each of these has had three time slices.
    struct Watches(Vec<Arc<Spins>>);
    impl Task for Watches {
        fn run(&self) -> Next {
            let all = self.0.iter().all(|task| task.slices.load(Ordering::SeqCst) >= 3);
            if all { Next::Ended } else { Next::Ready }
        }

        fn preempt(&self) {}
    }
    let scheduler = Scheduler::default();
    let spinners: Vec<Arc<Spins>> = (0..3).map(|_| Arc::default()).collect();
    let _entities: Vec<_> = spinners.iter().map(|task| add(&scheduler, task.clone())).collect();
    let last = add(&scheduler, Arc::new(Watches(spinners)));
    scheduler.work(&|| has_ended(&last));
}

#[test]
fn deadlines_come_while_all_threads_are_busy() {
    for count in [1, 2] {
        let workers = Workers::new(count);
        let spinners: Vec<Arc<Spins>> = (0..3).map(|_| Arc::default()).collect();
        let _entities: Vec<_> = spinners.iter().map(|task| add(&workers.scheduler, task.clone())).collect();
        let script =
            (1..20).map(|n| Next::Blocked(Some(Instant::now() + Duration::from_millis(n)))).collect();
        workers.wait_for(&[add(&workers.scheduler, steps(script))]);
    }
}

#[test]
fn a_thread_leaves_at_the_time_it_wants() {
    let scheduler = Scheduler::default();
    let _spins = [add(&scheduler, Arc::new(Spins::default())), add(&scheduler, Arc::new(Spins::default()))];
    let until = Instant::now() + Duration::from_millis(20);
    let alarm = scheduler.notify_at(until);
    scheduler.work(&|| Instant::now() >= until);
    drop(alarm);
    drop(scheduler.notify_at(Instant::now() + Duration::from_secs(1_000_000)));
    assert_eq!(scheduler.timers(), 0);
}

#[test]
fn another_thread_watches_a_timer_that_is_set_by_a_busy_one() {
    let workers = Workers::new(2);
    let deadline = |n: u64| Some(Instant::now() + Duration::from_millis(n % 7));
    let tasks = (0..50).map(|n| steps(vec![Next::Blocked(deadline(n)), Next::Ready]));
    let entities: Vec<_> = tasks.map(|task| add(&workers.scheduler, task)).collect();
    workers.wait_for(&entities);
    assert_eq!(workers.scheduler.timers(), 0);
}

/// Passes a token around: wakes the next task, and blocks.
struct Passes {
    next: Mutex<Option<Weak<Entity>>>,
    left: AtomicUsize,
}

impl Task for Passes {
    fn run(&self) -> Next {
        if let Some(next) = self.next.lock().unwrap().as_ref().and_then(Weak::upgrade) {
            next.wake();
        }
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left == 1 { Next::Ended } else { Next::Blocked(None) }
    }

    fn preempt(&self) {}
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    for count in [1, 2, 4] {
        let workers = Workers::new(count);
        let tasks: Vec<_> = (0..8)
            .map(|_| Arc::new(Passes { next: Mutex::default(), left: AtomicUsize::new(5000) }))
            .collect();
        let entities: Vec<_> =
            tasks.iter().map(|task| workers.scheduler.add(task.clone(), Share::default())).collect();
        for (n, task) in tasks.iter().enumerate() {
            *task.next.lock().unwrap() = Some(Arc::downgrade(&entities[(n + 1) % entities.len()]));
        }
        entities[0].wake();
        workers.wait_for(&entities);
    }
}

#[test]
fn nothing_keeps_a_task_whose_owner_has_dropped_it() {
    let workers = Workers::new(1);
    let scheduler = &workers.scheduler;
    let far = Instant::now() + Duration::from_secs(1_000_000);
    for script in [vec![Next::Blocked(Some(far))], vec![Next::Blocked(None)]] {
        let task = steps(script);
        let gone = Arc::downgrade(&task);
        let entity = add(scheduler, task);
        while gone.upgrade().is_some_and(|task| task.runs.load(Ordering::SeqCst) == 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It blocks, or is about to: then it is gone after that time slice.
        drop(entity);
        while gone.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(scheduler.timers(), 0);
    }
    // A task that has ended is dropped although its owner keeps the entity.
    let task = steps(vec![]);
    let gone = Arc::downgrade(&task);
    let entity = add(scheduler, task);
    workers.wait_for(std::slice::from_ref(&entity));
    while gone.strong_count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    entity.wake();
    // A running task gives way, and is gone.
    let task = Arc::new(Spins::default());
    let gone = Arc::downgrade(&task);
    let entity = add(scheduler, task);
    while gone.upgrade().is_some_and(|task| task.slices.load(Ordering::SeqCst) == 0) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(entity);
    while gone.strong_count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_scheduler_ends_with_its_ticker() {
    let shared = {
        let workers = Workers::new(1);
        let task = Arc::new(Spins::default());
        let _entities =
            [add(&workers.scheduler, task.clone()), add(&workers.scheduler, Arc::new(Spins::default()))];
        while task.slices.load(Ordering::SeqCst) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Arc::downgrade(&workers.scheduler.shared)
    };
    while shared.strong_count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn time_that_a_task_does_not_use_is_not_counted() {
    struct Sleeps;
    impl Task for Sleeps {
        fn run(&self) -> Next {
            std::thread::sleep(Duration::from_millis(200));
            Next::Ended
        }

        fn preempt(&self) {}
    }
    let scheduler = Scheduler::default();
    let entity = add(&scheduler, Arc::new(Sleeps));
    scheduler.work(&|| has_ended(&entity));
    assert!(entity.cpu_time() < Duration::from_millis(100), "{:?}", entity.cpu_time());

    // A task that spins is charged while it does so.
    let workers = Workers::new(1);
    let entity = add(&workers.scheduler, Arc::new(Spins::default()));
    let mut before = Duration::ZERO;
    for _ in 0..3 {
        while entity.cpu_time() < before + Duration::from_millis(5) {
            std::thread::yield_now();
        }
        before = entity.cpu_time();
    }
}

/// A task that keeps its thread and does nothing is charged for it, and is not said to have used a processor.
#[test]
fn time_slept_in_a_turn_counts_for_the_next_turn_and_is_no_cpu_time() {
    struct Dozes;

    impl Task for Dozes {
        fn run(&self) -> Next {
            Next::Ended
        }

        fn preempt(&self) {}

        fn slept(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    let scheduler = Scheduler::default();
    let entity = add(&scheduler, Arc::new(Dozes));
    scheduler.work(&|| has_ended(&entity));
    let counted = scheduler.shared.core().policy.used(entity.id);
    assert!((5..6).contains(&counted.as_secs()), "{counted:?}");
    assert!(entity.cpu_time() < Duration::from_secs(1), "{:?}", entity.cpu_time());
}

#[test]
fn a_processor_that_is_lent_runs_no_tasks_until_it_is_given_back() {
    let scheduler = Scheduler::default();
    let tasks: Vec<Arc<Spins>> = (0..3).map(|_| Arc::default()).collect();
    let entities: Vec<_> = tasks.iter().map(|task| add(&scheduler, task.clone())).collect();
    let over = AtomicBool::new(false);
    let running = || scheduler.shared.core().policy.running();
    let eventually = |condition: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(condition());
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| scheduler.work(&|| over.load(Ordering::SeqCst)))).collect();
        eventually(&|| running() == 2);
        assert!(scheduler.crowded().load(Ordering::SeqCst));
        scheduler.spare(true);
        eventually(&|| running() == 1);
        // All continue in time slices, one at a time.
        let slices = |task: &Arc<Spins>| task.slices.load(Ordering::SeqCst);
        let before: Vec<_> = tasks.iter().map(slices).collect();
        eventually(&|| tasks.iter().zip(&before).all(|(task, &before)| slices(task) > before + 2));
        assert!(running() <= 1);
        scheduler.spare(false);
        eventually(&|| running() == 2);
        over.store(true, Ordering::SeqCst);
        drop(entities);
        scheduler.notify();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn a_notification_during_the_check_is_not_lost() {
    let scheduler = Scheduler::default();
    let (left, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let first = AtomicBool::new(true);
        // The end comes while the thread checks, and nothing else happens afterwards.
        scheduler.work(&|| {
            if first.swap(false, Ordering::SeqCst) {
                scheduler.notify();
                return false;
            }
            true
        });
        let _ = left.send(());
    });
    assert_eq!(wait.recv_timeout(Duration::from_secs(10)), Ok(()));
}
