//! How many instances functions of `hv serve` have: kept ready, at most, none.

use hv_tests::refusal::refused;
use hv_tests::serve::{Serve, checked, probe};
use hv_tests::{Platform, eventually, guest, guest_test};
use std::thread;

fn state(serve: &Serve, state: &str) -> f64 {
    serve.metric(&format!("hv_instances{{function=\"probe\",state=\"{state}\"}}"))
}

/// Waits until so many instances are ready, and no more.
#[track_caller]
fn ready(serve: &Serve, count: f64) {
    eventually("ready instances", || {
        (state(serve, "ready") == count && state(serve, "starting") == 0.0).then_some(())
    });
}

#[guest_test]
fn instances_are_made_ahead_and_replaced_when_they_are_used(platform: Platform) {
    for isolation in ["request", "instance"] {
        let keys = format!("min_warm = 3\nidle = \"300ms\"\nisolation = {isolation:?}");
        let serve = Serve::start(platform, &probe(&keys));
        ready(&serve, 3.0);
        // Longer than `idle`: these stay.
        thread::sleep(std::time::Duration::from_millis(900));
        assert_eq!(state(&serve, "ready"), 3.0);
        let mut busy = [serve.client(), serve.client()];
        for client in &mut busy {
            client.send(b"GET /sleep?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        eventually("both", || (state(&serve, "busy") == 2.0).then_some(()));
        ready(&serve, 3.0);
        serve.get("/ok").expect(200);
        for client in &mut busy {
            client.answer("GET").unwrap().expect(200);
        }
        assert_eq!(
            serve.metric("hv_cold_starts_total{function=\"probe\"}"),
            0.0,
            "none waited for a machine"
        );
        assert_eq!(serve.metric("hv_instances_bound{bound=\"min_warm\",function=\"probe\"}"), 3.0);
        // Those beyond go after `idle`.
        ready(&serve, 3.0);
        serve.end();
    }
}

#[guest_test]
fn one_that_has_ended_is_replaced(platform: Platform) {
    let serve = Serve::start(platform, &probe("min_warm = 2"));
    ready(&serve, 2.0);
    serve.get("/exit?code=3").expect(502);
    ready(&serve, 2.0);
    assert_eq!(serve.metric("hv_guests_ended_total{function=\"probe\"}"), 1.0);
    serve.end();
}

#[guest_test]
fn a_function_scales_to_zero_and_back(platform: Platform) {
    let serve = Serve::start(platform, &probe("min_warm = 2\nidle = \"200ms\""));
    ready(&serve, 2.0);
    serve.reload(&probe("idle = \"200ms\""));
    serve.said("0 functions deployed, 1 kept", 1);
    ready(&serve, 0.0);
    serve.get("/ok").expect(200);
    assert_eq!(serve.metric("hv_cold_starts_total{function=\"probe\"}"), 1.0);
    ready(&serve, 0.0);
    serve.reload(&probe("min_warm = 1\nidle = \"200ms\""));
    ready(&serve, 1.0);
    serve.get("/ok").expect(200);
    assert_eq!(serve.metric("hv_cold_starts_total{function=\"probe\"}"), 1.0);
    serve.end();
}

#[guest_test]
fn there_are_never_more_instances_than_allowed_and_no_request_fails_for_it(platform: Platform) {
    for isolation in ["request", "instance"] {
        let keys = format!("max_instances = 2\nqueue_time = \"60s\"\nisolation = {isolation:?}");
        let serve = Serve::start(platform, &probe(&keys));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..6)
                .map(|client| {
                    let serve = &serve;
                    scope.spawn(move || {
                        let mut connection = serve.client();
                        for n in 0..40 {
                            // Crashes make machines that are closed, and their places are given again.
                            let (path, status) =
                                if (n + client) % 13 == 5 { ("/exit", 502) } else { ("/ok", 200) };
                            connection.ask("GET", path, "", b"").unwrap().expect(status);
                        }
                    })
                })
                .collect();
            while clients.iter().any(|client| !client.is_finished()) {
                assert!(serve.metric("hv_instances{function=\"probe\"") <= 2.0);
                thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        for kind in ["no_room", "back_off"] {
            assert_eq!(
                serve.metric(&format!("hv_failures_total{{function=\"probe\",kind=\"{kind}\"}}")),
                0.0
            );
        }
        // Fewer from now on, and those beyond are gone.
        serve.reload(&probe(&format!("max_instances = 1\nisolation = {isolation:?}")));
        serve.said("configuration reloaded", 1);
        eventually("one", || (serve.metric("hv_instances{function=\"probe\"") <= 1.0).then_some(()));
        serve.get("/ok").expect(200);
        serve.end();
    }
}

#[guest_test]
fn what_is_kept_ready_makes_room_for_requests_of_others(platform: Platform) {
    let image = guest("fn-probe");
    // hv itself has 12 MiB and 16 KiB for each connection; room for two or three guests is left.
    let config = format!(
        "memory = \"104M\"\nconnections = 64\n\
         [function.kept]\npath = \"/kept/*\"\nimage = {image:?}\nmemory = \"40M\"\nmin_warm = 1\n\
         [function.other]\npath = \"/other/*\"\nimage = {image:?}\nmemory = \"40M\"\nisolation = \"instance\"\n"
    );
    let serve = Serve::start(platform, &config);
    let kept = || serve.metric("hv_instances{function=\"kept\",state=\"ready\"}");
    eventually("the one that is kept", || (kept() == 1.0).then_some(()));
    let mut busy = [serve.client(), serve.client()];
    for client in &mut busy {
        client.send(b"GET /other/nap?ms=1000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for client in &mut busy {
        client.answer("GET").unwrap().expect(200);
    }
    serve.end();
}

#[guest_test]
fn impossible_scales_are_refused(platform: Platform) {
    let image = guest("fn-probe");
    for (keys, line, parts) in [
        ("max_instances = 0", 4, ["max_instances = 0", "1 or more"]),
        ("max_instances = 2\nmin_warm = 3", 5, ["min_warm = 3", "max_instances is 2"]),
        ("min_warm = 65", 4, ["min_warm = 65", "concurrency is 64"]),
        ("concurrency = 9\nmax_instances = 8", 5, ["max_instances = 8", "concurrency is 9"]),
        ("min_warm = -1", 4, ["-1", ""]),
        ("min_warm = \"some\"", 4, ["invalid type", ""]),
    ] {
        let config = format!("[function.f]\npath = \"/f\"\nimage = {image:?}\n{keys}\n");
        let (mut command, _folder) = checked(platform, &config, &["--check"]);
        refused(&mut command, &[&format!("hv.toml:{line}: "), parts[0], parts[1]]);
    }
    let config = format!(
        "memory = \"64M\"\nconnections = 16\n[function.f]\npath = \"/f\"\nimage = {image:?}\nmin_warm = 4\n"
    );
    let (mut command, _folder) = checked(platform, &config, &["--check"]);
    refused(&mut command, &["hv.toml:3: ", "min_warm = 4", "65536 KiB", "MIN..MAX"]);
}
