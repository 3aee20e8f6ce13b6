//! What it costs that a guest takes memory and gives it back: growing against a mapping that a process makes and
//! touches, and the time and processor time until a gibibyte that a guest has freed is the host's again.

use hv::memory::GuestMemory;
use hv::{Engine, KvmPlatform, Outcome, ProcessPlatform};
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_benches::pair::words;
use hv_benches::suite::Suite;
use hv_host::cpu_clock::CpuClock;
use hv_stats::Estimate;
use hv_tests::console::Talking;
use std::cell::LazyCell;
use std::process::ExitCode;
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

fn of_platform(suite: &Suite, name: &str, engine: &dyn Fn() -> Engine) {
    let engine = LazyCell::new(engine);
    let shared = name == "process";
    let what = format!("{name}: 1 GiB is touched");
    suite.pair(&what, 10, || mapped(shared), || grown(&engine), |ratio| ratio.print(&what, "1.3"));
    let what = format!("{name}: 1 GiB that was freed");
    suite.run(&what, || {
        let (times, cpu): (Vec<_>, Vec<_>) = (0..suite.times(15)).map(|_| given_back(&engine)).unzip();
        for (part, all, reach) in [("until it is the host's", times, 100), ("processor time", cpu, 50)] {
            let ms = Estimate::of(all.iter().map(|time: &Duration| time.as_secs_f64() * 1e3), 1);
            println!("time: {what}, {part} | ms {} | reach {reach} ms", words(&ms));
        }
    });
}

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    of_platform(&suite, "kvm", &|| {
        Engine::new(KvmPlatform::new().expect("KVM is there"), 1).expect("threads can be made")
    });
    of_platform(&suite, "process", &|| {
        Engine::new(ProcessPlatform::new().expect("processes can be made"), 1).expect("threads can be made")
    });
    suite.end()
}
