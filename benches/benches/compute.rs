//! Work for the processor alone: in a guest against the same code in this process.

use criterion::{Criterion, criterion_group, criterion_main};
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::pair::compare;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

extern crate alloc;

/// The very code that the guest runs.
#[allow(unreachable_pub, unused_imports, reason = "a module of a library, with tests that do not run here")]
#[path = "../../guest-examples/src/compute.rs"]
mod compute;

const MIB: usize = 64;
const ROWS: usize = 384;

/// A part of the work.
#[derive(Clone, Copy)]
enum Part {
    Hash,
    Matrix,
}

fn on_host(part: Part) -> Duration {
    let start = Instant::now();
    match part {
        Part::Hash => drop(black_box(compute::digest(black_box(MIB)))),
        Part::Matrix => drop(black_box(compute::matrix(black_box(ROWS)))),
    }
    start.elapsed()
}

/// What the guest measured.
fn in_guest(engine: &Engine, image: &Arc<Image>, part: Part) -> Duration {
    let output = Buffer::default();
    let (mib, rows) = match part {
        Part::Hash => (MIB, 0),
        Part::Matrix => (0, ROWS),
    };
    let guest = Builder::new(image.clone())
        .argument(&mib.to_string())
        .argument(&rows.to_string())
        .output(output.clone())
        .spawn(engine)
        .expect("the guest starts");
    assert!(matches!(guest.wait(), Outcome::Exited(0)));
    let text = output.text();
    let times = text.lines().find_map(|line| line.strip_prefix("time: ")).expect("the guest prints times");
    let mut micros = times.split(' ').filter_map(|word| word.parse::<u64>().ok());
    let time = match part {
        Part::Hash => micros.next(),
        Part::Matrix => micros.nth(1),
    };
    Duration::from_micros(time.expect("two times"))
}

fn benches(criterion: &mut Criterion) {
    let engine = Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made");
    let image = Arc::new(Image::open(&hv_tests::guest("compute")).expect("it is an image"));
    for (part, what) in
        [(Part::Hash, "compute, SHA-256 of 64 MiB"), (Part::Matrix, "compute, 384 x 384 matrix product")]
    {
        let ratio = compare(40, || on_host(part), || in_guest(&engine, &image, part));
        ratio.print_speed(what, "0.99 x the speed");
    }
    let mut group = criterion.benchmark_group("compute");
    group.sample_size(10);
    group.bench_function("host", |b| b.iter_custom(|n| (0..n).map(|_| on_host(Part::Hash)).sum()));
    group.bench_function("guest", |b| {
        b.iter_custom(|n| (0..n).map(|_| in_guest(&engine, &image, Part::Hash)).sum())
    });
    group.finish();
}

criterion_group!(compute_benches, benches);
criterion_main!(compute_benches);
