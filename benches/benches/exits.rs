//! What crossing the boundary costs: the hypercall against the bare exit, the
//! doorbell against the bare ioeventfd.

use criterion::{Criterion, criterion_group, criterion_main};
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_benches::floor::{Floor, FloorProgram};
use hv_benches::pair::compare;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const ROUND: u32 = 2000;

/// What the guest measured for one of `ROUND` operations.
fn in_guest(engine: &Engine, image: &Arc<Image>, what: &str) -> Duration {
    let output = Buffer::default();
    let guest = Builder::new(image.clone())
        .argument(what)
        .argument(&ROUND.to_string())
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

fn benches(criterion: &mut Criterion) {
    let floor = Floor::new().expect("KVM is there");
    let engine = Engine::new(KvmPlatform::new().expect("KVM is there"), 0).expect("threads can be made");
    let image = Arc::new(Image::open(&hv_tests::guest("probe")).expect("the probe is an image"));

    let mut exits = floor.start(FloorProgram::Exits, None).expect("a VM can be made");
    let mut exit = move || {
        let start = Instant::now();
        (0..ROUND).for_each(|_| exits.run().expect("it exits"));
        start.elapsed() / ROUND
    };
    compare(40, &mut exit, || in_guest(&engine, &image, "hypercalls")).print("synchronous hypercall", "1.05");

    let bell = EventFd::new(EFD_NONBLOCK).expect("descriptors can be made");
    listen(&bell);
    let mut bells = floor.start(FloorProgram::Bells(ROUND), Some(&bell)).expect("a VM can be made");
    let mut kick = move || {
        let start = Instant::now();
        bells.run().expect("it exits");
        start.elapsed() / ROUND
    };
    compare(40, &mut kick, || in_guest(&engine, &image, "doorbells")).print("doorbell", "1.05");

    let mut group = criterion.benchmark_group("exits");
    group.bench_function("bare exit", |b| b.iter_custom(|n| exit().mul_f64(n as f64)));
    group.bench_function("hypercall", |b| {
        b.iter_custom(|n| in_guest(&engine, &image, "hypercalls").mul_f64(n as f64))
    });
    group.bench_function("bare ioeventfd", |b| b.iter_custom(|n| kick().mul_f64(n as f64)));
    group.bench_function("doorbell", |b| {
        b.iter_custom(|n| in_guest(&engine, &image, "doorbells").mul_f64(n as f64))
    });
    group.finish();
}

criterion_group!(exit_benches, benches);
criterion_main!(exit_benches);
