//! `hv run` as a person or a script sees it.

use hv_tests::{Platform, Running, eventually, guest_test};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

#[guest_test]
fn hello_prints_and_exits_with_zero(platform: Platform) {
    let hello = platform.ran("hello", &[], &["Ada"]).expect(0);
    assert_eq!(hello.text(), "Hello from a unikernel, Ada!\n");
    assert_eq!(hello.err, "");
}

#[guest_test]
fn the_guests_exit_code_is_hvs(platform: Platform) {
    for code in [0, 1, 7, 255] {
        platform.ran("probe", &[], &["exit", &code.to_string()]).expect(code);
    }
}

#[guest_test]
fn arguments_and_environment_arrive_as_given(platform: Platform) {
    let strange = ["", "two words", "ünïcödé", "--flag", "a=b"];
    let args = platform.ran("probe", &[], &[&["args"][..], &strange].concat()).expect(0);
    assert_eq!(args.text(), "<probe>\n<args>\n<>\n<two words>\n<ünïcödé>\n<--flag>\n<a=b>\n");
    let env = platform.ran("probe", &["--env", "A=1", "--env", "B=x=y", "--env", "C="], &["env"]).expect(0);
    assert_eq!(env.text(), "A=1\nB=x=y\nC=\n");
}

#[guest_test]
fn the_sdk_keeps_its_promises(platform: Platform) {
    for probe in ["memory-routines", "heap"] {
        platform.ran("probe", &[], &[probe]).expect(0);
    }
}

#[guest_test]
fn guest_time_is_host_time(platform: Platform) {
    let clock = platform.ran("probe", &[], &["clock"]).expect(0).text();
    let numbers: Vec<u64> = clock.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [guest, host, passed, written] = numbers[..] else { panic!("{clock}") };
    assert!(guest.abs_diff(host) < 1_000_000_000, "{clock}");
    assert!(passed >= 50_000_000, "{clock}");
    // Once more while the guest runs, if hv has to measure the counter's frequency and was younger than 10 ms. KVM knows it.
    assert!(written <= u64::from(platform == Platform::Process), "{clock}");
}

#[guest_test]
fn two_guests_never_see_the_same_random_bytes(platform: Platform) {
    let first = platform.ran("probe", &[], &["random"]).expect(0).text();
    let second = platform.ran("probe", &[], &["random"]).expect(0).text();
    let (before, after) = first.trim().split_at(64);
    assert_ne!(before, after, "reseeding changes the stream");
    assert_ne!(first, second);
}

#[guest_test]
fn a_flood_waits_for_a_slow_reader_and_loses_nothing(platform: Platform) {
    let mut guest = Running::new(&mut platform.run("probe", &[], &["lines", "100000"]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(guest.child.try_wait().unwrap().is_none(), "the guest waits for its reader");
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id())).unwrap();
    let rss =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").trim();
    assert!(rss.parse::<u64>().unwrap() < 40_000, "hv does not buffer the flood: {rss} KiB");
    let out = guest.finish().expect(0);
    let text = out.text();
    assert_eq!(text.lines().count(), 100_000);
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {n}"));
    }
}

#[guest_test]
fn a_reader_that_goes_away_ends_the_run(platform: Platform) {
    let mut guest = Running::new(&mut platform.run("probe", &[], &["lines", "100000000"]));
    let mut first = String::new();
    BufReader::new(guest.child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "line 0\n");
    assert_eq!(guest.wait().code(), Some(141));
}

#[guest_test]
fn a_timeout_ends_an_endless_loop(platform: Platform) {
    let out = platform.ran("hostile", &["--timeout", "200ms"], &["endless-loop"]).expect(124);
    let (state, end) = out.err.rsplit_once("hv: ").unwrap();
    assert_eq!(end, "the guest was ended by --timeout\n");
    assert!(state.starts_with("guest hostile, virtual CPU 0: ") && state.contains("  rip "), "{state}");
}

#[guest_test]
fn a_timeout_ends_a_guest_whose_reader_is_stuck(platform: Platform) {
    let mut guest =
        Running::new(&mut platform.run("probe", &["--timeout", "200ms"], &["lines", "100000000"]));
    assert_eq!(guest.wait().code(), Some(124));
}

#[guest_test]
fn sigquit_shows_where_a_guest_is_and_it_goes_on(platform: Platform) {
    for (way, activity) in [("endless-loop", "running"), ("sleep-forever", "blocked")] {
        let mut guest = Running::new(&mut platform.run("hostile", &["--format", "json"], &[way]));
        let mut line = String::new();
        BufReader::new(guest.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut states = BufReader::new(guest.child.stderr.take().unwrap()).lines();
        // It may not be there yet when it has printed its line.
        eventually(activity, || {
            guest.signal(libc::SIGQUIT);
            let state = states.next().unwrap().unwrap();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            let vcpu = &state["state"]["vcpus"][0];
            let functions: Vec<_> = vcpu["backtrace"].as_array().unwrap().iter().collect();
            assert!(functions.iter().any(|frame| frame["function"] == "hostile::main"), "{way}: {vcpu}");
            assert!(vcpu["registers"]["rip"].as_u64().unwrap() > 0, "{way}: {vcpu}");
            (vcpu["activity"] == activity).then_some(())
        });
        guest.signal(libc::SIGTERM);
        assert_eq!(guest.wait().code(), Some(143), "{way}");
    }
}

#[guest_test]
fn every_task_is_shown_with_what_it_waits_for(platform: Platform) {
    let folder = tempfile::TempDir::new().unwrap();
    let mut images = vec![hv_tests::guest("probe")];
    if hv_tests::has_tools(&["strip"]) {
        let stripped = folder.path().join("probe");
        hv_tests::tool(std::process::Command::new("strip").arg(&images[0]).arg("-o").arg(&stripped));
        images.push(stripped);
    }
    for image in images {
        let mut command = platform.command();
        command.arg("run").arg(image).args(["--format", "json", "--", "tasks"]).stdin(Stdio::null());
        let mut guest = Running::new(&mut command);
        let mut line = String::new();
        BufReader::new(guest.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut states = BufReader::new(guest.child.stderr.take().unwrap()).lines();
        // When it has printed its line, one of them has not run yet.
        let tasks = eventually("all tasks to wait", || {
            guest.signal(libc::SIGQUIT);
            let state: serde_json::Value = serde_json::from_str(&states.next().unwrap().unwrap()).unwrap();
            let tasks = state["state"]["tasks"].clone();
            let shown = tasks["shown"].as_array().unwrap();
            shown.iter().all(|task| task["state"]["waits"].is_object()).then_some(tasks)
        });
        check_tasks(&tasks);
    }
}

/// Whether these are the tasks of the probe.
#[track_caller]
fn check_tasks(tasks: &serde_json::Value) {
    assert!(tasks["further"] == 0 && tasks["missing"].is_null(), "{tasks}");
    let shown = tasks["shown"].as_array().unwrap();
    let names =
        ["probe::tasks::{{closure}}", "hv_guest::event::shutdown", "embassy_time::timer::Timer", "Pending"];
    assert_eq!(shown.len(), names.len(), "{tasks}");
    for (task, name) in shown.iter().zip(names) {
        assert!(task["name"].as_str().unwrap().contains(name), "{name}: {task}");
        assert!(task["file"].as_str().unwrap().ends_with("probe.rs"), "{task}");
    }
    let lines: Vec<_> = shown.iter().map(|task| task["line"].as_u64().unwrap()).collect();
    assert!(lines.is_sorted() && lines[0] < lines[1], "in the order of their spawning: {lines:?}");
    let waits = |n: usize, what| shown[n]["state"]["waits"][what].clone();
    for n in [0, 3] {
        assert!(waits(n, "event").is_null() && waits(n, "deadline_in_ns").is_null(), "for another: {tasks}");
    }
    assert!(waits(1, "event") == 1 && waits(1, "raised_by") == "a request to shut down", "{tasks}");
    assert!((1..=100_000_000_000_000).contains(&waits(2, "deadline_in_ns").as_i64().unwrap()), "{tasks}");
}

#[guest_test]
fn a_broken_list_of_tasks_is_cut_and_escaped(platform: Platform) {
    for (way, missing) in [("0", "only so many are counted"), ("1", "leads to where it has no memory")] {
        let mut guest = Running::new(&mut platform.run("hostile", &[], &["broken-tasks", way]));
        let mut line = String::new();
        BufReader::new(guest.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        guest.signal(libc::SIGQUIT);
        let mut text = String::new();
        let mut errors = BufReader::new(guest.child.stderr.take().unwrap());
        while !text.ends_with(&format!("{missing}\n")) {
            assert_ne!(errors.read_line(&mut text).unwrap(), 0, "{text}");
        }
        let tasks: Vec<_> = text.lines().filter(|line| line.starts_with("  task")).collect();
        let further = text.lines().filter(|line| line.starts_with("  and 3840 further tasks")).count();
        assert_eq!((tasks.len(), further), [(257, 1), (1, 0)][way.parse::<usize>().unwrap()], "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("\nhv: error: forged"), "{text}");
        assert!(text.lines().all(|line| line.len() < 4096), "{text}");
        guest.signal(libc::SIGTERM);
        assert_eq!(guest.wait().code(), Some(143), "{way}");
    }
}

#[guest_test]
fn ctrl_c_and_sigterm_end_a_guest_that_does_not_listen(platform: Platform) {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        for way in ["endless-loop", "sleep-forever"] {
            let mut guest = Running::new(&mut platform.run("hostile", &[], &[way]));
            let mut line = String::new();
            BufReader::new(guest.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            guest.signal(signal);
            assert_eq!(guest.wait().code(), Some(code), "{way}");
        }
    }
}

#[guest_test]
fn ctrl_c_twice_ends_a_guest_that_listens_and_does_not_obey(platform: Platform) {
    let mut guest = Running::new(&mut platform.run("hostile", &[], &["ignore-shutdown"]));
    let mut lines = BufReader::new(guest.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "listening");
    guest.signal(libc::SIGINT);
    assert_eq!(lines.next().unwrap().unwrap(), "asked to end");
    assert!(guest.child.try_wait().unwrap().is_none(), "once only asks");
    guest.signal(libc::SIGINT);
    assert_eq!(guest.wait().code(), Some(130));
}

#[guest_test]
fn echo_returns_what_it_is_given_until_the_input_ends(platform: Platform) {
    let input: String = (0..20_000).map(|n| format!("this is line {n}\n")).collect();
    let mut guest = Running::new(platform.run("echo", &[], &[]).stdin(Stdio::piped()));
    let mut stdin = guest.child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()));
    let out = guest.finish().expect(0);
    writer.join().unwrap().unwrap();
    assert_eq!(out.text(), input);
}

#[guest_test]
fn a_guest_that_does_not_read_leaves_the_input_alone(platform: Platform) {
    let (mut read, mut write) = std::io::pipe().unwrap();
    write.write_all(b"for somebody else\n").unwrap();
    drop(write);
    let guest = Running::new(platform.run("hello", &[], &[]).stdin(read.try_clone().unwrap()));
    guest.finish().expect(0);
    let mut rest = String::new();
    read.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "for somebody else\n");
}

#[guest_test]
fn statistics_are_a_table_or_json(platform: Platform) {
    let table = platform.ran("hello", &["--stats"], &[]).expect(0);
    assert!(table.err.contains("first_hypercall") && table.err.contains("exits by kind"), "{}", table.err);
    let json = platform.ran("hello", &["--stats", "--format", "json"], &[]).expect(0);
    let value: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(value["outcome"]["exited"], 0);
    assert_eq!(value["stats"]["exits"]["exit"], 1);
    let touched = value["stats"]["memory_bytes"]["guest_touched"].as_u64().unwrap();
    assert!((4096..=256 << 10).contains(&touched), "the guest touched {touched} bytes");
    let peak = value["stats"]["memory_bytes"]["hv_peak_resident"].as_u64().unwrap();
    // Most of it is code that the kernel has mapped ahead, and tables that the loader relocates, also of what only `hv serve`
    // uses.
    assert!(peak <= 8 << 20, "hv took {peak} bytes");
}

#[guest_test]
fn many_guests_run_side_by_side(platform: Platform) {
    let guests: Vec<_> =
        (0..8).map(|n| Running::new(&mut platform.run("hello", &[], &[&n.to_string()]))).collect();
    for (n, guest) in guests.into_iter().enumerate() {
        assert_eq!(guest.finish().expect(0).text(), format!("Hello from a unikernel, {n}!\n"));
    }
}

#[guest_test]
fn a_terminal_is_left_as_it_was(platform: Platform) {
    if !hv_tests::has_tools(&["script", "stty"]) {
        return;
    }
    let hv = hv_tests::hv().display().to_string();
    let guest = hv_tests::guest("hostile").display().to_string();
    let shell = format!(
        "stty -g; {hv} run {guest} --timeout 100ms -- endless-loop; stty -g; {hv} run {guest} -- endless-loop & sleep 0.3; kill -INT $!; wait; stty -g"
    );
    let mut script = std::process::Command::new("script");
    let out = hv_tests::tool(platform.apply(script.args(["-qec", &shell, "/dev/null"])));
    let text = out.text();
    let settings: Vec<_> = text.lines().filter(|line| line.matches(':').count() > 20).collect();
    assert_eq!(settings.len(), 3, "{text}");
    assert!(settings.iter().all(|s| s == &settings[0]), "{text}");
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let out = hv_tests::tool(std::process::Command::new(hv_tests::hv()).args(["completions", shell]));
        assert!(out.text().contains("publish"), "{shell}");
    }
}
