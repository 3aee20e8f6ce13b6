//! What a start costs: in process against the bare KVM calls, and as a whole
//! process against a program that makes only those and prints.

use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::floor::{Floor, FloorProgram};
use hv_benches::suite::Suite;
use std::cell::LazyCell;
use std::process::{Command, ExitCode, Stdio};
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

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    // Nothing is made before it is known that it is needed.
    let bare = LazyCell::new(|| Floor::new().expect("KVM is there"));
    let engine = LazyCell::new(|| {
        Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made")
    });
    let image = LazyCell::new(|| Arc::new(Image::open(&hv_tests::guest("null")).expect("it is an image")));
    let what = "VM creation to the first hypercall";
    suite.pair(what, 100, || floor(&bare), || boot(&engine, &image), |ratio| ratio.print(what, "1.25"));

    let hello = LazyCell::new(|| hv_tests::guest("hello"));
    let hv = LazyCell::new(|| {
        std::env::var("HV_BIN").unwrap_or_else(|_| hv_tests::release_hv().display().to_string())
    });
    let what = "`hv run hello`, whole process";
    suite.pair(
        what,
        100,
        || process(&mut Command::new(env!("CARGO_BIN_EXE_floor"))),
        || process(Command::new(&*hv).arg("run").arg(&*hello)),
        |ratio| ratio.print(what, "1.6"),
    );

    suite.criterion(|criterion| {
        let mut group = criterion.benchmark_group("boot");
        group.bench_function("floor", |b| b.iter_custom(|n| (0..n).map(|_| floor(&bare)).sum()));
        group.bench_function("guest", |b| b.iter_custom(|n| (0..n).map(|_| boot(&engine, &image)).sum()));
        group.finish();
    });
    suite.end()
}
