//! What it costs that a guest takes memory and gives it back: growing against a mapping that a process makes and
//! touches, and the time and processor time until a gibibyte that a guest has freed is the host's again.

use hv::memory::GuestMemory;
use hv::{Engine, KvmPlatform, Outcome, ProcessPlatform};
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_benches::pair::compare;
use hv_host::cpu_clock::CpuClock;
use hv_tests::console::Talking;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Bytes that are taken and given back.
const SIZE: u64 = 1024 * MIB;

/// Memory of the guest.
const MEMORY: u64 = SIZE + 64 * MIB;

fn start(engine: &Engine, what: &str) -> Talking {
    let mib = (SIZE / MIB).to_string();
    Talking::start(engine, "memory", &[what, &mib], |builder| builder.memory(MEMORY))
        .expect("the guest starts")
}

/// Time in which a process maps as much, advised as the memory of guests is, and touches each page.
fn mapped(shared: bool) -> Duration {
    let start = Instant::now();
    let memory = match shared {
        false => GuestMemory::new(GuestAddr(0x20_0000), SIZE).expect("address space"),
        true => GuestMemory::new_shared(GuestAddr(0x20_0000), SIZE).expect("a memory file"),
    };
    for page in (0..SIZE).step_by(PAGE_SIZE as usize) {
        memory.host_write(page, &page.to_ne_bytes());
    }
    start.elapsed()
}

/// Time in which a guest touches each page of as much for the first time, measured by the guest.
fn grown(engine: &Engine) -> Duration {
    let mut talking = start(engine, "grow");
    let line = talking.line();
    assert!(matches!(talking.guest.wait(), Outcome::Exited(0)));
    let micros = line.split(' ').nth(2).and_then(|number| number.parse().ok()).expect("a time");
    Duration::from_micros(micros)
}

/// Processor time of this process.
fn used() -> Duration {
    CpuClock::of_process(std::process::id() as i32).expect("this process lives").read()
}

/// How long it takes until the memory that a guest has freed is the host's, and the processor time for that.
fn given_back(engine: &Engine) -> (Duration, Duration) {
    let mut talking = start(engine, "give");
    talking.says("filled");
    talking.goes_on();
    talking.says("freed");
    let (start, before) = (Instant::now(), used());
    while talking.guest.resident_memory() > 16 * MIB {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not go back");
        // To count the memory takes time as well, some 10 ms for a gibibyte in a file.
        std::thread::sleep(Duration::from_millis(20));
    }
    (start.elapsed(), used() - before)
}

fn median(mut all: Vec<Duration>) -> (f64, f64, f64) {
    all.sort();
    let ms = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3;
    (ms(0.5), ms(0.1), ms(0.9))
}

fn of_platform(name: &str, engine: &Engine) {
    let shared = name == "process";
    compare(10, || mapped(shared), || grown(engine)).print(&format!("{name}: 1 GiB is touched"), "1.3");
    let (times, cpu): (Vec<_>, Vec<_>) = (0..15).map(|_| given_back(engine)).unzip();
    for (what, all, reach) in [("until it is the host's", times, 100), ("processor time", cpu, 50)] {
        let (middle, low, high) = median(all);
        println!(
            "time: {name}: 1 GiB that was freed, {what} | {middle:.1} ms ({low:.1} to {high:.1}) | reach {reach} ms"
        );
    }
}

fn main() {
    // `cargo test --benches` and `--list` measure nothing.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let chosen = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| chosen.as_ref().is_none_or(|chosen| name.contains(chosen.as_str()));
    if wanted("kvm") {
        let platform = KvmPlatform::new().expect("KVM is there");
        of_platform("kvm", &Engine::new(platform, 1).expect("threads can be made"));
    }
    if wanted("process") {
        let platform = ProcessPlatform::new().expect("processes can be made");
        of_platform("process", &Engine::new(platform, 1).expect("threads can be made"));
    }
}
