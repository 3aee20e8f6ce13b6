//! The tasks of a guest's executor, as the guest describes them ([`hv_abi::tasks`]).
//!
//! None of this is trusted: addresses are checked, the number of links that are followed is bounded, and texts are cut
//! and escaped. Nothing in hv depends on the content.

use super::Domain;
use crate::memory::GuestMemory;
use hv_abi::device::{BLOCK, CONSOLE, FUNCTION, NET, SERVICES};
use hv_abi::event::{GENERATION, NONE, POWER};
use hv_abi::tasks::{TASK_RUNS, TASK_TEXT_MAX, TASK_WAITS_FOR_EVENT, TASK_WAITS_FOR_TIME, TaskInfo};
use hv_abi::{EventPort, GuestAddr};
use hv_host::escape::escape;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use zerocopy::{FromZeros, IntoBytes};

/// Most tasks that are shown; further ones are counted.
const MAX_SHOWN: usize = 256;

/// Most tasks that are counted.
const MAX_COUNTED: u64 = 4096;

/// The tasks of a guest's executor, in the order in which they were spawned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tasks {
    /// At most 256.
    pub shown: Vec<GuestTask>,
    /// How many more there are. Counting ends at 4096 in total.
    pub further: u64,
    /// Why tasks may be missing, if so.
    pub missing: Option<&'static str>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestTask {
    /// The type of its future.
    pub name: String,
    /// The source file in which it was spawned, if that is known.
    pub file: Option<String>,
    /// The line in the file.
    pub line: u32,
    /// What it does.
    pub state: TaskState,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It runs, or has not run yet.
    Runs,
    /// It has run and waits: for the event or time given here, or for another task if neither is given.
    Waits {
        /// The event port.
        event: Option<u32>,
        /// What raises that event, if hv knows it.
        raised_by: Option<String>,
        /// Time until its deadline, in nanoseconds from now; negative if the deadline has passed.
        deadline_in_ns: Option<i64>,
    },
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskState::Waits { event, raised_by, deadline_in_ns } = self else { return f.write_str("runs") };
        f.write_str("waits for ")?;
        match (event, raised_by) {
            (Some(port), Some(what)) => write!(f, "event {port} ({what})")?,
            (Some(port), None) => write!(f, "event {port}")?,
            (None, _) if deadline_in_ns.is_none() => f.write_str("another task")?,
            (None, _) => {}
        }
        if let Some(nanos) = deadline_in_ns {
            let or = if event.is_some() { " or " } else { "" };
            let when = if *nanos < 0 { "ago" } else { "from now" };
            write!(f, "{or}a time {:?} {when}", Duration::from_nanos(nanos.unsigned_abs()))?;
        }
        Ok(())
    }
}

impl fmt::Display for GuestTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.state, self.name)?;
        match &self.file {
            Some(file) => write!(f, "  spawned at {file}:{}", self.line),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = 0;
        // Servers have many tasks that do the same.
        for same in self.shown.chunk_by(PartialEq::eq) {
            match same.len() {
                1 => write!(f, "  task {number}")?,
                count => write!(f, "  tasks {number} to {}", number + count - 1)?,
            }
            writeln!(f, ": {}", same[0])?;
            number += same.len();
        }
        if self.further > 0 {
            writeln!(f, "  and {} further tasks", self.further)?;
        }
        if let Some(missing) = self.missing {
            writeln!(f, "  tasks are missing: {missing}")?;
        }
        Ok(())
    }
}

impl Tasks {
    /// The list whose head is at `head`; `task` makes one of an entry.
    fn read(memory: &GuestMemory, head: GuestAddr, task: impl Fn(&TaskInfo) -> GuestTask) -> Tasks {
        let mut tasks = Tasks::default();
        let mut next = GuestAddr(0);
        let mut end = memory.read(head, next.as_mut_bytes());
        while end.is_ok() && next != GuestAddr(0) {
            let count = tasks.shown.len() as u64 + tasks.further;
            if count == MAX_COUNTED {
                tasks.missing = Some("only so many are counted");
                return tasks;
            }
            let mut info = TaskInfo::new_zeroed();
            end = memory.read(next, info.as_mut_bytes());
            if end.is_err() {
                break;
            }
            match tasks.shown.len() < MAX_SHOWN {
                true => tasks.shown.push(task(&info)),
                false => tasks.further += 1,
            }
            next = info.next;
        }
        if end.is_err() {
            tasks.missing = Some("the guest's list of tasks leads to where it has no memory");
        }
        tasks
    }
}

/// The difference between two times, limited to 292 years in either direction.
fn distance(from: u64, to: u64) -> i64 {
    let nanos = i128::from(to) - i128::from(from);
    nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Text of the guest, escaped for display; empty if the guest has no memory there.
fn text(memory: &GuestMemory, address: GuestAddr, size: u32) -> String {
    let mut bytes = vec![0; size.min(TASK_TEXT_MAX) as usize];
    match memory.read(address, &mut bytes).is_ok() {
        true => escape(OsStr::from_bytes(&bytes)).to_string(),
        false => String::new(),
    }
}

impl Domain {
    /// The tasks in the guest's list.
    pub(super) fn tasks(&self) -> Tasks {
        let Some(offset) = self.image.tasks() else {
            return Tasks {
                missing: Some(
                    "the image has no list of tasks: it has no executor, or was built with an older SDK",
                ),
                ..Tasks::default()
            };
        };
        let now = self.now();
        let base = self.memory.base().0.wrapping_add(self.places.image);
        Tasks::read(&self.memory, GuestAddr(base.wrapping_add(offset)), |info| self.task(info, now))
    }

    fn task(&self, info: &TaskInfo, now: u64) -> GuestTask {
        let has = |bit: u32| info.state & bit != 0;
        let event = has(TASK_WAITS_FOR_EVENT).then_some(info.event);
        let state = match info.state {
            TASK_RUNS => TaskState::Runs,
            _ => TaskState::Waits {
                event,
                raised_by: event.and_then(|port| self.raises(EventPort(port))),
                deadline_in_ns: has(TASK_WAITS_FOR_TIME).then(|| distance(now, info.deadline)),
            },
        };
        let file = text(&self.memory, info.file, info.file_size);
        GuestTask {
            name: text(&self.memory, info.name, info.name_size),
            file: (!file.is_empty()).then_some(file),
            line: info.line,
            state,
        }
    }

    /// What raises an event of the guest.
    fn raises(&self, port: EventPort) -> Option<String> {
        match port {
            NONE => return None,
            POWER => return Some("a request to shut down".into()),
            GENERATION => return Some("being restored or cloned".into()),
            _ => {}
        }
        let device = self.table.iter().find(|device| device.rings.iter().any(|ring| ring.event == port))?;
        let kind = match device.kind {
            CONSOLE => "console",
            BLOCK => "disk",
            NET => "network",
            FUNCTION => "function",
            SERVICES => "services",
            _ => return None,
        };
        Some(format!("{kind} {}", device.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(event: Option<u32>, raised_by: Option<&str>, deadline_in_ns: Option<i64>) -> GuestTask {
        let state = TaskState::Waits { event, raised_by: raised_by.map(Into::into), deadline_in_ns };
        GuestTask { name: "f".into(), file: Some("a.rs".into()), line: 3, state }
    }

    #[test]
    fn tasks_are_a_line_each_and_those_that_do_the_same_share_one() {
        let runs = GuestTask { file: None, state: TaskState::Runs, ..task(None, None, None) };
        let tasks = Tasks {
            shown: vec![
                runs,
                task(None, None, None),
                task(None, None, None),
                task(Some(2), Some("disk 0"), None),
                task(Some(9), None, Some(1_500_000_000)),
                task(None, None, Some(-2_000_000)),
            ],
            further: 4,
            missing: Some("that is how it is"),
        };
        let lines = [
            "  task 0: runs: f",
            "  tasks 1 to 2: waits for another task: f  spawned at a.rs:3",
            "  task 3: waits for event 2 (disk 0): f  spawned at a.rs:3",
            "  task 4: waits for event 9 or a time 1.5s from now: f  spawned at a.rs:3",
            "  task 5: waits for a time 2ms ago: f  spawned at a.rs:3",
            "  and 4 further tasks",
            "  tasks are missing: that is how it is",
        ];
        assert_eq!(tasks.to_string().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn times_that_are_far_away_stay_so() {
        assert_eq!((distance(5, 3), distance(3, 5)), (-2, 2));
        assert_eq!((distance(0, u64::MAX), distance(u64::MAX, 0)), (i64::MAX, i64::MIN));
    }
}
