//! What guests have used, as hv counts it, beside what the kernel and the guests' users count.

use hv::device::stdio::Buffer;
use hv::{Builder, Image, Outcome};
use hv_tests::{Platform, Running, Service, eventually, guest, guest_test, skip};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A control group of the kernel that counts CPU time.
struct Group {
    folder: PathBuf,
    /// The file with the count, what the line with it begins with, and its unit in nanoseconds.
    count: (&'static str, &'static str, u64),
}

impl Group {
    /// A new group below this process' own; `None`, and a reason, if the host lets it make none.
    fn new(platform: Platform) -> Option<Group> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let lines = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        });
        for (controllers, path) in lines {
            let (root, count) = match controllers {
                "" => ("/sys/fs/cgroup", ("cpu.stat", "usage_usec ", 1000)),
                _ if controllers.contains("cpuacct") => ("/sys/fs/cgroup/cpuacct", ("cpuacct.usage", "", 1)),
                _ => continue,
            };
            let name = format!("hv-test-{}-{platform}", std::process::id());
            let folder = Path::new(&format!("{root}{path}")).join(name);
            if fs::create_dir(&folder).is_ok() {
                let group = Group { folder, count };
                if group.nanos().is_some() {
                    return Some(group);
                }
            }
        }
        skip("needs a control group that counts CPU time");
        None
    }

    /// CPU time of all processes that were in it.
    fn nanos(&self) -> Option<u64> {
        let (file, beginning, unit) = self.count;
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        let number = text.lines().find_map(|line| line.strip_prefix(beginning))?;
        Some(number.trim().parse::<u64>().ok()? * unit)
    }

    /// The same command, run in the group.
    fn run(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that have ended leave it a moment later.
        eventually("an empty group", || fs::remove_dir(&self.folder).ok());
    }
}

const STATS: [&str; 3] = ["--stats", "--format", "json"];

/// The statistics at the end of what hv has written on standard error.
fn stats(errors: &str) -> Value {
    let line = errors.lines().find(|line| line.starts_with('{')).expect("statistics");
    serde_json::from_str::<Value>(line).unwrap()["stats"].clone()
}

fn moved(stats: &Value, device: &str, figure: &str) -> u64 {
    stats["devices"][device][figure].as_u64().unwrap_or_else(|| panic!("{device}, {figure}: {stats}"))
}

#[guest_test]
fn cpu_seconds_are_those_of_the_kernel(platform: Platform) {
    for vcpus in ["1", "2"] {
        let Some(group) = Group::new(platform) else { return };
        let options = [&STATS[..], &["--vcpus", vcpus]].concat();
        let command = platform.run("compute", &options, &["3000", "64"]);
        let end = Running::new(&mut group.run(&command)).finish().expect(0);
        let told = &stats(&end.err)["cpu_ns"];
        let told = told["vcpu"].as_u64().unwrap() + told["device"].as_u64().unwrap();
        // All processes of hv have ended when this one has, or do so now.
        let used = group.nanos().unwrap();
        println!("{platform}, {vcpus} virtual CPUs: told {told} ns, used {used} ns");
        // Starting hv is part of the second figure.
        assert!(told <= used / 100 * 101 && told >= used / 100 * 95, "told {told} ns, used {used} ns");
    }
}

#[guest_test]
fn the_console_is_counted(platform: Platform) {
    let mut echo = Running::new(platform.run("echo", &STATS, &[]).stdin(Stdio::piped()));
    echo.child.stdin.take().unwrap().write_all(&[b'x'; 10_000]).unwrap();
    let end = echo.finish().expect(0);
    let stats = stats(&end.err);
    assert_eq!(moved(&stats, "console", "bytes_in"), 10_000);
    assert_eq!(moved(&stats, "console", "bytes_out"), end.out.len() as u64);
    assert!(moved(&stats, "console", "operations_in") >= 1);
    assert!(moved(&stats, "console", "operations_out") >= 1);
}

#[guest_test]
fn disks_are_counted_and_their_threads(platform: Platform) {
    const SIZE: u64 = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let disk = disk.to_str().unwrap();
    fs::File::create(disk).unwrap().set_len(SIZE).unwrap();
    for on_threads in [false, true] {
        let ran = |arguments: &[&str]| {
            let mut command = platform.run("disk", &[&STATS[..], &["--disk", disk]].concat(), arguments);
            command.env("HV_NO_IO_URING", if on_threads { "1" } else { "0" });
            stats(&Running::new(&mut command).finish().expect(0).err)
        };
        let (filled, checked) = (ran(&["7"]), ran(&["check", "7"]));
        assert!(moved(&filled, "block", "bytes_out") >= SIZE, "{filled}");
        assert!(moved(&checked, "block", "bytes_in") >= SIZE, "{checked}");
        assert_eq!(moved(&checked, "block", "bytes_out"), 0);
        for stats in [filled, checked] {
            assert!(stats["cpu_ns"]["device"].as_u64().unwrap() > 0, "{stats}");
        }
    }
}

#[guest_test]
fn frames_are_counted(platform: Platform) {
    let echo = Service::start(platform, "udp-echo", &STATS, "7/udp");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", echo.port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    eventually("an answer", || {
        socket.send(&[1; 1000]).ok()?;
        socket.recv(&mut [0; 2000]).ok()
    });
    echo.guest.signal(libc::SIGTERM);
    let stats = stats(&echo.guest.finish().expect(0).err);
    for direction in ["in", "out"] {
        assert!(moved(&stats, "net", &format!("operations_{direction}")) >= 1, "{stats}");
        // With the heads of frame, packet and datagram.
        assert!(moved(&stats, "net", &format!("bytes_{direction}")) >= 1000 + 14 + 20 + 8, "{stats}");
    }
}

#[guest_test]
fn memory_counts_for_as_long_as_the_guest_lives(platform: Platform) {
    let engine = platform.engine(1);
    let image = Image::open(&guest("late")).unwrap();
    let (output, begin) = (Buffer::new(1 << 20), Instant::now());
    let late = Builder::new(image).output(output).argument("20").argument("20000").spawn(&engine).unwrap();
    let controller = late.controller();
    let (mut last, mut most) = (0, 0);
    while late.outcome().is_none() {
        let usage = controller.usage().unwrap();
        most = most.max(usage.resident_memory);
        assert!(usage.memory_byte_nanos >= last, "{last}, {usage:?}");
        last = usage.memory_byte_nanos;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(matches!(late.wait(), Outcome::Exited(0)));
    let usage = late.usage();
    most = most.max(usage.resident_memory);
    assert!(usage.memory_byte_nanos > last && last > 0);
    // Never more than the most that was there, all of the time.
    assert!(usage.memory_byte_nanos <= u128::from(most) * begin.elapsed().as_nanos());
    // What has ended uses nothing more.
    assert_eq!(late.usage(), usage);
    drop(late);
    assert_eq!(controller.usage(), None);
}
