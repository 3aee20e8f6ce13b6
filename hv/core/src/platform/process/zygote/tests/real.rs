//! The real processes, stopped and killed from outside.

use super::*;
use rustix::fs::fstat;
use std::collections::BTreeSet;
use std::fs;

/// The file that a process has mapped as its handoff page; `None` if it may not be inspected.
fn file_of(process: &Process) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.number())).ok()?;
    let line = maps.lines().find(|line| line.starts_with("20000000-"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// Starts a guest, and checks that its process has the guest's memory and no other.
#[track_caller]
fn starts(zygote: &Zygote) -> Process {
    let memory = memory();
    let process = fork(zygote, &memory).unwrap();
    let own = fstat(memory.shared_file().unwrap()).unwrap().st_ino;
    match file_of(&process) {
        Some(file) => assert_eq!(file, own),
        None => hv_skip::skip("needs the right to see the memory map of a process"),
    }
    process
}

/// State and parent of a process, and its name.
fn stat(process: i32) -> Option<(char, i32, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?, name.into()))
}

fn supervisor(zygote: &Zygote) -> i32 {
    zygote.state.lock().unwrap().supervisor.pid
}

/// Children of the supervisor with this name.
fn children(zygote: &Zygote, name: &str) -> BTreeSet<i32> {
    let supervisor = supervisor(zygote);
    let all = fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |process: &i32| {
        stat(*process).is_some_and(|(state, parent, has)| {
            parent == supervisor && has == name && !matches!(state, 'Z' | 'X')
        })
    };
    all.filter(is_child).collect()
}

/// The zygote and the process that waits for a guest, once they exist, apart from these guests.
#[track_caller]
fn zygote_and_waiting(zygote: &Zygote, guests: &[Process]) -> (i32, i32) {
    let mut found = None;
    eventually("a zygote, and a process that waits", || {
        let mut waiting = children(zygote, "hv-guest");
        waiting.retain(|process| guests.iter().all(|guest| guest.number() != *process));
        let zygotes = children(zygote, "hv-zygote");
        let both = zygotes.first().copied().zip(waiting.first().copied());
        found = both.filter(|_| zygotes.len() == 1 && waiting.len() == 1);
        found.is_some()
    });
    found.unwrap()
}

fn signal(process: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(process).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

fn start() -> Option<Zygote> {
    match Zygote::start() {
        Ok(zygote) => Some(zygote),
        Err(error) => {
            hv_skip::skip(format_args!("needs the platform process: {error}"));
            None
        }
    }
}

/// What happens to the zygote and the waiting process.
type Harm = fn(i32, i32);

#[test]
fn starts_go_on_whatever_is_stopped_or_killed() {
    let Some(zygote) = start() else { return };
    let harms: [Harm; 9] = [
        |zygote, _| signal(zygote, Signal::STOP),
        |_, waiting| signal(waiting, Signal::STOP),
        |zygote, waiting| [zygote, waiting].into_iter().for_each(|process| signal(process, Signal::STOP)),
        |zygote, _| signal(zygote, Signal::KILL),
        |_, waiting| signal(waiting, Signal::KILL),
        |zygote, waiting| [zygote, waiting].into_iter().for_each(|process| signal(process, Signal::KILL)),
        |zygote, waiting| {
            signal(waiting, Signal::STOP);
            signal(zygote, Signal::KILL);
        },
        |zygote, waiting| {
            signal(zygote, Signal::STOP);
            signal(waiting, Signal::KILL);
        },
        |_, waiting| {
            // It is stopped only briefly, possibly in the middle of a start.
            signal(waiting, Signal::STOP);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                signal(waiting, Signal::CONT);
            });
        },
    ];
    let mut guests = Vec::new();
    for harm in harms {
        let (process, waiting) = zygote_and_waiting(&zygote, &guests);
        harm(process, waiting);
        // The first start may use the process that waits already.
        for _ in 0..3 {
            guests.push(starts(&zygote));
        }
        for guest in &guests {
            assert!(guest.is_alive(), "guests go on");
        }
    }
    let numbers: BTreeSet<_> = guests.iter().map(Process::number).collect();
    assert_eq!(numbers.len(), guests.len(), "each has a process of its own");
    // None of the processes that were stopped, killed or replaced remains.
    zygote_and_waiting(&zygote, &guests);
    guests.drain(..).for_each(|mut guest| guest.end());
    let (process, waiting) = zygote_and_waiting(&zygote, &guests);
    let all = [supervisor(&zygote), process, waiting];
    drop(zygote);
    eventually("the end of all", || all.iter().all(|process| stat(*process).is_none()));
}

#[test]
fn without_a_supervisor_starts_fail_and_guests_go_on() {
    let Some(zygote) = start() else { return };
    let before = starts(&zygote);
    let (process, _) = zygote_and_waiting(&zygote, std::slice::from_ref(&before));
    let supervisor = supervisor(&zygote);
    signal(supervisor, Signal::STOP);
    // The supervisor is not needed as long as the zygote works.
    let next = starts(&zygote);
    signal(process, Signal::KILL);
    let late = |result: Result<Process, PlatformError>| {
        matches!(result, Err(PlatformError::Process(ProcessError::Supervisor(Violation::Late))))
    };
    // The first start may use another process that waits.
    eventually("a start that fails", || late(fork(&zygote, &memory())));
    assert!(late(fork(&zygote, &memory())));
    assert!(before.is_alive() && next.is_alive());
    signal(supervisor, Signal::CONT);
    let mut after = None;
    eventually("a start", || {
        after = fork(&zygote, &memory()).ok();
        after.is_some()
    });
    assert!(before.is_alive() && next.is_alive());
    // With the supervisor all processes end, and hv reports it.
    signal(supervisor, Signal::KILL);
    eventually("the end of the guests", || !before.is_alive() && !next.is_alive());
    eventually("an error that says so", || {
        let error = fork(&zygote, &memory()).err();
        error.is_some_and(|error| error.to_string().contains("restart hv"))
    });
}

#[test]
fn many_starts_while_zygotes_are_killed() {
    let Some(zygote) = start() else { return };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..4).map(|_| scope.spawn(|| many(&zygote))).collect();
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let serving = |state: &ZygoteState| Some(state.serving.as_ref()?.handle.try_clone().unwrap());
                let handle = serving(&zygote.state.lock().unwrap());
                // In the middle of a start, or between two starts.
                std::thread::sleep(Duration::from_millis(3));
                if let Some(handle) = handle {
                    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
                }
            }
        });
        let started: usize = starters.into_iter().map(|starter| starter.join().unwrap()).sum();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(started > 100, "{started} of 200");
    });
    // The first start may use the process that waits, and the second one may find that the zygote is gone.
    (0..3).for_each(|_| starts(&zygote).end());
    zygote_and_waiting(&zygote, &[]);
}

/// Starts guests. Some starts may fail, but no guest may have another one's memory.
fn many(zygote: &Zygote) -> usize {
    let mut started = 0;
    for _ in 0..50 {
        let memory = memory();
        let own = fstat(memory.shared_file().unwrap()).unwrap().st_ino;
        let Ok(mut process) = fork(zygote, &memory) else { continue };
        assert!(file_of(&process).is_none_or(|file| file == own));
        started += 1;
        process.end();
    }
    started
}
