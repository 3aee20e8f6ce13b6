//! Hosts that lack something: hv says what, what still works, and the remedy; and `hv doctor`
//! finds the same. Each lack really happens here, to one process of hv.

use hv_tests::refusal::{finished, refused};
use hv_tests::snapshot::{folder, restore, save};
use hv_tests::{Finished, Platform, command, guest, guest_test, hv_as_ordinary_user};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde_json::Value;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs something in the new process before it becomes hv.
fn before(mut command: Command, what: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Command {
    // SAFETY: what is run makes system calls and nothing else: the tests give nothing that takes a lock.
    unsafe { command.pre_exec(what) };
    command
}

/// As a stricter container has it: these calls fail, each if its rules say so (no rules: always).
fn forbidding(command: Command, errno: i32, calls: &[(i64, Vec<SeccompRule>)]) -> Command {
    let (allow, fail) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let rules = calls.iter().cloned().collect();
    let filter = SeccompFilter::new(rules, allow, fail, TargetArch::x86_64).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    before(command, move || seccompiler::apply_filter(&program).map_err(|_| io::ErrorKind::Other.into()))
}

/// clone(2) with a new user namespace.
fn new_user_namespace() -> Vec<SeccompRule> {
    let flag = libc::CLONE_NEWUSER as u64;
    let masked = SeccompCmpOp::MaskedEq(flag);
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, masked, flag).unwrap();
    vec![SeccompRule::new(vec![condition]).unwrap()]
}

/// With a limit.
fn limited(command: Command, resource: libc::__rlimit_resource_t, limit: u64) -> Command {
    before(command, move || {
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the limit lives until the call returns.
        match unsafe { libc::setrlimit(resource, &limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

/// `hv run hello --platform …`, not yet started.
fn hello_on(platform: &str) -> Command {
    let mut command = command();
    command.arg("run").arg(guest("hello")).args(["--platform", platform]);
    command
}

fn process() -> Command {
    hello_on("process")
}

/// The guest ran, and hv said one line with these parts.
#[track_caller]
fn runs_with(mut command: Command, parts: &[&str]) -> Finished {
    let end = finished(&mut command).expect(0);
    assert!(end.text().contains("Hello"), "{}", end.text());
    assert!(end.err.starts_with("hv: ") && end.err.lines().count() == 1, "one line:\n{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part:?} in: {}", end.err);
    }
    end
}

/// What `hv doctor` finds.
struct Diagnosis {
    code: i32,
    report: Value,
}

impl Diagnosis {
    #[track_caller]
    fn of(make: impl FnOnce(Command) -> Command) -> Diagnosis {
        let mut doctor = command();
        doctor.args(["doctor", "--format", "json"]);
        let end = finished(&mut make(doctor));
        assert_eq!(end.err, "");
        let code = end.code().expect("doctor ends by itself");
        let report: Value = serde_json::from_slice(&end.out).expect("it is JSON");
        assert_eq!(report["can_run"], code == 0);
        Diagnosis { code, report }
    }

    #[track_caller]
    fn finding(&self, name: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["name"] == name).unwrap()
    }

    /// Expects that a finding is so, and that its remedy says this.
    #[track_caller]
    fn expect(&self, name: &str, state: &str, remedy: &str) {
        let finding = self.finding(name);
        assert_eq!(finding["state"], state, "{finding}");
        assert!(finding["remedy"].as_str().unwrap_or("").contains(remedy), "{finding}");
    }
}

#[test]
fn the_table_has_a_line_for_everything() {
    let end = finished(command().arg("doctor"));
    let text = end.text();
    for name in
        ["kvm", "process", "platform-auto", "io-uring", "tap", "user-namespaces", "open-files", "memory"]
    {
        assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name} in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours without a terminal");
    assert!(
        text.contains(if end.code() == Some(0) { "Guests can run" } else { "Guests cannot run" }),
        "{text}"
    );
}

#[test]
fn doctor_and_platform_agree() {
    let diagnosis = Diagnosis::of(|doctor| doctor);
    assert_eq!(Platform::Kvm.choose().is_ok(), diagnosis.finding("kvm")["state"] != "missing");
    if diagnosis.finding("process")["state"] != "missing" {
        finished(&mut process()).expect(0);
        assert!(diagnosis.finding("process")["figures"]["hypercall_ns"].as_u64().unwrap() > 0);
    }
}

#[test]
fn no_user_namespaces() {
    let forbid = |command| forbidding(command, libc::EPERM, &[(libc::SYS_clone, new_user_namespace())]);
    runs_with(
        forbid(process()),
        &["no namespaces", "forbidden", "system-call filter confines them", "user.max_user_namespaces"],
    );
    let diagnosis = Diagnosis::of(forbid);
    assert_eq!(diagnosis.code, 0);
    diagnosis.expect("user-namespaces", "weaker", "CLONE_NEWUSER");
    diagnosis.expect("process", "weaker", "user-namespaces");
}

#[test]
fn no_more_user_namespaces() {
    let forbid = |command| forbidding(command, libc::ENOSPC, &[(libc::SYS_clone, new_user_namespace())]);
    runs_with(forbid(process()), &["user.max_user_namespaces is reached"]);
}

#[test]
fn no_system_call_filters() {
    for errno in [libc::EINVAL, libc::ENOSYS, libc::EPERM] {
        let forbid = |command| {
            forbidding(command, errno, &[(libc::SYS_seccomp, Vec::new()), (libc::SYS_prctl, Vec::new())])
        };
        refused(&mut forbid(process()), &["seccomp", "would not be confined", "--platform kvm"]);
        let diagnosis = Diagnosis::of(forbid);
        diagnosis.expect("seccomp", "missing", "CONFIG_SECCOMP_FILTER");
        diagnosis.expect("process", "missing", "CONFIG_SECCOMP_FILTER");
    }
}

#[test]
fn stricter_filters_of_containers() {
    for (call, name) in [
        (libc::SYS_execveat, "execveat"),
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_pidfd_open, "pidfd_open"),
        (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    ] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let forbid = |command| forbidding(command, errno, &[(call, Vec::new())]);
            refused(&mut forbid(process()), &["forbids", name, "seccomp policy", "--platform kvm"]);
            Diagnosis::of(forbid).expect("process", "missing", "seccomp policy");
        }
    }
}

/// Clones cannot share their template then, and have copies.
#[test]
fn no_userfaultfd() {
    let (_kept, path) = folder();
    save(Platform::Process, "memory", &path, &["--memory", "256M"], &["clone", "32"]);
    for errno in [libc::EPERM, libc::ENOSYS] {
        let restore = restore(Platform::Process, &path, &["--timeout", "100s"]);
        let mut restore = forbidding(restore, errno, &[(libc::SYS_userfaultfd, Vec::new())]);
        assert_eq!(finished(&mut restore).expect(0).text(), "freed\ndone\n");
    }
}

#[test]
fn no_io_uring() {
    let forbid = |command| forbidding(command, libc::EPERM, &[(libc::SYS_io_uring_setup, Vec::new())]);
    Diagnosis::of(forbid).expect("io-uring", "slower", "io_uring_disabled");
}

#[test]
fn no_programs_in_memory() {
    let setting = |value: &str| {
        let mut shell = Command::new("unshare");
        let script = "echo $0 > /proc/sys/vm/memfd_noexec && exec \"$@\"";
        shell.args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            script,
            value,
        ]);
        shell.arg(hv_tests::hv()).arg("run").arg(guest("hello")).args(["--platform", "process"]);
        shell
    };
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c"])
        .arg("echo 2 > /proc/sys/vm/memfd_noexec")
        .output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        hv_tests::skip("needs the right to set vm.memfd_noexec of a PID namespace");
        return;
    }
    // What the kernel says beside that a program has no flag is no line of hv's.
    finished(&mut setting("1")).expect(0);
    refused(&mut setting("2"), &["programs in memory files", "sysctl vm.memfd_noexec=1"]);
}

#[test]
fn few_processes() {
    let image = guest("hello");
    let image = image.to_str().unwrap();
    let arguments = ["run", image, "--platform", "process"];
    let Some(command) = hv_as_ordinary_user(&arguments) else { return };
    refused(&mut limited(command, libc::RLIMIT_NPROC, 1), &["processes", "ulimit -u"]);
    // Threads and guests count as well: whichever is too many, it is said in one line.
    for limit in 2..12 {
        let Some(command) = hv_as_ordinary_user(&arguments) else { return };
        let mut command = limited(command, libc::RLIMIT_NPROC, limit);
        let end = finished(&mut command);
        assert!(
            end.code() == Some(0) || end.code() == Some(2) && end.err.contains("ulimit -u"),
            "with {limit} processes: {:?}\n{}",
            end.code(),
            end.err
        );
    }
}

#[guest_test]
fn few_descriptors(platform: Platform) {
    let mut ran = 0;
    // With 3, the host cannot even load the program.
    for limit in 4..40 {
        let end = finished(&mut limited(hello_on(platform.name()), libc::RLIMIT_NOFILE, limit));
        ran += u32::from(end.code() == Some(0));
        // Beside warnings of its log.
        let errors = end.err.lines().filter(|line| line.starts_with("hv: ")).count();
        assert!(
            end.code() == Some(0) || end.code() == Some(2) && end.err.contains("ulimit -n") && errors == 1,
            "with {limit} descriptors: {:?}\n{}",
            end.code(),
            end.err
        );
    }
    assert!(ran > 0, "40 descriptors are enough");
}

#[test]
fn few_descriptors_are_diagnosed() {
    let few = Diagnosis::of(|doctor| limited(doctor, libc::RLIMIT_NOFILE, 90));
    few.expect("open-files", "missing", "LimitNOFILE=");
}
