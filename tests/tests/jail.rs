//! The jail around hv: what it allows, that all of it is needed, and that nothing else goes through.

use hv::device::console::Output;
use hv::device::net::Network;
use hv::{Builder, Engine, Image, KvmPlatform};
use hv_abi::io::net::NetConfig;
use hv_jail::{self as jail, Kind, Missing, Place, Plan, Use};
use hv_tests::serve::{Serve, probe};
use hv_tests::{
    Finished, Platform, Running, eventually, guest, guest_test, has_tools, hv, hv_as_ordinary_user, trace,
};
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

fn printed(arguments: &[&str]) -> String {
    Running::new(Command::new(hv()).arg("jail").args(arguments)).finish().expect(0).text()
}

// ---------------------------------------------------------------- the list

/// Whoever changes the list sees in the difference what hv may do from then on.
#[test]
fn the_list_is_the_one_that_was_agreed_on() {
    for (platform, file) in [("kvm", "golden/jail.txt"), ("process", "golden/jail-process.txt")] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let wanted = fs::read_to_string(&golden).unwrap();
        let printed = printed(&["--platform", platform]);
        let changed: Vec<_> = printed.lines().zip(wanted.lines()).filter(|(a, b)| a != b).take(3).collect();
        assert!(printed == wanted, "`hv jail` differs from {}, first at {changed:#?}", golden.display());
    }
}

/// To find out how much memory a guest has takes the longer the more it has.
#[test]
fn the_thread_that_speaks_http_may_not_walk_guest_memory() {
    for platform in ["kvm", "process"] {
        let printed = printed(&["--platform", platform]);
        let may = |kind: &str| {
            let mut lines = printed.lines().skip_while(|line| !line.starts_with(&format!("{kind}: ")));
            assert!(lines.next().is_some(), "{kind}");
            lines.take_while(|line| line.starts_with(' ')).any(|line| line.contains("PAGEMAP_SCAN"))
        };
        assert!(!may("serve") && may("pool"), "{platform}");
    }
}

/// The logs are those of the whole suite, or of a part that should do; `.ci/jail-usage` makes them.
#[test]
fn every_allowed_call_is_used() {
    let Some(logs) = std::env::var_os("HV_JAIL_TRACES") else {
        hv_tests::skip("needs logs of system calls: run .ci/jail-usage");
        return;
    };
    let calls = trace::folder(Path::new(&logs));
    assert!(calls.len() > 1000, "{} calls: these are not the logs of a suite", calls.len());
    let tables: Value = serde_json::from_str(&printed(&["--format", "json"])).unwrap();
    let mut unused = Vec::new();
    for (kind, rows) in tables.as_object().unwrap() {
        // What hosts that lack something need is asked for by tests of their own.
        for row in rows.as_array().unwrap().iter().filter(|row| row["other_hosts"] == false) {
            let used = calls.iter().any(|call| (kind == "all" || call.kind == kind) && allows(row, call));
            if !used {
                unused.push(format!("{kind}: {}", row["allowed"].as_str().unwrap()));
            }
        }
    }
    assert!(unused.is_empty(), "allowed and never used:\n{}", unused.join("\n"));
}

fn allows(row: &Value, call: &trace::Call) -> bool {
    row["call"] == *call.name
        && row["checks"].as_array().unwrap().iter().all(|check| {
            let number = |key: &str| check[key].as_u64().unwrap();
            let seen = call.arguments.get(number("argument") as usize);
            seen.is_some_and(|seen| seen & number("mask") == number("value"))
        })
}

// ---------------------------------------------------------------- what a process is in

/// The value of a line of /proc/PID/status.
fn status(task: &Path, key: &str) -> String {
    let text = fs::read_to_string(task.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

#[guest_test]
fn every_thread_has_a_filter_and_no_new_privileges(platform: Platform) {
    let hv = Running::new(&mut platform.run("hostile", &["--net"], &["sleep-forever"]));
    let process = Path::new("/proc").join(hv.child.id().to_string());
    let names = eventually("a guest that runs", || {
        let mut names = Vec::new();
        for task in fs::read_dir(process.join("task")).unwrap() {
            let task = task.unwrap().path();
            let name = status(&task, "Name");
            // One that KVM has made of its own: it makes no system calls, and never leaves the kernel.
            if name.starts_with("kvm-") {
                continue;
            }
            if status(&task, "Seccomp") != "2" {
                return None;
            }
            assert_eq!(status(&task, "NoNewPrivs"), "1");
            names.push(name);
        }
        names.sort();
        Some(names)
    });
    assert_eq!(names, ["hv", "hv-io"]);
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(files[0], files[1], "the limit of descriptors can be raised");
}

#[guest_test]
fn without_the_jail_there_is_none(platform: Platform) {
    let hv = Running::new(&mut platform.run("hostile", &["--no-jail"], &["sleep-forever"]));
    let process = Path::new("/proc").join(hv.child.id().to_string());
    eventually("a guest that runs", || {
        (fs::read_dir(process.join("task")).unwrap().count() >= 2).then_some(())
    });
    assert_eq!((status(&process, "Seccomp"), status(&process, "NoNewPrivs")), ("0".into(), "0".into()));
}

#[guest_test]
fn a_stopped_guest_goes_on(platform: Platform) {
    let hv = Running::new(&mut platform.run("late", &[], &["1", "1500000"]));
    let process = Path::new("/proc").join(hv.child.id().to_string());
    let is = |states: &str| states.contains(&status(&process, "State")[..1]).then_some(());
    eventually("a guest that sleeps", || is("S"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    hv.signal(libc::SIGSTOP);
    eventually("the stop", || is("Tt"));
    hv.signal(libc::SIGCONT);
    hv.finish().expect(0);
}

/// Not dumpable, a process of an ordinary user cannot open its own entries of /proc any more.
#[guest_test]
fn statistics_of_an_ordinary_users_guest_are_whole(platform: Platform) {
    let image = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    let copy = image.path().join("hello");
    fs::copy(guest("hello"), &copy).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let Some(mut command) = hv_as_ordinary_user(&["run", copy.to_str().unwrap(), "--stats"]) else { return };
    let end = Running::new(platform.apply(&mut command)).finish();
    if end.err.contains("/dev/kvm") {
        hv_tests::skip("needs a /dev/kvm that other users may open");
        return;
    }
    let end = end.expect(0);
    assert!(end.err.contains("hv_peak_resident") && !end.err.contains("WARN"), "{}", end.err);
    let touched = end.err.lines().find_map(|line| line.trim().strip_prefix("guest_touched")).unwrap();
    assert!(touched.trim().parse::<u64>().unwrap() > 0);
}

// ---------------------------------------------------------------- hosts that lack something

/// `hv run hello` on a host that answers these calls with these errors.
fn on_a_host(platform: Platform, without: &[&str]) -> Option<Finished> {
    if !has_tools(&["strace"]) {
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    // With calls in the logs of `.ci/jail-usage`, hv is traced already.
    if std::env::var_os("HV_BIN").is_some_and(|hv| fs::read(hv).is_ok_and(|bytes| bytes.starts_with(b"#!"))) {
        hv_tests::skip("needs an hv that is not traced");
        return None;
    }
    command.args(["-f", "-qq", "-o"]).arg(log.path());
    for inject in without {
        command.args(["-e", &format!("inject={inject}")]);
    }
    command.arg(hv()).arg("run").arg(guest("hello"));
    Some(Running::new(platform.apply(&mut command)).finish())
}

const NO_SECCOMP: &str = "seccomp:error=EINVAL";
const NO_LANDLOCK: &str = "landlock_create_ruleset:error=ENOSYS";

#[guest_test(kvm, "a guest in a process does not start without seccomp")]
fn a_host_without_seccomp_is_told_of_and_used(platform: Platform) {
    let Some(end) = on_a_host(platform, &[NO_SECCOMP]) else { return };
    let end = end.expect(0);
    assert!(end.text().starts_with("Hello"), "{}", end.text());
    assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    assert!(end.err.contains("no seccomp filter") && end.err.contains("Landlock"), "{}", end.err);
}

#[guest_test(kvm, "a guest in a process does not start without seccomp")]
fn a_host_without_landlock_is_told_of_and_used(platform: Platform) {
    let Some(end) = on_a_host(platform, &[NO_LANDLOCK]) else { return };
    let end = end.expect(0);
    assert!(end.text().starts_with("Hello"), "{}", end.text());
    assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    assert!(end.err.contains("no Landlock") && end.err.contains("still hold"), "{}", end.err);
}

#[guest_test(kvm, "a guest in a process does not start without seccomp")]
fn a_host_without_both_is_refused(platform: Platform) {
    let Some(end) = on_a_host(platform, &[NO_SECCOMP, NO_LANDLOCK]) else { return };
    let end = end.expect(2);
    assert_eq!((end.text().as_str(), end.err.lines().count()), ("", 1), "{}", end.err);
    assert!(end.err.contains("neither") && end.err.contains("--no-jail"), "{}", end.err);
}

// ---------------------------------------------------------------- attempts

/// What code that a guest has taken over would do next.
fn attempt(what: &str) {
    match what {
        "run a program" => {
            let nothing = [std::ptr::null()];
            // SAFETY: a string, and two empty lists that end with a null pointer.
            unsafe { libc::execve(c"/bin/true".as_ptr(), nothing.as_ptr(), nothing.as_ptr()) };
        }
        "write a file" => drop(File::create("/tmp/hv-jail-attempt")),
        "listen" => drop(std::net::TcpListener::bind("127.0.0.1:0")),
        "execute memory" => {
            // SAFETY: a new mapping, which nothing refers to.
            unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
        }
        "signal a process" => {
            // SAFETY: no memory is passed; signal 0 only asks.
            unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
        }
        "look into a process" => {
            // SAFETY: no memory is passed.
            unsafe { libc::ptrace(libc::PTRACE_ATTACH, libc::getppid(), 0, 0) };
        }
        other => panic!("no such attempt: {other}"),
    }
}

/// A console that its guest's output takes over.
struct TakenOver(String);

impl Output for TakenOver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        attempt(&self.0);
        Ok(bytes.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// A network that its guest's frames take over.
struct Wire(String);

impl Network for Wire {
    fn config(&self) -> NetConfig {
        NetConfig { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, ..NetConfig::default() }
    }

    fn start(&mut self, _: hv::reactor::Registrar) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _: &[u8], _: Instant) {
        attempt(&self.0);
    }

    fn ready(&mut self, _: u32, _: &mio::event::Event) {}

    fn poll(&mut self, _: Instant) -> Option<Instant> {
        None
    }

    fn receive(&mut self, _: &mut dyn FnMut(&[u8]) -> bool) {}
}

/// Not a test of its own: the process that the tests below start, jailed, with a device that a guest takes over.
#[test]
#[ignore = "is started by other tests"]
fn a_process_that_is_taken_over() {
    let Ok(orders) = std::env::var("HV_JAIL_ATTEMPT") else { return };
    let (kind, what) = orders.split_once(": ").unwrap();
    let platform = KvmPlatform::new().unwrap();
    let image = |name: &str| Arc::new(Image::open(&guest(name)).unwrap());
    let output = TakenOver(what.into());
    let builder = match kind {
        "io" => Builder::new(image("udp-echo")).memory(16 << 20).network(Box::new(Wire(what.into())), None),
        _ => Builder::new(image("hello")).output(output),
    };
    jail::jail(Plan {
        main: Kind::Run,
        platform: jail::Platform::Kvm,
        late: false,
        shares: false,
        places: vec![],
    })
    .unwrap();
    let engine = Engine::new(platform, usize::from(kind == "cpu")).unwrap();
    let guest = builder.spawn(&engine).unwrap();
    jail::enter(Kind::Run);
    guest.wait();
    println!("nobody has stopped it");
}

/// Starts the process above in this very program.
fn taken_over(orders: &str) -> Finished {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "a_process_that_is_taken_over",
        "--ignored",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    Running::new(command.env("HV_JAIL_ATTEMPT", orders)).finish()
}

#[track_caller]
fn stopped(kind: &str, what: &str, call: &str) {
    // Built beforehand, if need be: there is no cargo in a jail.
    let _ = (guest("hello"), guest("udp-echo"));
    let end = taken_over(&format!("{kind}: {what}")).expect(i32::from(jail::EXIT));
    let line = end.err.lines().find(|line| line.starts_with("hv: jail: ")).expect(&end.err);
    assert!(line.contains(&format!("of kind `{kind}` tried {call}(")), "{line}");
    assert!(!end.text().contains("nobody has stopped it"), "{}", end.text());
}

#[guest_test(kvm, "the process that is taken over makes a virtual machine")]
fn a_guests_output_that_turns_into_something_else_is_stopped_and_reported(_: Platform) {
    for kind in ["run", "cpu"] {
        stopped(kind, "run a program", "execve");
        stopped(kind, "write a file", "openat");
        stopped(kind, "listen", "socket");
        stopped(kind, "execute memory", "mmap");
        stopped(kind, "look into a process", "getppid");
        stopped(kind, "signal a process", "tgkill");
    }
}

#[guest_test(kvm, "the process that is taken over makes a virtual machine")]
fn a_guests_frame_that_turns_into_something_else_is_stopped_and_reported(_: Platform) {
    stopped("io", "run a program", "execve");
    stopped("io", "write a file", "openat");
    stopped("io", "execute memory", "mmap");
}

/// Not a test of its own: a thread that serves no guest, and tries what it may not.
#[test]
#[ignore = "is started by another test"]
fn a_thread_apart_that_tries() {
    let Some(times) = std::env::var("HV_JAIL_APART").ok().and_then(|times| times.parse().ok()) else {
        return;
    };
    jail::jail(Plan {
        main: Kind::Serve,
        platform: jail::Platform::Kvm,
        late: false,
        shares: false,
        places: vec![],
    })
    .unwrap();
    jail::enter(Kind::Deploy);
    for _ in 0..times {
        let error = std::env::current_dir().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
    println!("it goes on");
}

#[test]
fn a_thread_apart_from_guests_is_refused_some_times() {
    let tried = |times: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "a_thread_apart_that_tries",
            "--ignored",
            "--nocapture",
            "--test-threads",
            "1",
        ]);
        Running::new(command.env("HV_JAIL_APART", times)).finish()
    };
    let end = tried("1").expect(0);
    assert!(end.text().contains("it goes on"), "{}", end.text());
    let line = end.err.lines().find(|line| line.starts_with("hv: jail: ")).expect(&end.err);
    assert!(
        line.contains("`deploy` tried getcwd(") && line.ends_with("it is refused, and hv goes on"),
        "{line}"
    );
    let end = tried("100").expect(i32::from(jail::EXIT));
    assert_eq!(end.err.matches("it is refused").count(), 16, "{}", end.err);
    assert!(end.err.contains("hv has ended") && !end.text().contains("it goes on"), "{}", end.err);
}

/// Not a test of its own: a process that may open files, of one folder.
#[test]
#[ignore = "is started by another test"]
fn a_process_that_opens_files() {
    let Ok(folder) = std::env::var("HV_JAIL_FOLDER") else { return };
    let folder = Path::new(&folder);
    let places = vec![Place { path: folder.join("named"), usage: Use::Read }];
    let missing = jail::jail(Plan {
        main: Kind::Serve,
        platform: jail::Platform::Kvm,
        late: false,
        shares: false,
        places,
    })
    .unwrap();
    if missing.contains(&Missing::Landlock) {
        hv_tests::skip("needs Landlock");
        return;
    }
    jail::enter(Kind::Deploy);
    assert_eq!(fs::read_to_string(folder.join("named/file")).unwrap(), "named");
    for path in ["other", "named/../other", "named/link", "/etc/passwd"] {
        let error = fs::read_to_string(folder.join(path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{path}: {error}");
    }
    println!("all refused");
}

#[test]
fn files_that_nobody_named_stay_closed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("named")).unwrap();
    fs::write(folder.path().join("named/file"), "named").unwrap();
    fs::write(folder.path().join("other"), "secret").unwrap();
    std::os::unix::fs::symlink("../other", folder.path().join("named/link")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "a_process_that_opens_files",
        "--ignored",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    let end = Running::new(command.env("HV_JAIL_FOLDER", folder.path())).finish().expect(0);
    assert!(end.text().contains("all refused") || end.text().contains("skipped"), "{}", end.text());
    println!("{}", end.text());
}

#[guest_test]
fn a_guest_that_crashes_before_it_is_saved_is_told_of(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = platform.command();
    command.arg("snapshot").arg(guest("crash")).arg("-o").arg(folder.path().join("snap"));
    let end = Running::new(command.args(["--", "null"])).finish().expect(2);
    assert!(end.err.contains("crashed before it was saved"), "{}", end.err);
}

/// A doorbell that rings often is bound, which takes calls that a worker makes at no other time.
#[guest_test]
fn a_function_that_prints_much_at_its_boot_is_refused_for_what_it_is(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hv.toml");
    let function = format!(
        "listen = \"127.0.0.1:0\"\n[function.lines]\npath = \"/*\"\nimage = {:?}\nargs = [\"lines\", \"100000\"]\n",
        guest("probe")
    );
    fs::write(&config, function).unwrap();
    let end = Running::new(platform.command().arg("serve").arg("--config").arg(&config)).finish().expect(2);
    assert!(end.err.contains("ended before it was ready"), "{}", end.err);
}

#[guest_test]
fn a_function_that_prints_often_answers_on(platform: Platform) {
    let serve =
        Serve::start(platform, &probe("isolation = \"instance\"\nconsole = \"log\"\nconcurrency = 1"));
    let mut client = serve.client();
    for _ in 0..100 {
        client.ask("GET", "/print?text=often", "", b"").unwrap().expect(200);
    }
    serve.end();
}

#[guest_test]
fn a_reload_reads_no_folder_that_was_not_named_before(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    // Beside what it has: where temporary files are, of which this server makes none.
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("fn-hello");
    fs::copy(guest("fn-hello"), &copy).unwrap();
    serve.reload(&format!("[function.hello]\npath = \"/*\"\nimage = {copy:?}\n"));
    let said = serve.said("restart it", 1);
    if !said.contains("Permission denied") {
        hv_tests::skip("needs Landlock");
        return;
    }
    assert!(said.contains(copy.to_str().unwrap()), "{said}");
    // What was served before is still served.
    serve.get("/ok").expect(200);
    serve.reload("[function.hello]\npath = \"/*\"\nimage = \"fn-hello\"\n");
    serve.said("builds no guests", 1);
    serve.end();
}

#[guest_test]
fn a_server_without_overlays_and_folders_takes_none_at_a_reload(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    fs::write(serve.folder().join("o.img"), vec![7; 1 << 20]).unwrap();
    serve.reload(&probe("disks = \"o.img,overlay\""));
    let said = serve.said("restart it", 1);
    assert!(said.contains("o.img") && said.contains("takes a temporary file"), "{said}");
    serve.reload(&probe("disks = \"o.img,ro\""));
    serve.said("reloaded", 1);
    serve.get("/ok").expect(200);
    serve.end();
}

#[guest_test]
fn segments_of_the_guest_before_are_gone(platform: Platform) {
    let serve = Serve::start(platform, &probe("concurrency = 1"));
    let mut client = serve.client();
    // Each resets the machine of the other.
    for _ in 0..10 {
        client.ask("GET", "/segments", "", b"").unwrap().expect(200);
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    serve.end();
}

#[guest_test]
fn a_disk_an_overlay_and_a_folder_work_in_the_jail(platform: Platform) {
    let end =
        platform.ran("hello", &["--disk", env!("CARGO_MANIFEST_DIR"), "--timeout", "60"], &[]).expect(0);
    assert_eq!(end.err, "");
}
