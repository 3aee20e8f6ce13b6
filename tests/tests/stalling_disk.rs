//! Disks whose storage stops answering, and comes back: who waits for it, and who does not.

use hv_tests::serve::{Serve, probe};
use hv_tests::stalling::Stalling;
use hv_tests::{Platform, Running, eventually, guest, guest_test};

/// More than a guest reads in the time of a test.
const SIZE: u64 = 16 << 30;

/// A function with the stalling disk, for which requests may take a moment.
fn config(storage: &Stalling, options: &str) -> String {
    let disk = format!("{}{options}", storage.disk().display());
    format!(
        "[function.stalling]\npath = [\"/read\", \"/read-on\"]\nimage = {:?}\ndisks = [{disk:?}]\n\
         memory = \"4M\"\nwall_time = \"1s\"\nidle = \"100ms\"\nconcurrency = 4\n\n{}",
        guest("fn-probe"),
        probe("memory = \"4M\"")
    )
}

#[guest_test]
fn a_guest_whose_disk_does_not_answer_ends_when_it_is_told_to(platform: Platform) {
    let Some(storage) = Stalling::new(SIZE) else { return };
    let disk = format!("{},ro", storage.disk().display());
    let reads = |count: &str| {
        Running::new(&mut platform.run("reads", &["--disk", &disk], &["random", "4096", "16", count]))
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
        let (before, running) = (storage.asked(), reads("1000000000"));
        // Opening it reads it, too.
        eventually("the guest to read", || (storage.asked() > before + 20).then_some(()));
        storage.stall();
        eventually("the disk to be asked", || (storage.waiting() > 0).then_some(()));
        running.signal(signal);
        let finished = running.finish();
        let expected = (signal != libc::SIGKILL).then_some(128 + signal);
        assert_eq!(finished.code(), expected, "{}", finished.err);
        storage.release();
    }
    reads("1000").finish().expect(0);
}

#[guest_test]
fn requests_that_need_the_disk_are_late_and_others_are_not(platform: Platform) {
    let Some(storage) = Stalling::new(SIZE) else { return };
    for options in [",ro", ",overlay"] {
        let serve = Serve::start(platform, &config(&storage, options));
        eventually("an answer", || (serve.get("/read?at=1").status == 200).then_some(()));
        let before = serve.count("fd");
        storage.stall();
        for n in 1..3 {
            serve.get(&format!("/read?at={}", n * 1000)).expect(504);
            serve.get("/ok").expect(200);
        }
        // What a guest leaves unread when it has answered keeps nobody waiting either.
        let mut place = 10_000;
        eventually("devices to close", || {
            place += 500;
            // On a busy host even this may take too long, and machines that wait for the disk are not there for others.
            let status = serve.get(&format!("/read-on?at={place}")).status;
            assert!(matches!(status, 200 | 503 | 504), "{status}");
            serve.get("/ok").expect(200);
            (serve.metric("hv_devices_closing") >= 4.0).then_some(())
        });
        storage.release();
        eventually("devices to be closed", || (serve.metric("hv_devices_closing") == 0.0).then_some(()));
        eventually("an answer", || (serve.get("/read?at=9000").status == 200).then_some(()));
        eventually("descriptors to close", || (serve.count("fd") <= before + 8).then_some(()));
        serve.end();
    }
}

#[guest_test]
fn a_disk_that_owes_too_many_answers_gets_no_further_guests_until_it_answers(platform: Platform) {
    let Some(storage) = Stalling::new(SIZE) else { return };
    let serve = Serve::start(platform, &config(&storage, ",ro"));
    storage.stall();
    eventually("a refusal", || {
        let n = serve.metric("hv_cold_starts_total") as u64;
        let answer = serve.get(&format!("/read?at={}", (n + 1) * 500));
        assert!(matches!(answer.status, 503 | 504), "{}", answer.status);
        serve.get("/ok").expect(200);
        (answer.status == 503).then_some(())
    });
    assert!(serve.metric("hv_devices_closing") <= 17.0 + 4.0);
    assert!(serve.said("does not answer", 1).contains("disk.img"));
    storage.release();
    eventually("an answer", || (serve.get("/read").status == 200).then_some(()));
    serve.end();
}
