//! How the command behaves beside others: colour, signals, full disks, limits, a host without `/proc`.

use hv_tests::refusal::misused;
use hv_tests::{Platform, Running, guest, guest_test, has_tools, hv, tool};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What a command prints on a terminal, with these variables.
fn on_a_terminal(command: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {command}", hv().display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").envs(variables.iter().copied());
    Running::new(
        script
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .envs(variables.iter().copied())
            .stdin(Stdio::null()),
    )
    .finish()
    .text()
}

#[test]
fn colour_is_only_for_those_who_want_it() {
    if !has_tools(&["script"]) {
        return;
    }
    for line in ["--help", "run", "run /nonexistent"] {
        assert!(on_a_terminal(line, &[]).contains("\x1b["), "{line}: no colour on a terminal");
        assert!(
            on_a_terminal(line, &[("NO_COLOR", "")]).contains("\x1b["),
            "{line}: an empty value says nothing"
        );
        for no in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            let text = on_a_terminal(line, &[no]);
            assert!(!text.contains('\x1b'), "{line} with {no:?}: {text:?}");
            assert!(!text.is_empty());
        }
    }
}

#[guest_test]
fn sighup_ends_a_guest_unless_it_is_ignored(platform: Platform) {
    let started = |command: &mut Command| {
        // The tests themselves may have been started by nohup(1).
        // SAFETY: the call is async-signal-safe, and takes no memory.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            })
        };
        let mut guest = Running::new(command);
        let mut lines = BufReader::new(guest.child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        (guest, lines)
    };
    let (mut guest, _lines) = started(&mut platform.run("hostile", &[], &["sleep-forever"]));
    guest.signal(libc::SIGHUP);
    assert_eq!(guest.wait().code(), Some(129));
    // One that listens is asked.
    let (mut guest, mut lines) = started(&mut platform.run("hostile", &[], &["ignore-shutdown"]));
    guest.signal(libc::SIGHUP);
    assert_eq!(lines.next().unwrap().unwrap(), "asked to end");
    assert!(guest.child.try_wait().unwrap().is_none(), "it is only asked");
    guest.signal(libc::SIGHUP);
    assert_eq!(guest.wait().code(), Some(129));
    // As nohup(1) starts it.
    let line = "trap '' HUP; exec \"$@\"";
    let mut nohup = Command::new("sh");
    nohup
        .args(["-c", line, "sh"])
        .arg(hv())
        .arg("run")
        .arg(self::guest("hostile"))
        .args(["--", "ignore-shutdown"]);
    let (mut guest, mut lines) = started(platform.apply(nohup.stdin(Stdio::null())));
    guest.signal(libc::SIGHUP);
    guest.signal(libc::SIGTERM);
    assert_eq!(lines.next().unwrap().unwrap(), "asked to end");
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.wait().code(), Some(143), "the first signal that counts is SIGTERM");
}

#[guest_test]
fn a_full_standard_output_is_said(platform: Platform) {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = platform.run("probe", &[], &["lines", "100000"]);
    let end = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let errors = String::from_utf8(end.stderr).unwrap();
    assert_eq!(end.status.code(), Some(74), "{errors}");
    assert!(errors.starts_with("hv: error: standard output") && errors.contains("No space left"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for arguments in [&["jail"][..], &["completions", "bash"], &["doctor"]] {
        let end = platform.command().args(arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let errors = String::from_utf8(end.stderr).unwrap();
        assert_eq!(end.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains("No space left") && errors.lines().count() == 1, "{arguments:?}: {errors}");
    }
}

#[guest_test]
fn a_limit_of_file_sizes_is_an_error_and_no_end(platform: Platform) {
    let folder = tempfile::TempDir::new().unwrap();
    let shell = |line: &str| {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(line).current_dir(folder.path());
        Running::new(platform.apply(shell.stdin(Stdio::null()))).finish()
    };
    let (hv, probe) = (hv().display().to_string(), guest("probe").display().to_string());
    let end = shell(&format!("ulimit -f 1; exec {hv} run {probe} -- lines 100000 > out"));
    // Memory that is shared with a process is a file to the kernel.
    if platform == Platform::Process {
        let end = end.expect(2);
        assert!(end.err.contains("ulimit -f") && end.err.lines().count() == 1, "{}", end.err);
        return;
    }
    let end = end.expect(74);
    assert!(end.err.contains("File too large") && end.err.lines().count() == 1, "{}", end.err);
    assert_eq!(std::fs::metadata(folder.path().join("out")).unwrap().len(), 1024);
}

#[guest_test]
fn a_host_without_proc_runs_guests(platform: Platform) {
    if !has_tools(&["unshare", "umount"]) {
        return;
    }
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        hv_tests::skip("needs root");
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", "umount -l /proc && exec \"$@\"", "sh"])
        .arg(hv())
        .arg("run")
        .arg(guest("hello"));
    let end = Running::new(platform.apply(unshare.stdin(Stdio::null()))).finish().expect(0);
    assert_eq!(end.text(), "Hello from a unikernel, world!\n");
}

#[guest_test]
fn an_image_behind_net_is_explained(platform: Platform) {
    misused(&["--net", "hello"], &["hello", "--net", "IMAGE", "--net=user"]);
    let image = guest("hello");
    let ok = tool(platform.command().arg("run").arg("--net=user").arg(&image));
    assert_eq!(ok.text(), "Hello from a unikernel, world!\n");
    platform.ran("hello", &["--net"], &[]).expect(0);
}
