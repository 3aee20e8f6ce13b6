//! Reading a disk from a guest against the host's own io_uring on the same file.

use hv::device::block::{Disk, DiskSpec};
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::host_io::{Access, read_file};
use hv_benches::suite::Suite;
use std::cell::LazyCell;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const FILE: u64 = 256 << 20;

/// A way to read.
#[derive(Clone, Copy)]
struct Pattern {
    what: &'static str,
    reach: &'static str,
    access: Access,
    count: usize,
}

const PATTERNS: [Pattern; 4] = [
    Pattern {
        what: "sequential 1 MiB, depth 4, cached",
        reach: "0.85 x the speed",
        access: Access { random: false, direct: false, size: 1 << 20, depth: 4 },
        count: 1024,
    },
    Pattern {
        what: "random 4 KiB, depth 32, cached",
        reach: "0.6 x the speed",
        access: Access { random: true, direct: false, size: 4096, depth: 32 },
        count: 100_000,
    },
    Pattern {
        what: "sequential 1 MiB, depth 4, O_DIRECT",
        reach: "0.85 x the speed",
        access: Access { random: false, direct: true, size: 1 << 20, depth: 4 },
        count: 256,
    },
    Pattern {
        what: "random 4 KiB, depth 32, O_DIRECT",
        reach: "0.6 x the speed",
        access: Access { random: true, direct: true, size: 4096, depth: 32 },
        count: 10_000,
    },
];

/// What the guest measured for one read.
fn in_guest(engine: &Engine, image: &Arc<Image>, file: &Path, pattern: &Pattern) -> Duration {
    let Access { random, direct, size, depth } = pattern.access;
    let mut spec = DiskSpec::new(file);
    spec.direct = direct;
    spec.read_only = true;
    let output = Buffer::default();
    let guest = Builder::new(image.clone())
        .memory(64 << 20)
        .argument(if random { "random" } else { "sequential" })
        .argument(&size.to_string())
        .argument(&depth.to_string())
        .argument(&pattern.count.to_string())
        .disk(Disk::open(&spec).expect("the file can be opened"))
        .output(output.clone())
        .spawn(engine)
        .expect("the guest starts");
    let outcome = guest.wait();
    assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?} {}", output.text());
    Duration::from_nanos(output.text().trim().parse().expect("a number"))
}

/// A file of random-looking bytes, beside the build, since a temporary file system may refuse O_DIRECT.
fn made() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("room for the file");
    let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    (0..FILE >> 20).for_each(|_| file.write_all(&chunk).expect("room for the file"));
    file.as_file().sync_all().expect("the file can be written");
    file
}

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    // Nothing is made before it is known that it is needed.
    let engine = LazyCell::new(|| {
        Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made")
    });
    let image = LazyCell::new(|| Arc::new(Image::open(&hv_tests::guest("reads")).expect("it is an image")));
    let file = LazyCell::new(made);
    let host = |pattern: &Pattern| read_file(file.path(), FILE, pattern.access, pattern.count);
    let guest = |pattern: &Pattern| in_guest(&engine, &image, file.path(), pattern);
    for pattern in &PATTERNS {
        suite.pair(
            pattern.what,
            9,
            || host(pattern),
            || guest(pattern),
            |ratio| ratio.print_speed(pattern.what, pattern.reach),
        );
    }
    suite.criterion(|criterion| {
        // What both measure is the time of one read.
        let pattern = Pattern { count: 10_000, ..PATTERNS[1] };
        let mut group = criterion.benchmark_group("block");
        group.sample_size(10);
        let all = |one: Duration| one * pattern.count as u32;
        group.bench_function("host io_uring, 10000 random reads of 4 KiB", |b| {
            b.iter_custom(|n| (0..n).map(|_| all(host(&pattern))).sum());
        });
        group.bench_function("guest, 10000 random reads of 4 KiB", |b| {
            b.iter_custom(|n| (0..n).map(|_| all(guest(&pattern))).sum());
        });
        group.finish();
    });
    suite.end()
}
