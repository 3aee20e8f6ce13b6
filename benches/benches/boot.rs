//! What a start costs: in process against the bare KVM calls, and as a whole
//! process against a program that makes only those and prints.

use criterion::{Criterion, criterion_group, criterion_main};
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::floor::{Floor, FloorProgram};
use hv_benches::pair::compare;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Starts a guest that only exits, and returns the time to that: its first hypercall.
fn boot(engine: &Engine, image: &Arc<Image>) -> Duration {
    let start = Instant::now();
    let guest = Builder::new(image.clone()).spawn(engine).expect("the guest starts");
    assert!(matches!(guest.wait(), Outcome::Exited(0)));
    start.elapsed()
}

fn floor(floor: &Floor) -> Duration {
    let start = Instant::now();
    let mut vm = floor.start(FloorProgram::Exits, None).expect("a VM can be made");
    vm.run().expect("it runs to its exit");
    start.elapsed()
}

fn process(command: &mut Command) -> Duration {
    let start = Instant::now();
    assert!(command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("it runs").success());
    start.elapsed()
}

fn benches(criterion: &mut Criterion) {
    let bare = Floor::new().expect("KVM is there");
    let engine = Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made");
    let path = hv_tests::guest("hello");
    let image = Arc::new(Image::open(&hv_tests::guest("null")).expect("it is an image"));
    compare(200, || floor(&bare), || boot(&engine, &image))
        .print("VM creation to the first hypercall", "1.25");

    let floor_program = env!("CARGO_BIN_EXE_floor");
    let hv = std::env::var("HV_BIN").unwrap_or_else(|_| hv_tests::release_hv().display().to_string());
    compare(
        200,
        || process(&mut Command::new(floor_program)),
        || process(Command::new(&hv).arg("run").arg(&path)),
    )
    .print("`hv run hello`, whole process", "1.6");

    let mut group = criterion.benchmark_group("boot");
    group.bench_function("floor", |b| b.iter_custom(|n| (0..n).map(|_| floor(&bare)).sum()));
    group.bench_function("guest", |b| b.iter_custom(|n| (0..n).map(|_| boot(&engine, &image)).sum()));
    group.finish();
}

criterion_group!(boot_benches, benches);
criterion_main!(boot_benches);
