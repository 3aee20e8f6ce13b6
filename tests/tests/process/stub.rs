//! Guests that turn the stub against itself: its page, its data, its code, its stack.

use super::guests::Neighbours;
use hv::Outcome;
use hv_tests::{Platform, guest_test};

fn case(parts: &[&dyn ToString]) -> Vec<String> {
    parts.iter().map(|part| part.to_string()).collect()
}

#[guest_test(process, "a virtual machine has no stub")]
fn garbage_in_the_handoff_page(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let cases: Vec<_> =
        (1..=100u64).map(|seed| case(&[&"page", &seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)])).collect();
    guests.endure(&cases);
}

#[guest_test(process, "a virtual machine has no stub")]
fn a_turn_that_the_guest_ends_by_hand_and_takes_all_the_same(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let mut cases = Vec::new();
    for turn in [0, 1, 2, 3, 4, 1 << 31, u32::MAX] {
        for kind in [0, 1, 2, 3, 4, 5, 6, u32::MAX] {
            // Calls, doorbells, vectors: of those that are there, and others.
            for (number, argument) in
                [(0, 0), (3, u64::MAX), (4, u64::MAX), (9, 1), (1023, 14), (u32::MAX, 32), (2, 1 << 63)]
            {
                cases.push(case(&[&"turn", &turn, &kind, &number, &argument]));
            }
        }
    }
    let ended = guests.endure(&cases);
    assert!(ended > 0 && ended < cases.len(), "{ended} of {}", cases.len());
}

#[guest_test(process, "a virtual machine has no stub")]
fn a_guest_that_says_nobody_confined_it(platform: Platform) {
    let report = Neighbours::new(platform, 1).crash(&["turn", "0", "5", "0", "0"]);
    assert!(report.reason.starts_with("crossed to the host"), "{report}");
}

#[guest_test(process, "a virtual machine has no stub")]
fn garbage_in_the_stubs_data(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let [_, _, start, end] = guests.segments();
    let mut cases = vec![case(&[&"scribble", &start, &end, &1])];
    for at in (start..end).step_by(256) {
        cases.push(case(&[&"scribble", &at, &(at + 256).min(end), &at]));
    }
    let ended = guests.endure(&cases);
    assert!(ended > 0, "those that only hurt themselves end");
}

#[guest_test(process, "a virtual machine has no stub")]
fn jumps_to_every_byte_of_the_stubs_code(platform: Platform) {
    let guests = Neighbours::new(platform, 2);
    let [start, end, data, _] = guests.segments();
    assert!(end - start < 64 << 10, "the stub has grown: {} bytes", end - start);
    let cases: Vec<_> =
        (start..end).map(|at| case(&[&"jump", &at, if at % 2 == 0 { &data } else { &0u64 }])).collect();
    let ended = guests.endure(&cases);
    assert!(ended > cases.len() / 2, "{ended} of {}", cases.len());
}

#[guest_test(process, "a virtual machine has no stub")]
fn stacks_where_hvs_signals_arrive(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let [_, _, start, end] = guests.segments();
    let places = (start & !0xfff..end).step_by(1024).chain([
        0,
        8,
        4096,
        0x2000_0000,
        0x2000_1000,
        1 << 46,
        1 << 62,
        u64::MAX,
    ]);
    let cases: Vec<_> = places.map(|at| case(&[&"stack", &at])).collect();
    guests.endure(&cases);
}

#[guest_test(process, "a virtual machine has no stub")]
fn a_guest_that_answers_no_kick_is_ended(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let deaf = guests.meddler(&["deaf"]);
    deaf.says("deaf");
    // There is one thread, and this needs it.
    guests.behave();
    match deaf.guest.wait() {
        Outcome::Crashed(report) => assert!(report.reason.starts_with("crossed to the host"), "{report}"),
        other => panic!("{other:?}"),
    }
}

#[guest_test(process, "a virtual machine has no stub")]
fn a_guest_that_keeps_waking_hv_in_its_turn_gives_way_all_the_same(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let toggles = guests.meddler(&["toggle"]);
    for _ in 0..10 {
        guests.behave();
    }
    toggles.stop();
}

#[guest_test(process, "a virtual machine has no stub")]
fn a_guest_that_sleeps_in_its_time_slice_pays_for_it_and_gives_way(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let dozes = guests.meddler(&["doze"]);
    dozes.says("dozing");
    // There is one thread, and these need it.
    for _ in 0..10 {
        guests.behave();
    }
    // Its process uses next to nothing.
    hv_tests::eventually("the charge", || {
        (dozes.guest.cpu_time() > std::time::Duration::from_secs(1)).then_some(())
    });
    dozes.stop();
}

/// The guest says that it blocks, for ever, and spins on.
#[guest_test(process, "a virtual machine has no stub")]
fn processor_time_without_control_comes_to_an_end(platform: Platform) {
    const BLOCK: &str = "4";
    let hv = hv_tests::Running::new(&mut platform.run(
        "raw",
        &[],
        &["turn", "0", "1", BLOCK, "0xffffffffffffffff"],
    ));
    let [process] = super::apart::guests_of(hv.child.id(), 1)[..] else { unreachable!("one was asked for") };
    hv_tests::eventually("the end of the guest's process", || {
        (!super::apart::is_alive(process)).then_some(())
    });
    // hv takes the guest for blocked, and can be stopped.
    hv.signal(libc::SIGINT);
    hv.signal(libc::SIGINT);
    assert_ne!(hv.finish().code(), Some(0));
}
