//! Who runs when: tasks, the threads that run them, and timers.
//!
//! A task runs until it has a reason to stop, and holds a thread only while
//! it runs; a blocked task is an entry in a table.
//!
//! ```text
//!            wake            run                  Ready
//!  Blocked ───────► Queued ───────► Running ─────────────► Queued
//!     ▲                               │  │ wake
//!     │            Blocked            │  ▼
//!     └───────────────────────────────┘ Woken ── Blocked ──► Queued
//! ```
//!
//! While more tasks are ready than threads wait for one, a task that has run for
//! a [`SLICE`] is asked to give way, and goes to the end of the queue.
//!
//! `Woken` is what makes a wake-up between a task's decision to block and its
//! blocking count.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long a task may run while others are ready.
pub const SLICE: Duration = Duration::from_millis(2);

/// Why a task stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It could go on.
    Ready,
    /// It waits for a wake-up, or for this time.
    Blocked(Option<Instant>),
    /// It will never run again.
    Ended,
}

/// Something that runs in turns.
pub trait Task: Send + Sync {
    /// Runs until there is a reason to stop.
    fn run(&self) -> Next;

    /// Has the current [`run`](Self::run), or else the next, return
    /// [`Next::Ready`] soon. Called from another thread.
    fn preempt(&self);
}

const BLOCKED: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;
const ENDED: u8 = 4;

/// A task with its place in the scheduler.
pub struct Entity {
    task: Arc<dyn Task>,
    id: u64,
    state: AtomicU8,
    /// The deadline that it last blocked with, while that is still armed.
    timer: Mutex<Option<Instant>>,
    scheduler: Arc<Shared>,
}

/// What waits in the ready queue.
enum Item {
    Run(Arc<Entity>),
    /// Nothing to run, but a reason to look at timers or end conditions again.
    Look,
}

struct Shared {
    ready: Sender<Item>,
    queue: Receiver<Item>,
    timers: Mutex<BTreeMap<(Instant, u64), Arc<Entity>>>,
    ids: AtomicU64,
    /// Threads that wait for something to run.
    idle: AtomicUsize,
    /// What runs, and since when.
    running: Mutex<Vec<(Arc<Entity>, Instant)>>,
    /// Tells the thread that ends slices that tasks wait. Most engines never
    /// have more ready tasks than threads, and never need that thread.
    crowded: OnceLock<Sender<()>>,
}

impl Shared {
    fn timers(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Entity>>> {
        self.timers.lock().expect("no panic while held")
    }

    fn running(&self) -> MutexGuard<'_, Vec<(Arc<Entity>, Instant)>> {
        self.running.lock().expect("no panic while held")
    }

    fn push(self: &Arc<Self>, item: Item) {
        self.ready.send(item).expect("the receiver lives beside the sender");
        self.share();
    }

    /// Sees to it that running tasks give way if ready ones would wait for them.
    fn share(self: &Arc<Self>) {
        if self.queue.len() <= self.idle.load(Ordering::SeqCst) || self.running().is_empty() {
            return;
        }
        let crowded = self.crowded.get_or_init(|| {
            let (sender, receiver) = bounded(1);
            let shared = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name("hv-slice".into());
            if let Err(error) = thread.spawn(move || end_slices(&shared, &receiver)) {
                tracing::error!("no thread to end time slices: {error}");
            }
            sender
        });
        // If it knows already, it need not be told.
        let _ = crowded.try_send(());
    }
}

/// While tasks wait, asks those to give way that have run for a slice.
fn end_slices(shared: &Weak<Shared>, crowded: &Receiver<()>) {
    while crowded.recv().is_ok() {
        loop {
            std::thread::sleep(SLICE);
            let Some(shared) = shared.upgrade() else { return };
            if shared.queue.is_empty() {
                break;
            }
            let running = shared.running().clone();
            running.iter().filter(|(_, since)| since.elapsed() >= SLICE).for_each(|(e, _)| e.task.preempt());
        }
    }
}

impl Entity {
    /// Makes the task run (again) soon, unless it has ended.
    pub fn wake(self: &Arc<Self>) {
        let woken = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| match state {
            BLOCKED => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        });
        if woken == Ok(BLOCKED) {
            self.scheduler.push(Item::Run(self.clone()));
        }
    }
}

/// A set of tasks, and the queue of those that are ready.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

impl Default for Scheduler {
    fn default() -> Self {
        let (ready, queue) = unbounded();
        Scheduler {
            shared: Arc::new(Shared {
                ready,
                queue,
                timers: Mutex::default(),
                ids: AtomicU64::new(0),
                idle: AtomicUsize::new(0),
                running: Mutex::default(),
                crowded: OnceLock::new(),
            }),
        }
    }
}

impl Scheduler {
    /// Adds a task, blocked until its first [`wake`](Entity::wake).
    pub fn add(&self, task: Arc<dyn Task>) -> Arc<Entity> {
        Arc::new(Entity {
            task,
            id: self.shared.ids.fetch_add(1, Ordering::Relaxed),
            state: AtomicU8::new(BLOCKED),
            timer: Mutex::new(None),
            scheduler: self.shared.clone(),
        })
    }

    /// Makes a thread in [`work`](Self::work) look at its `done` again.
    pub fn nudge(&self) {
        self.shared.push(Item::Look);
    }

    /// Runs ready tasks on this thread until `done`.
    pub fn work(&self, done: &dyn Fn() -> bool) {
        while !done() {
            let deadline = self.fire_timers(Instant::now());
            self.shared.idle.fetch_add(1, Ordering::SeqCst);
            let item = match deadline {
                Some(deadline) => self.shared.queue.recv_deadline(deadline),
                None => self.shared.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.shared.idle.fetch_sub(1, Ordering::SeqCst);
            if let Ok(Item::Run(entity)) = item {
                self.run(&entity);
            }
        }
    }

    /// Wakes the tasks whose time has come; returns the next such time.
    fn fire_timers(&self, now: Instant) -> Option<Instant> {
        loop {
            let due = {
                let mut timers = self.shared.timers();
                let first = timers.first_entry()?;
                let at = first.key().0;
                if at > now {
                    return Some(at);
                }
                first.remove()
            };
            due.wake();
        }
    }

    fn run(&self, entity: &Arc<Entity>) {
        entity.state.store(RUNNING, Ordering::SeqCst);
        self.disarm(entity);
        self.shared.running().push((entity.clone(), Instant::now()));
        self.shared.share();
        let next = entity.task.run();
        self.shared.running().retain(|(other, _)| other.id != entity.id);
        match next {
            Next::Ready => {
                entity.state.store(QUEUED, Ordering::SeqCst);
                self.shared.push(Item::Run(entity.clone()));
            }
            Next::Ended => {
                entity.state.store(ENDED, Ordering::SeqCst);
                self.nudge();
            }
            Next::Blocked(deadline) => self.block(entity, deadline),
        }
    }

    fn block(&self, entity: &Arc<Entity>, deadline: Option<Instant>) {
        // Threads that wait for a timer wait for the first one; a new first
        // one concerns them if this thread is going to be busy.
        let mut new_first = false;
        if let Some(deadline) = deadline {
            let key = (deadline, entity.id);
            *entity.timer.lock().expect("no panic while held") = Some(deadline);
            let mut timers = self.shared.timers();
            new_first = timers.first_key_value().is_none_or(|(&first, _)| key < first);
            timers.insert(key, entity.clone());
        }
        let blocked = entity.state.compare_exchange(RUNNING, BLOCKED, Ordering::SeqCst, Ordering::SeqCst);
        if blocked.is_err() {
            entity.state.store(QUEUED, Ordering::SeqCst);
            self.shared.push(Item::Run(entity.clone()));
        } else if new_first && !self.shared.queue.is_empty() {
            self.nudge();
        }
    }

    /// Forgets the timer of a task that was woken before it.
    fn disarm(&self, entity: &Entity) {
        if let Some(deadline) = entity.timer.lock().expect("no panic while held").take() {
            self.shared.timers().remove(&(deadline, entity.id));
        }
    }

    /// Number of armed timers.
    pub fn timers(&self) -> usize {
        self.shared.timers().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::time::Duration;

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

    fn run_to_end(scheduler: &Scheduler, task: &Arc<Steps>) {
        let entity = scheduler.add(task.clone());
        entity.wake();
        scheduler.work(&|| entity.state.load(Ordering::SeqCst) == ENDED);
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
        let entity = scheduler.add(task.clone());
        *task.0.lock().unwrap() = Some(entity.clone());
        entity.wake();
        scheduler.work(&|| entity.state.load(Ordering::SeqCst) == ENDED);
    }

    #[test]
    fn tasks_that_never_stop_by_themselves_do_not_starve_others() {
        #[derive(Default)]
        struct Spins {
            asked: AtomicBool,
            turns: AtomicUsize,
        }
        impl Task for Spins {
            fn run(&self) -> Next {
                self.turns.fetch_add(1, Ordering::SeqCst);
                while !self.asked.swap(false, Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                Next::Ready
            }

            fn preempt(&self) {
                self.asked.store(true, Ordering::SeqCst);
            }
        }
        let scheduler = Scheduler::default();
        let spinners: Vec<Arc<Spins>> = (0..3).map(|_| Arc::default()).collect();
        let entities: Vec<_> = spinners.iter().map(|task| scheduler.add(task.clone())).collect();
        entities.iter().for_each(Entity::wake);
        let last = steps(vec![Next::Ready, Next::Ready]);
        run_to_end(&scheduler, &last);
        assert!(spinners.iter().all(|task| task.turns.load(Ordering::SeqCst) >= 3));
    }

    #[test]
    fn another_thread_watches_a_timer_that_is_set_by_a_busy_one() {
        let scheduler = Scheduler::default();
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (scheduler, stop) = (scheduler.clone(), stop.clone());
                std::thread::spawn(move || scheduler.work(&|| stop.load(Ordering::SeqCst)))
            })
            .collect();
        let tasks: Vec<_> = (0..50)
            .map(|i| {
                steps(vec![Next::Blocked(Some(Instant::now() + Duration::from_millis(i % 7))), Next::Ready])
            })
            .collect();
        let entities: Vec<_> = tasks.iter().map(|task| scheduler.add(task.clone())).collect();
        entities.iter().for_each(Entity::wake);
        while entities.iter().any(|e| e.state.load(Ordering::SeqCst) != ENDED) {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::SeqCst);
        workers.iter().for_each(|_| scheduler.nudge());
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(scheduler.timers(), 0);
    }
}
