//! The life cycle of a guest: its states and transitions.
//!
//! ```text
//!           start                    pause                  all paused
//! Created ─────────► Running ◄───┬──────────► Pausing ─────────────────────► Paused
//!    │ start to ready   ▲ ready  │ resume        │ ▲                           │ │
//!    └────────────► Starting ────┼───────────────┼─┘ ready             resume ─┘ │
//!                       │        │               │                               │
//!                       └────────┴───── stop ────┴────────► Stopping ◄── stop ───┘
//!                                                              │ finish
//!                                                              ▼
//!                                                            Ended
//! ```
//!
//! Whether a virtual CPU of a running guest executes or is blocked is a state of that virtual CPU, not of the guest.
//! Snapshots and resets are made of a paused guest and do not change its state. A restored guest begins as a created one.

use super::{Order, Outcome};
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// The state of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It has never run.
    Created,
    /// It runs, and will be paused when it says that it is ready.
    Starting,
    /// Its virtual CPUs may run.
    Running,
    /// It was told to pause, and not all of its virtual CPUs are paused yet.
    Pausing,
    /// All of its virtual CPUs are paused until it is resumed.
    Paused,
    /// It will not run any more. Its remaining output is still being written.
    Stopping,
    /// It has ended, and its outcome is known.
    Ended,
}

impl State {
    const ALL: [State; 7] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Stopping,
        State::Ended,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Ended => "ended",
        })
    }
}

/// What can happen to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It may run for the first time.
    Start,
    /// It may run for the first time, until it says that it is ready.
    StartToReady,
    /// It has said that it is ready.
    Ready,
    /// It is to pause.
    Pause,
    /// Its last virtual CPU has paused.
    AllStand,
    /// It may run again.
    Resume,
    /// It is told to end, or has ended by itself.
    Stop,
    /// Its outcome is known.
    Finish,
}

/// The state after an event; `None` if the event has no effect in this state.
pub(super) const fn next(state: State, event: Event) -> Option<State> {
    use State::{Created, Ended, Paused, Pausing, Running, Starting, Stopping};
    match (state, event) {
        (Created, Event::Start) => Some(Running),
        (Created, Event::StartToReady) => Some(Starting),
        // No virtual CPU has to pause.
        (Created, Event::Pause) => Some(Paused),
        (Starting, Event::Ready) => Some(Pausing),
        (Starting | Running, Event::Pause) => Some(Pausing),
        (Pausing, Event::AllStand) => Some(Paused),
        (Pausing | Paused, Event::Resume) => Some(Running),
        (Created | Starting | Running | Pausing | Paused, Event::Stop) => Some(Stopping),
        (Stopping, Event::Finish) => Some(Ended),
        _ => None,
    }
}

/// The life cycle of one guest, shared by all threads that use it.
pub(super) struct Life {
    /// A copy of the state for readers that look after each exit; written under the lock.
    state: AtomicU8,
    record: Mutex<Record>,
    /// Signalled when the record changes in a way that waiters need to see.
    changed: Condvar,
}

/// The record of a guest's life cycle.
pub(super) struct Record {
    pub(super) state: State,
    /// While the guest is pausing or paused: which virtual CPUs have paused. While it is stopping: which have left for good.
    standing: Box<[bool]>,
    /// Why it was told to end.
    pub(super) order: Option<Order>,
    pub(super) outcome: Option<Outcome>,
}

impl Life {
    /// The life cycle of a guest with so many virtual CPUs, in the state *created*.
    pub(super) fn new(vcpus: usize) -> Self {
        let standing = vec![false; vcpus].into();
        Life {
            state: AtomicU8::new(State::Created as u8),
            record: Mutex::new(Record { state: State::Created, standing, order: None, outcome: None }),
            changed: Condvar::new(),
        }
    }

    /// The current state.
    pub(super) fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::SeqCst))]
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no panic while held")
    }

    /// Applies an event. Returns whether it had an effect.
    pub(super) fn happen(&self, event: Event) -> bool {
        self.apply(&mut self.record(), event)
    }

    fn apply(&self, record: &mut Record, event: Event) -> bool {
        let Some(state) = next(record.state, event) else { return false };
        record.state = state;
        if matches!(state, State::Running | State::Starting | State::Stopping) {
            record.standing.fill(false);
        }
        self.state.store(state as u8, Ordering::SeqCst);
        if matches!(state, State::Paused | State::Ended) {
            self.changed.notify_all();
        }
        true
    }

    /// Tells the guest to end. Only the first order counts.
    pub(super) fn order(&self, order: Order) {
        let record = &mut *self.record();
        record.order.get_or_insert(order);
        self.apply(record, Event::Stop);
    }

    /// A virtual CPU pauses. Returns false if the guest is not to pause: the virtual CPU can be woken spuriously, and
    /// another thread can resume the guest at the same time.
    pub(super) fn stand(&self, vcpu: usize) -> bool {
        let record = &mut *self.record();
        if !matches!(record.state, State::Pausing | State::Paused) {
            return false;
        }
        record.standing[vcpu] = true;
        if record.standing.iter().all(|stands| *stands) {
            self.apply(record, Event::AllStand);
        }
        true
    }

    /// A virtual CPU of a stopping guest has left it for good. Returns whether it is the last one.
    pub(super) fn leave(&self, vcpu: usize) -> bool {
        let record = &mut *self.record();
        record.standing[vcpu] = true;
        record.standing.iter().all(|left| *left)
    }

    /// The guest has ended.
    pub(super) fn finish(&self, outcome: Outcome) {
        let record = &mut *self.record();
        record.outcome = Some(outcome);
        self.apply(record, Event::Finish);
    }

    /// Waits until the record may have changed, or for this time.
    pub(super) fn wait<'a>(
        &'a self,
        record: MutexGuard<'a, Record>,
        time: std::time::Duration,
    ) -> MutexGuard<'a, Record> {
        self.changed.wait_timeout(record, time).expect("no panic while held").0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event as E;
    use State as S;

    /// All transitions.
    const TABLE: [(State, Event, State); 15] = [
        (S::Created, E::Start, S::Running),
        (S::Created, E::StartToReady, S::Starting),
        (S::Created, E::Pause, S::Paused),
        (S::Created, E::Stop, S::Stopping),
        (S::Starting, E::Ready, S::Pausing),
        (S::Starting, E::Pause, S::Pausing),
        (S::Starting, E::Stop, S::Stopping),
        (S::Running, E::Pause, S::Pausing),
        (S::Running, E::Stop, S::Stopping),
        (S::Pausing, E::AllStand, S::Paused),
        (S::Pausing, E::Resume, S::Running),
        (S::Pausing, E::Stop, S::Stopping),
        (S::Paused, E::Resume, S::Running),
        (S::Paused, E::Stop, S::Stopping),
        (S::Stopping, E::Finish, S::Ended),
    ];

    const EVENTS: [Event; 8] =
        [E::Start, E::StartToReady, E::Ready, E::Pause, E::AllStand, E::Resume, E::Stop, E::Finish];

    #[test]
    fn a_guest_goes_through_the_states_of_the_table_and_no_others() {
        for state in State::ALL {
            for event in EVENTS {
                let told = TABLE.iter().find(|(from, by, _)| (*from, *by) == (state, event));
                assert_eq!(next(state, event), told.map(|(_, _, to)| *to), "{state:?}, {event:?}");
            }
        }
    }

    #[test]
    fn states_are_their_numbers() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
        }
    }

    #[test]
    fn a_guest_is_paused_once_all_of_its_virtual_cpus_stand_still() {
        let life = Life::new(2);
        assert!(life.happen(E::Start) && !life.stand(0), "it runs");
        assert!(life.happen(E::Pause) && life.stand(0));
        assert_eq!(life.state(), S::Pausing);
        assert!(life.stand(0) && life.state() == S::Pausing, "the same one again");
        assert!(life.stand(1) && life.state() == S::Paused);
        assert!(life.happen(E::Resume) && life.happen(E::Pause) && life.stand(1));
        assert_eq!(life.state(), S::Pausing, "who stood still before has run since");
    }

    #[test]
    fn the_last_virtual_cpu_that_leaves_is_told_so() {
        let life = Life::new(2);
        life.happen(E::Pause);
        assert!(life.stand(0) && life.stand(1));
        life.happen(E::Stop);
        assert!(!life.stand(0), "a guest that stops is not paused");
        assert!(!life.leave(1) && life.leave(0));
    }
}
