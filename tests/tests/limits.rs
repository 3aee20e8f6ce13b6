//! Limits of the host: what reaches one is refused in one line that names it, and nothing waits for ever.

use hv_tests::http::Client;
use hv_tests::refusal::{finished, refused};
use hv_tests::serve::{Serve, checked, probe};
use hv_tests::{Platform, eventually, guest, guest_test, hv_as_ordinary_user};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// A control group with a limit of processes. Kernel threads of virtual machines count in it, too.
struct Pids(PathBuf);

impl Pids {
    /// `None`, with the reason, where this user can make none.
    fn new() -> Option<Pids> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hv-test-{}-{number}", std::process::id());
        // Version 1, and version 2.
        for parent in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let group = Pids(Path::new(parent).join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join("pids.max"), "max").is_ok() {
                return Some(group);
            }
        }
        hv_tests::skip("needs a control group with pids.max");
        None
    }

    fn allow(&self, limit: &str) {
        fs::write(self.0.join("pids.max"), limit).unwrap();
    }

    /// The processes and threads that it has.
    fn count(&self) -> u32 {
        fs::read_to_string(self.0.join("pids.current")).unwrap().trim().parse().unwrap()
    }

    fn take(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }

    /// Has a command begin in it.
    fn hold<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let file = self.0.join("cgroup.procs");
        // SAFETY: writes to a file; nothing is allocated that another thread could have locked but by the
        // allocator, which glibc keeps usable in a child.
        unsafe { command.pre_exec(move || fs::write(&file, "0")) }
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // What has ended in it is gone a moment later.
        eventually("an empty control group", || match fs::remove_dir(&self.0) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => None,
            _ => Some(()),
        });
    }
}

#[guest_test]
fn few_processes_of_the_container_are_named(platform: Platform) {
    let Some(group) = Pids::new() else { return };
    let mut kinds = [0; 2];
    let mut machine = 0;
    for limit in 1..12 {
        group.allow(&limit.to_string());
        let mut hello = platform.command();
        hello.arg("run").arg(guest("hello")).args(["--timeout", "60s"]);
        let end = finished(group.hold(&mut hello));
        if end.code() == Some(0) {
            kinds[0] += 1;
            continue;
        }
        kinds[1] += 1;
        assert_eq!(end.code(), Some(2), "with {limit}: {}", end.err);
        let line = end.err.lines().find(|line| line.starts_with("hv: error: ")).expect("a refusal");
        assert!(line.contains("pids.max"), "with {limit}: {}", end.err);
        machine += u32::from(line.contains("KVM cannot make the virtual machine's kernel thread"));
    }
    assert!(kinds[0] > 0 && kinds[1] > 0, "{kinds:?}");
    if platform == Platform::Kvm && machine == 0 {
        println!("this kernel makes no thread for a virtual machine");
    }
}

/// Asks for as many slow answers at once, and returns the statuses; each refusal says when to come again.
fn ask(serve: &Serve, requests: usize) -> Vec<u16> {
    ask_for(serve, "/sleep?ms=1000", requests)
}

/// The same with a path.
fn ask_for(serve: &Serve, path: &'static str, requests: usize) -> Vec<u16> {
    let port = serve.port;
    let ask = move |_| {
        thread::spawn(move || {
            let mut client = Client::connect(port).expect("it listens");
            let answer = client.ask("GET", path, "", b"").expect("it answers");
            assert!(answer.status == 200 || answer.field("retry-after").is_some(), "{answer:?}");
            answer.status
        })
    };
    let all: Vec<_> = (0..requests).map(ask).collect();
    all.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[guest_test]
fn a_server_without_processes_answers_503_and_says_why_now_and_then(platform: Platform) {
    let Some(group) = Pids::new() else { return };
    let serve = Serve::start(platform, &probe("concurrency = 16"));
    serve.get("/ok").expect(200);
    group.take(serve.process());
    group.allow(&group.count().to_string());
    let statuses = ask(&serve, 12);
    if !statuses.contains(&503) {
        hv_tests::skip(format_args!(
            "this kernel makes neither a thread nor a process for a guest: {statuses:?}"
        ));
        return;
    }
    // What is there goes on.
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    serve.said("pids.max", 1);
    let lines = serve.errors().lines().filter(|line| line.contains("pids.max")).count();
    assert!(lines < 12, "a line for each request: {}", serve.errors());
    // Room again, and all is well.
    group.allow("max");
    assert!(ask(&serve, 12).iter().all(|status| *status == 200), "{}", serve.errors());
    serve.end();
}

#[guest_test]
fn a_server_that_may_have_few_processes_is_refused(platform: Platform) {
    let Some(group) = Pids::new() else { return };
    let text = format!("listen = \"127.0.0.1:0\"\nlog = \"off\"\n{}", probe(""));
    for limit in [1, 3, 5] {
        group.allow(&limit.to_string());
        let (mut server, _folder) = checked(platform, &text, &[]);
        let end = finished(group.hold(&mut server)).expect(2);
        let line = end.err.lines().find(|line| line.starts_with("hv: error: ")).expect("a refusal");
        assert!(line.contains("pids.max"), "with {limit}: {}", end.err);
    }
}

#[guest_test]
fn the_descriptors_that_a_server_asks_for_are_enough(platform: Platform) {
    const GUESTS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    let disks: Vec<_> = (0..2).map(|_| format!("{},overlay", folder.path().display())).collect();
    let text = format!(
        "connections = 48\n{}",
        probe(&format!("concurrency = {GUESTS}\ndisks = {disks:?}\nwall_time = \"60s\""))
    );
    // With fewer it is refused, and says how many it takes.
    let (mut server, _folder) = checked(platform, &text, &["--check"]);
    let end = finished(limited(&mut server, 100)).expect(2);
    let needed = end.err.split(" file descriptors").next().and_then(|text| text.rsplit(' ').next());
    let needed: u64 = needed.and_then(|number| number.parse().ok()).expect(&end.err);
    let (mut server, _folder) = checked(platform, &text, &["--check"]);
    finished(limited(&mut server, needed)).expect(0);

    let serve = Serve::start(platform, &text);
    limit_of(serve.process(), needed);
    assert!(ask(&serve, GUESTS).iter().all(|status| *status == 200), "{}", serve.errors());
    assert!(serve.count("fd") as u64 <= needed);
    serve.end();
}

#[guest_test]
fn the_processes_that_a_server_asks_for_are_enough_and_threads_of_disks_are_among_them(platform: Platform) {
    const GUESTS: usize = 12;
    let Some(group) = Pids::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    let disk = format!("{},overlay", folder.path().display());
    let text = probe(&format!("concurrency = {GUESTS}\ndisks = {disk:?}\nwall_time = \"60s\""));
    // Enough to boot the function and to try it, and for all of its machines, but not for their disks.
    group.allow("60");
    let (mut server, _folder) = checked(platform, &text, &["--check"]);
    let end = finished(group.hold(&mut server)).expect(2);
    assert!(
        end.err.contains("threads of their disks") && end.err.contains("pids.max allows 60"),
        "{}",
        end.err
    );
    assert!(end.err.ends_with("raise the limit (pids.max)\n"), "{}", end.err);
    let needed = end.err.split(" processes and threads").next().and_then(|text| text.rsplit(' ').next());
    let needed: u32 = needed.and_then(|number| number.parse().ok()).expect(&end.err);

    group.allow(&needed.to_string());
    let (mut server, _folder) = checked(platform, &text, &["--check"]);
    finished(group.hold(&mut server)).expect(0);
    let serve = Serve::prepared(platform, &text, |command, _| {
        group.hold(command);
    });
    let before = serve.count("task");
    eventually("threads of all disks at a time", || {
        let mut most = 0;
        thread::scope(|scope| {
            let asking = scope.spawn(|| ask_for(&serve, "/read?ms=2000", GUESTS));
            while !asking.is_finished() {
                most = most.max(serve.count("task"));
                thread::sleep(Duration::from_millis(20));
            }
            assert!(asking.join().unwrap().iter().all(|status| *status == 200), "{}", serve.errors());
        });
        (most >= before + 4 * GUESTS).then_some(())
    });
    assert_eq!(serve.errors().matches("pids.max").count(), 0, "{}", serve.errors());
    serve.end();
}

#[test]
fn few_processes_of_the_user_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = folder.path().join("hv.toml");
    fs::write(&config, format!("listen = \"127.0.0.1:0\"\nlog = \"off\"\n{}", probe(""))).unwrap();
    let arguments = ["serve", "--check", "--platform", "process", "--config", config.to_str().unwrap()];
    let Some(mut command) = hv_as_ordinary_user(&arguments) else { return };
    // Enough for all but the machines.
    refused(
        limited_in(&mut command, libc::RLIMIT_NPROC, 60),
        &["the limit of this user allows 60", "raise the limit (ulimit -u)"],
    );
}

/// With a limit of descriptors.
fn limited(command: &mut Command, limit: u64) -> &mut Command {
    limited_in(command, libc::RLIMIT_NOFILE, limit)
}

/// With a limit of a resource.
fn limited_in(command: &mut Command, resource: libc::__rlimit_resource_t, limit: u64) -> &mut Command {
    // SAFETY: makes one system call.
    unsafe {
        command.pre_exec(move || {
            set_limit(0, resource, limit);
            Ok(())
        })
    }
}

/// Gives a process a limit of descriptors.
fn limit_of(process: u32, limit: u64) {
    set_limit(process, libc::RLIMIT_NOFILE, limit);
}

/// Gives a process (0: this one) a limit of a resource.
fn set_limit(process: u32, resource: libc::__rlimit_resource_t, limit: u64) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the limit lives until the call returns, which only reads it.
    let set = unsafe { libc::prlimit(process as libc::pid_t, resource, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "a lower limit can always be set");
}
