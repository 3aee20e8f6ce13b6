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
#[path = "../../guest-examples/src/compute.rs"]
mod compute;

const MIB: usize = 64;
const ROWS: usize = 384;

fn on_host() -> Duration {
    let start = Instant::now();
    black_box(compute::digest(black_box(MIB)));
    black_box(compute::matrix(black_box(ROWS)));
    start.elapsed()
}

/// What the guest measured.
fn in_guest(engine: &Engine, image: &Arc<Image>) -> Duration {
    let output = Buffer::default();
    let guest = Builder::new(image.clone())
        .argument(&MIB.to_string())
        .argument(&ROWS.to_string())
        .output(output.clone())
        .spawn(engine)
        .expect("the guest starts");
    assert!(matches!(guest.wait(), Outcome::Exited(0)));
    let text = output.text();
    let times = text.lines().find_map(|line| line.strip_prefix("time: ")).expect("the guest prints times");
    let micros = times.split(' ').filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_micros(micros)
}

fn benches(criterion: &mut Criterion) {
    let engine = Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made");
    let image = Arc::new(Image::open(&hv_tests::guest("compute")).expect("it is an image"));
    compare(20, on_host, || in_guest(&engine, &image)).print_speed("compute", "0.99 x the speed");
    let mut group = criterion.benchmark_group("compute");
    group.sample_size(10);
    group.bench_function("host", |b| b.iter_custom(|n| (0..n).map(|_| on_host()).sum()));
    group.bench_function("guest", |b| b.iter_custom(|n| (0..n).map(|_| in_guest(&engine, &image)).sum()));
    group.finish();
}

criterion_group!(compute_benches, benches);
criterion_main!(compute_benches);
