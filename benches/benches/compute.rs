//! Work for the processor alone: in a guest against the same code in this process.

use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::suite::Suite;
use std::cell::LazyCell;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

extern crate alloc;

/// The very code that the guest runs.
#[allow(
    unreachable_pub,
    unused_imports,
    dead_code,
    reason = "a module of a library, with tests that do not run here"
)]
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

/// The same on so many threads.
fn on_host(part: Part, threads: usize) -> Duration {
    let matrices = &compute::Matrices::new(if matches!(part, Part::Matrix) { ROWS } else { 0 });
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || match part {
                Part::Hash => {
                    drop(black_box(compute::digests(compute::part(black_box(MIB), number, threads))))
                }
                Part::Matrix => {
                    black_box(matrices.product(compute::part(black_box(ROWS), number, threads)));
                }
            });
        }
    });
    start.elapsed()
}

/// What the guest measured, with so many virtual CPUs.
fn in_guest(engine: &Engine, image: &Arc<Image>, part: Part, vcpus: usize) -> Duration {
    let output = Buffer::default();
    let (mib, rows) = match part {
        Part::Hash => (MIB, 0),
        Part::Matrix => (0, ROWS),
    };
    let guest = Builder::new(image.clone())
        .vcpus(vcpus)
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

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    // Nothing is made before it is known that it is needed.
    let engine = |workers| {
        LazyCell::new(move || {
            Engine::new(KvmPlatform::new().expect("KVM is there"), workers).expect("threads can be made")
        })
    };
    let (one, two) = (engine(0), engine(2));
    let image = LazyCell::new(|| Arc::new(Image::open(&hv_tests::guest("compute")).expect("it is an image")));
    for (part, what) in
        [(Part::Hash, "compute, SHA-256 of 64 MiB"), (Part::Matrix, "compute, 384 x 384 matrix product")]
    {
        let (alone, both) = (|| in_guest(&one, &image, part, 1), || in_guest(&two, &image, part, 2));
        suite.pair(what, 20, || on_host(part, 1), alone, |ratio| ratio.print_speed(what, "0.99 x the speed"));
        let what_two = format!("{what}, 2 virtual CPUs against 1");
        suite.pair(&what_two, 20, alone, both, |ratio| ratio.print_speed(&what_two, "1.8 x the speed"));
        let what_two = format!("{what}, 2 virtual CPUs against 2 threads");
        suite.pair(
            &what_two,
            20,
            || on_host(part, 2),
            both,
            |ratio| {
                ratio.print_speed(&what_two, "0.97 x the speed");
            },
        );
    }
    suite.criterion(|criterion| {
        let mut group = criterion.benchmark_group("compute");
        group.sample_size(10);
        group.bench_function("host", |b| b.iter_custom(|n| (0..n).map(|_| on_host(Part::Hash, 1)).sum()));
        group.bench_function("guest", |b| {
            b.iter_custom(|n| (0..n).map(|_| in_guest(&one, &image, Part::Hash, 1)).sum())
        });
        group.finish();
    });
    suite.end()
}
