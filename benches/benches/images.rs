//! Disks in qcow2 images against raw disks in hv, and against `qemu-img bench` and `qemu-img convert` on the same files.

use hv::device::block::{Disk, DiskSpec};
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::suite::Suite;
use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE: u64 = 256 << 20;

/// A way to use a disk.
#[derive(Clone, Copy)]
struct Pattern {
    what: &'static str,
    kind: &'static str,
    size: usize,
    depth: usize,
    count: usize,
    reach: &'static str,
}

const PATTERNS: [Pattern; 3] = [
    Pattern {
        what: "random 4 KiB read, depth 32",
        kind: "random",
        size: 4096,
        depth: 32,
        count: 100_000,
        reach: "0.85 x the speed",
    },
    Pattern {
        what: "random 4 KiB write, depth 32",
        kind: "random-write",
        size: 4096,
        depth: 32,
        count: 50_000,
        reach: "0.8 x the speed",
    },
    Pattern {
        what: "sequential 1 MiB read, depth 4",
        kind: "sequential",
        size: 1 << 20,
        depth: 4,
        count: 1024,
        reach: "0.95 x the speed",
    },
];

/// What the guest measured for one request.
fn in_guest(engine: &Engine, image: &Arc<Image>, file: &Path, pattern: &Pattern) -> Duration {
    let output = Buffer::default();
    let guest = Builder::new(image.clone())
        .memory(64 << 20)
        .argument(pattern.kind)
        .argument(&pattern.size.to_string())
        .argument(&pattern.depth.to_string())
        .argument(&pattern.count.to_string())
        .disk(Disk::open(&DiskSpec::new(file)).expect("the file can be opened"))
        .output(output.clone())
        .spawn(engine)
        .expect("the guest starts");
    let outcome = guest.wait();
    assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?} {}", output.text());
    Duration::from_nanos(output.text().trim().parse().expect("a number"))
}

/// `qemu-img bench` in the same way: the places of its requests are a long stride apart, which covers the disk as random ones do.
fn by_qemu(file: &Path, pattern: &Pattern) -> Duration {
    let step = if pattern.kind.starts_with("random") { 9973 * pattern.size } else { pattern.size };
    let mut bench = Command::new("qemu-img");
    bench.args(["bench", "-f", "qcow2", "-t", "writeback", "-i", "io_uring"]);
    bench.args(["-c", &pattern.count.to_string(), "-d", &pattern.depth.to_string()]);
    bench.args(["-s", &pattern.size.to_string(), "-S", &step.to_string()]);
    if pattern.kind.ends_with("-write") {
        bench.arg("-w");
    }
    let output = bench.arg(file).stderr(Stdio::inherit()).output().expect("qemu-img runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "Run completed in 1.234 seconds."
    let seconds = text.split("completed in ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: f64 = seconds.and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    Duration::from_secs_f64(seconds / pattern.count as f64)
}

/// The time of a command.
fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).status().expect("the command runs");
    assert!(status.success(), "{command:?}");
    start.elapsed()
}

/// A raw file whose first half has data, and the same as an image whose clusters all have their places.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn make() -> Self {
        let folder = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("room for the files");
        let files = Files { folder };
        let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let bytes: Vec<u8> = (0..FILE >> 20).flat_map(|_| chunk.iter().copied()).collect();
        std::fs::write(files.raw(), bytes).expect("room for the files");
        timed(
            Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", "qcow2"])
                .arg(files.raw())
                .arg(files.image()),
        );
        timed(&mut Command::new("sync"));
        files
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2")
    }

    /// Converts the raw file to an image and back with a program.
    fn convert(&self, program: &Path, arguments: &[&str], to_image: &[&str], to_raw: &[&str]) -> Duration {
        let (there, back) = (self.folder.path().join("there.qcow2"), self.folder.path().join("back.img"));
        for file in [&there, &back] {
            let _ = std::fs::remove_file(file);
        }
        let run = |options: &[&str], from: &Path, to: &Path| {
            timed(Command::new(program).args(arguments).args(options).arg(from).arg(to))
        };
        run(to_image, &self.raw(), &there) + run(to_raw, &there, &back)
    }
}

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    if !hv_tests::has_tools(&["qemu-img"]) {
        return ExitCode::SUCCESS;
    }
    let engine = LazyCell::new(|| {
        Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made")
    });
    let image = LazyCell::new(|| Arc::new(Image::open(&hv_tests::guest("reads")).expect("it is an image")));
    let files = LazyCell::new(Files::make);
    for pattern in &PATTERNS {
        let raw = || in_guest(&engine, &image, &files.raw(), pattern);
        let qcow2 = || in_guest(&engine, &image, &files.image(), pattern);
        let what = format!("qcow2 against raw, {}", pattern.what);
        suite.pair(&what, 9, raw, qcow2, |ratio| ratio.print_speed(&what, pattern.reach));
        let what = format!("qcow2 against qemu-img bench, {}", pattern.what);
        let qemu = || by_qemu(&files.image(), pattern);
        suite.pair(&what, 9, qemu, qcow2, |ratio| ratio.print_speed(&what, "1.0 x the speed"));
    }
    let what = "convert raw to qcow2 to raw against qemu-img convert, 256 MiB";
    let qemu = || {
        files.convert(
            Path::new("qemu-img"),
            &["convert"],
            &["-f", "raw", "-O", "qcow2"],
            &["-f", "qcow2", "-O", "raw"],
        )
    };
    let ours = || files.convert(hv_tests::hv(), &["disk", "convert"], &[], &[]);
    suite.pair(what, 5, qemu, ours, |ratio| ratio.print_speed(what, "1.0 x the speed"));
    suite.end()
}
