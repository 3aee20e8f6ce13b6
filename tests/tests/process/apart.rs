//! Guests are apart from each other, and none outlives hv.

use super::guests::Neighbours;
use hv_tests::{Platform, Running, eventually, guest_test, stat};
use std::fs;

/// The children of a process.
fn children(parent: u32) -> Vec<u32> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|process| stat(*process).is_some_and(|(_, of, state)| of == parent && state != 'Z'))
        .collect()
}

/// The processes of a zygote's guests. There is another one, which waits for the next guest.
fn confined(zygote: u32) -> Vec<u32> {
    let is_confined = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status"));
        status.is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
    };
    children(zygote).into_iter().filter(is_confined).collect()
}

/// Whether a process runs, or waits.
pub(crate) fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|(_, _, state)| state != 'Z')
}

/// The processes of the guests of an hv with one zygote, once there are so many.
#[track_caller]
pub(crate) fn guests_of(hv: u32, count: usize) -> Vec<u32> {
    eventually("the guests' processes", || {
        let zygotes = children(hv);
        let guests: Vec<_> = zygotes.iter().flat_map(|zygote| confined(*zygote)).collect();
        (guests.len() == count).then_some(guests)
    })
}

#[guest_test(process, "a virtual machine has no process")]
fn no_process_outlives_an_hv_that_was_killed(platform: Platform) {
    for way in ["spin", "sleep", "toggle", "deaf"] {
        let hv = Running::new(&mut platform.run("raw", &[], &[way]));
        let guests = guests_of(hv.child.id(), 1);
        let zygotes = children(hv.child.id());
        let waiting: Vec<_> = zygotes.iter().flat_map(|zygote| children(*zygote)).collect();
        let named = |process: &u32| stat(*process).map(|(name, ..)| name);
        assert_eq!(guests.iter().filter_map(named).collect::<Vec<_>>(), ["hv-guest"]);
        assert_eq!(zygotes.iter().filter_map(named).collect::<Vec<_>>(), ["hv-supervisor"]);
        hv.signal(libc::SIGKILL);
        for process in guests.into_iter().chain(zygotes).chain(waiting) {
            eventually("the end of a process", || (!is_alive(process)).then_some(()));
        }
    }
}

#[guest_test(process, "a virtual machine has no process")]
fn a_killed_hv_that_was_just_starting_leaves_nothing(platform: Platform) {
    // Whatever it has come to by then.
    for n in 0..40 {
        let hv = Running::new(&mut platform.run("raw", &[], &["spin"]));
        let mut seen = Vec::new();
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_millis(n) {
            seen.extend(children(hv.child.id()));
        }
        seen.extend(seen.clone().into_iter().flat_map(children));
        hv.signal(libc::SIGKILL);
        for process in seen {
            eventually("the end of a process", || (!is_alive(process)).then_some(()));
        }
    }
}

#[guest_test(process, "a virtual machine has no process")]
fn a_process_ends_with_its_guest(platform: Platform) {
    // Other tests have zygotes here at the same time, but none with so many guests.
    const COUNT: usize = 23;
    let guests = Neighbours::new(platform, 1);
    let mut sleepers: Vec<_> = (0..COUNT).map(|_| guests.meddler(&["sleep"])).collect();
    let this = std::process::id();
    let zygote = eventually("a zygote with these guests", || {
        children(this).into_iter().find(|zygote| confined(*zygote).len() == COUNT)
    });
    while let Some(sleeper) = sleepers.pop() {
        match sleepers.len() % 2 {
            0 => drop(sleeper),
            _ => sleeper.stop(),
        }
        eventually("the end of a process", || (confined(zygote).len() == sleepers.len()).then_some(()));
        guests.crash(&["call", "0"]);
        eventually("the end of a process", || (confined(zygote).len() == sleepers.len()).then_some(()));
    }
    drop(guests);
    eventually("the end of the zygote", || (!is_alive(zygote)).then_some(()));
}

#[guest_test(process, "a virtual machine has no process")]
fn what_one_guest_has_another_does_not_see(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let sleepers: Vec<_> = (0..3).map(|_| guests.meddler(&["sleep"])).collect();
    for sleeper in &sleepers {
        sleeper.says("\n");
        let report = guests.crash(&["look", sleeper.output.text().trim()]);
        assert!(report.reason.contains("page fault"), "{report}");
    }
    for sleeper in sleepers {
        sleeper.stop();
    }
}

#[guest_test(process, "a virtual machine has no process")]
fn two_hundred_at_once(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let sleepers: Vec<_> = (0..200).map(|_| guests.meddler(&["sleep"])).collect();
    guests.behave();
    for n in 0..20 {
        guests.crash(&["call", &n.to_string()]);
    }
    for sleeper in sleepers {
        sleeper.stop();
    }
}
