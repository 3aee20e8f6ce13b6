//! Reading a disk from a guest against the host's own io_uring on the same file.

use criterion::{Criterion, criterion_group, criterion_main};
use hv::device::block::{Disk, DiskSpec};
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::host_io::{Access, read_file};
use hv_benches::pair::compare;
use std::io::Write;
use std::path::Path;
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

fn benches(criterion: &mut Criterion) {
    let engine = Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made");
    let image = Arc::new(Image::open(&hv_tests::guest("reads")).expect("it is an image"));
    // Beside the build, since a temporary file system may refuse O_DIRECT.
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("room for the file");
    let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    (0..FILE >> 20).for_each(|_| file.write_all(&chunk).expect("room for the file"));
    file.as_file().sync_all().expect("the file can be written");

    for pattern in &PATTERNS {
        let host = || read_file(file.path(), FILE, pattern.access, pattern.count);
        let ratio = compare(9, host, || in_guest(&engine, &image, file.path(), pattern));
        ratio.print_speed(pattern.what, pattern.reach);
    }
    let pattern = &PATTERNS[1];
    let mut group = criterion.benchmark_group("block");
    group.sample_size(10);
    group.bench_function("host io_uring, random 4 KiB", |b| {
        b.iter_custom(|n| read_file(file.path(), FILE, pattern.access, pattern.count).mul_f64(n as f64));
    });
    group.bench_function("guest, random 4 KiB", |b| {
        b.iter_custom(|n| in_guest(&engine, &image, file.path(), pattern).mul_f64(n as f64));
    });
    group.finish();
}

criterion_group!(block_benches, benches);
criterion_main!(block_benches);
