//! What crossing the boundary costs: the hypercall against the bare exit, the
//! doorbell against the bare ioeventfd.

use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::floor::{Floor, FloorProgram};
use hv_benches::suite::Suite;
use std::cell::{LazyCell, RefCell};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const ROUND: u32 = 2000;

/// What the guest measured for one of so many operations.
fn in_guest(engine: &Engine, image: &Arc<Image>, what: &str, count: u64) -> Duration {
    let output = Buffer::default();
    let guest = Builder::new(image.clone())
        .argument(what)
        .argument(&count.to_string())
        .output(output.clone())
        .spawn(engine)
        .expect("the probe starts");
    assert!(matches!(guest.wait(), Outcome::Exited(0)));
    Duration::from_nanos(output.text().trim().parse().expect("a number"))
}

/// Reads an eventfd as the I/O thread does, whenever it is signalled.
fn listen(bell: &EventFd) {
    let bell = bell.try_clone().expect("descriptors can be made");
    std::thread::spawn(move || {
        let mut poll = mio::Poll::new().expect("epoll works");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&bell);
        poll.registry()
            .register(&mut mio::unix::SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)
            .expect("an eventfd can be watched");
        let mut events = mio::Events::with_capacity(8);
        while poll.poll(&mut events, None).is_ok() {
            let _ = bell.read();
        }
    });
}

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    // Nothing is made before it is known that it is needed.
    let floor = LazyCell::new(|| Floor::new().expect("KVM is there"));
    let engine = LazyCell::new(|| {
        Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made")
    });
    let image =
        LazyCell::new(|| Arc::new(Image::open(&hv_tests::guest("probe")).expect("the probe is an image")));
    let round = u64::from(ROUND);

    let exits =
        LazyCell::new(|| RefCell::new(floor.start(FloorProgram::Exits, None).expect("a VM can be made")));
    let exit = |count: u64| {
        let start = Instant::now();
        (0..count).for_each(|_| exits.borrow_mut().run().expect("it exits"));
        start.elapsed()
    };
    let hypercall = |count| in_guest(&engine, &image, "hypercalls", count);
    let what = "synchronous hypercall";
    suite.pair(what, 20, || exit(round) / ROUND, || hypercall(round), |ratio| ratio.print(what, "1.05"));

    let bell = LazyCell::new(|| {
        let bell = EventFd::new(EFD_NONBLOCK).expect("descriptors can be made");
        listen(&bell);
        bell
    });
    let bells = LazyCell::new(|| {
        RefCell::new(floor.start(FloorProgram::Bells(ROUND), Some(&bell)).expect("a VM can be made"))
    });
    // A round of doorbells, and an exit at its end.
    let kick = || {
        let start = Instant::now();
        bells.borrow_mut().run().expect("it exits");
        start.elapsed()
    };
    let doorbell = || in_guest(&engine, &image, "doorbells", round);
    let what = "doorbell";
    suite.pair(what, 20, || kick() / ROUND, doorbell, |ratio| ratio.print(what, "1.05"));

    suite.criterion(|criterion| {
        let mut group = criterion.benchmark_group("exits");
        group.sample_size(20);
        group.bench_function("bare exit", |b| b.iter_custom(exit));
        // The probe measures; a guest of its own for each sample, with as many calls as Criterion asks for.
        group.bench_function("hypercall", |b| b.iter_custom(|n| hypercall(n) * n as u32));
        group.bench_function("2000 bare ioeventfds", |b| b.iter_custom(|n| (0..n).map(|_| kick()).sum()));
        group.bench_function("2000 doorbells", |b| {
            b.iter_custom(|n| (0..n).map(|_| doorbell() * ROUND).sum())
        });
        group.finish();
    });
    suite.end()
}
