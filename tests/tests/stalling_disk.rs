//! Disks whose storage stops answering, and comes back: who waits for it, and who does not.

use hv_tests::serve::{Serve, probe};
use hv_tests::stalling::{Ask, Stalling};
use hv_tests::{Platform, Running, eventually, guest, guest_test};
use std::io::{BufRead, BufReader};

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

/// A guest that writes a disk, flushes it, and reads it again.
fn writer(platform: Platform, storage: &Stalling, options: &[&str]) -> Running {
    let disk = storage.disk();
    let options = [&["--disk", disk.to_str().unwrap()], options].concat();
    Running::new(&mut platform.run("disk", &options, &["7", "8"]))
}

#[guest_test]
fn a_guest_whose_writes_or_flushes_are_not_answered_ends_when_it_is_told_to(platform: Platform) {
    let Some(storage) = Stalling::new(64 << 20) else { return };
    for ask in [Ask::Write, Ask::Flush] {
        for (options, code) in [(&["--stats"][..], 143), (&["--stats", "--timeout", "2s"], 124)] {
            storage.stall_only(ask);
            let mut running = writer(platform, &storage, options);
            eventually("the disk to be asked", || (storage.waiting() > 0).then_some(()));
            if code == 143 {
                running.signal(libc::SIGTERM);
            }
            // Said when the guest has ended, though its disk has not answered. Linux ends the process once that has.
            let mut said = BufReader::new(running.child.stderr.take().expect("it is captured"));
            let mut line = String::new();
            while !line.contains("exits by kind") {
                line.clear();
                assert_ne!(said.read_line(&mut line).unwrap(), 0, "{ask:?}: no statistics");
            }
            assert!(storage.waiting() > 0);
            storage.release();
            assert_eq!(running.wait().code(), Some(code), "{ask:?}");
        }
    }
    // Whatever was left of it keeps nobody from the disk.
    writer(platform, &storage, &[]).finish().expect(0);
}

#[guest_test]
fn writes_and_flushes_that_are_answered_late_are_done_and_those_that_fail_are_told(platform: Platform) {
    let Some(storage) = Stalling::new(64 << 20) else { return };
    for ask in [Ask::Write, Ask::Flush] {
        storage.stall_only(ask);
        let running = writer(platform, &storage, &[]);
        eventually("the disk to be asked", || (storage.waiting() > 0).then_some(()));
        storage.release();
        running.finish().expect(0);

        storage.stall_only(ask);
        let running = writer(platform, &storage, &[]);
        eventually("the disk to be asked", || (storage.waiting() > 0).then_some(()));
        storage.fail();
        let end = running.finish().expect(1);
        let what = format!("{ask:?}: ").to_lowercase();
        assert!(end.err.contains(&what) || end.text().contains(&what), "{}{}", end.err, end.text());
        storage.release();
    }
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

/// A function whose disk hangs, at `/read`, and one without a disk everywhere else.
fn beside_others(storage: &Stalling, keys: &str) -> String {
    let disk = format!("{},ro", storage.disk().display());
    format!(
        "[function.stalling]\npath = \"/read\"\nimage = {:?}\ndisks = [{disk:?}]\nwall_time = \"1s\"\n\
         ready_time = \"5s\"\nidle = \"100ms\"\n{keys}\n\n{}",
        guest("fn-probe"),
        probe("memory = \"4M\"")
    )
}

/// Waits until a reload has been refused so many times, and returns the last line that says so. Other functions are served all the time.
#[track_caller]
fn refused(serve: &Serve, times: usize) -> String {
    eventually("a refusal", || {
        serve.get("/ok").expect(200);
        std::thread::sleep(std::time::Duration::from_millis(20));
        (serve.errors().matches("configuration not reloaded").count() >= times).then_some(())
    });
    let errors = serve.errors();
    let lines: Vec<&str> = errors.lines().filter(|line| line.contains("not reloaded")).collect();
    assert_eq!(lines.len(), times, "{errors}");
    lines[times - 1].to_owned()
}

#[guest_test]
fn a_reload_ends_though_a_disk_does_not_answer_or_fails(platform: Platform) {
    let Some(storage) = Stalling::new(SIZE) else { return };
    let config = |keys: &str| beside_others(&storage, keys);
    let other = format!("\n[function.other]\npath = \"/other\"\nimage = {:?}\n", guest("fn-hello"));
    let serve = Serve::start(platform, &config("memory = \"4M\""));
    eventually("an answer", || (serve.get("/read?at=1").status == 200).then_some(()));
    storage.stall();
    serve.get("/read?at=1000").expect(504);
    // The disk of a function that is the same is not opened again.
    serve.reload(&(config("memory = \"4M\"") + &other));
    serve.said("configuration reloaded: 1 functions deployed, 2 kept, 0 removed", 1);
    serve.get("/other").expect(200);
    // That of one that is another has to be.
    serve.reload(&(config("memory = \"5M\"") + &other));
    let line = refused(&serve, 1);
    assert!(line.contains("disk.img does not answer within 5s"), "{line}");
    serve.get("/other").expect(200);
    serve.get("/read?at=2000").expect(504);
    // One that goes keeps nobody either.
    serve.reload(&(probe("memory = \"4M\"") + &other));
    serve.said("configuration reloaded: 0 functions deployed, 2 kept, 1 removed", 1);

    storage.fail();
    serve.reload(&(config("memory = \"5M\"") + &other));
    let line = refused(&serve, 2);
    assert!(line.contains("disk.img") && line.contains("Input/output error"), "{line}");
    storage.release();
    serve.reload(&(config("memory = \"5M\"") + &other));
    serve.said("configuration reloaded: 1 functions deployed, 2 kept, 0 removed", 2);
    eventually("an answer", || (serve.get("/read?at=3000").status == 200).then_some(()));
    // Requests to storage that has failed fail, and change nothing for others.
    storage.fail();
    serve.get("/read?at=4000").expect(500);
    serve.reload(&(config("memory = \"5M\"")));
    serve.said("configuration reloaded: 0 functions deployed, 2 kept, 1 removed", 1);
    serve.get("/ok").expect(200);
    eventually("devices to be closed", || (serve.metric("hv_devices_closing") == 0.0).then_some(()));
    storage.release();
    serve.end();
}

#[guest_test]
fn a_reload_ends_though_nothing_of_a_disk_answers(platform: Platform) {
    let Some(storage) = Stalling::forgotten(SIZE) else { return };
    let config = beside_others(&storage, "memory = \"4M\"");
    let serve = Serve::start(platform, &config);
    eventually("an answer", || (serve.get("/read?at=1").status == 200).then_some(()));
    storage.stall_wholly();
    serve.reload(&config);
    let line = refused(&serve, 1);
    assert!(line.contains("does not answer within 10s"), "{line}");
    serve.get("/read?at=1000").expect(504);
    // Without it there is nothing to wait for.
    serve.reload(&probe("memory = \"4M\""));
    serve.said("configuration reloaded: 0 functions deployed, 1 kept, 1 removed", 1);
    storage.release();
    serve.reload(&config);
    serve.said("configuration reloaded: 1 functions deployed, 1 kept, 0 removed", 1);
    eventually("an answer", || (serve.get("/read?at=2000").status == 200).then_some(()));
    serve.end();
}
