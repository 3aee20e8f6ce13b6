//! hv as a library: guests started, watched and ended by a Rust program.

use hv::device::stdio::Buffer;
use hv::domain::Activity;
use hv::memory::GuestMemory;
use hv::platform::fake::FakePlatform;
use hv::platform::{Exit, Fault, HypercallPage, PlatformError, Start, Started};
use hv::{Builder, Engine, Guest, Image, Outcome, StartError, Stop};
use hv_tests::{LIMIT, Platform, eventually, guest, guest_test};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn image(name: &str) -> Arc<Image> {
    Arc::new(Image::open(&guest(name)).unwrap())
}

/// Starts a guest of an image; its output collects in the buffer.
fn start(engine: &Engine, image: &Arc<Image>, arguments: &[&str]) -> (Guest, Buffer) {
    let output = Buffer::default();
    let mut builder = Builder::new(image.clone()).memory(4 << 20).output(output.clone());
    for argument in arguments {
        builder = builder.argument(argument);
    }
    (builder.spawn(engine).unwrap(), output)
}

#[track_caller]
fn exited(outcome: &Outcome, code: u8) {
    assert!(matches!(outcome, Outcome::Exited(found) if *found == code), "{outcome:?}");
}

/// What is counted under a name.
fn count(guest: &Guest, name: &str) -> u64 {
    guest.counters().iter().find(|(counter, _)| *counter == name).map_or(0, |(_, count)| *count)
}

#[guest_test]
fn hello_with_and_without_threads(platform: Platform) {
    let hello = image("hello");
    for workers in [0, 1, 2] {
        let engine = platform.engine(workers);
        for name in ["Ada", "Grace"] {
            let (guest, output) = start(&engine, &hello, &[name]);
            exited(&guest.wait(), 0);
            assert_eq!(output.text(), format!("Hello from a unikernel, {name}!\n"));
            // Asking again does not change it.
            exited(&guest.wait(), 0);
            assert_eq!(count(&guest, "exit"), 1, "{:?}", guest.counters());
            let phases = guest.phases();
            assert!(phases.first_hypercall.is_some() && phases.run >= phases.first_hypercall, "{phases:?}");
            assert!((1..=4 << 20).contains(&guest.resident_memory()), "{}", guest.resident_memory());
        }
    }
}

#[guest_test]
fn one_engine_on_many_threads(platform: Platform) {
    let (hello, engine) = (image("hello"), platform.engine(2));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (hello, engine) = (&hello, &engine);
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("{n}.{round}");
                    let (guest, output) = start(engine, hello, &[&name]);
                    exited(&guest.wait(), 0);
                    assert!(output.text().contains(&name));
                }
            });
        }
    });
}

#[guest_test]
fn fifty_at_once_on_two_threads(platform: Platform) {
    let engine = platform.engine(2);
    let (hello, echo, probe) = (image("hello"), image("echo"), image("probe"));
    let guests: Vec<_> = (0..50)
        .map(|n| match n % 3 {
            0 => (n, start(&engine, &hello, &[&n.to_string()])),
            1 => (n, start(&engine, &probe, &["lines", "300"])),
            _ => (n, start(&engine, &echo, &[])),
        })
        .collect();
    // The last is not waited for first.
    for (n, (guest, output)) in guests.iter().rev() {
        exited(&guest.wait(), 0);
        let text = output.text();
        match n % 3 {
            0 => assert_eq!(text, format!("Hello from a unikernel, {n}!\n")),
            1 => assert_eq!(text, (0..300).map(|line| format!("line {line}\n")).collect::<String>()),
            _ => assert_eq!(text, ""),
        }
    }
}

#[guest_test]
fn several_threads_wait_on_an_engine_without_workers(platform: Platform) {
    let (hello, engine) = (image("hello"), platform.engine(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    exited(&start(&engine, &hello, &[]).0.wait(), 0);
                }
            });
        }
    });
}

#[guest_test]
fn machines_that_were_made_beforehand_run_guests_as_others_do(platform: Platform) {
    let (hello, engine) = (image("hello"), platform.engine(1));
    for reserved in [0, 2] {
        engine.reserve(reserved);
        // The second call finds the first one's machine.
        engine.prepare_machine().unwrap();
        engine.prepare_machine().unwrap();
        for _ in 0..3 {
            let (guest, output) = start(&engine, &hello, &[]);
            exited(&guest.wait(), 0);
            assert_eq!(output.text(), "Hello from a unikernel, world!\n");
        }
    }
}

#[guest_test]
fn a_guest_that_is_paused_and_resumed_at_once_goes_on(platform: Platform) {
    let engine = platform.engine(1);
    let (guest, _output) = start(&engine, &image("hostile"), &["endless-loop"]);
    // In a process, most of the time is that the host takes to give it a processor again.
    let rounds = if platform == Platform::Process { 1_500 } else { 6_000 };
    for round in 0..rounds {
        guest.pause();
        // Anything from before to after the turn in which the worker notices.
        (0..round % 300 * 10).for_each(|_| std::hint::spin_loop());
        guest.resume();
        let (begin, some) = (Instant::now(), guest.cpu_time() + Duration::from_micros(50));
        while guest.cpu_time() < some {
            let outcome = guest.outcome();
            assert!(outcome.is_none(), "round {round}: {outcome:?}");
            assert!(begin.elapsed() < LIMIT, "round {round}: it was let go, and does not run");
            std::thread::yield_now();
        }
    }
}

#[guest_test]
fn a_paused_guest_is_inspected_and_stays_paused(platform: Platform) {
    let engine = platform.engine(1);
    let (guest, _output) = start(&engine, &image("hostile"), &["endless-loop"]);
    let inspect = || {
        let (tell, told) = mpsc::channel();
        guest.controller().inspect(Box::new(move |state| tell.send(state.clone()).unwrap()));
        told.recv_timeout(LIMIT).unwrap().vcpus.remove(0)
    };
    // Not before it has begun.
    eventually("it to loop", || {
        inspect()
            .backtrace
            .iter()
            .any(|frame| frame.function.as_deref() == Some("hostile::main"))
            .then_some(())
    });
    guest.pause();
    assert!(guest.wait_paused(LIMIT));
    let paused = inspect();
    assert_eq!(paused.activity, Activity::Paused);
    assert_eq!(inspect(), paused, "it has not moved");
    guest.resume();
    assert_eq!(inspect().activity, Activity::Running);
}

#[guest_test]
fn endless_loops_do_not_starve_others(platform: Platform) {
    let (hello, hostile) = (image("hello"), image("hostile"));
    // More loops than threads, and with none, the thread that waits.
    for workers in [0, 2] {
        let engine = platform.engine(workers);
        let endless: Vec<_> = (0..4).map(|_| start(&engine, &hostile, &["endless-loop"])).collect();
        // Guests that start come first, as long as they use little. Without workers the others run while somebody waits.
        let has_given_way = |(guest, output): &(Guest, Buffer)| {
            output.text() == "looping\n" && count(guest, "interruption") > 0
        };
        for round in 0.. {
            exited(&start(&engine, &hello, &[]).0.wait(), 0);
            if round >= 4 && endless.iter().all(has_given_way) {
                break;
            }
            assert!(round < 5000, "every loop has its turn, and gives way");
        }
        for (guest, _) in endless {
            guest.stop(Stop::Timeout);
            assert!(matches!(guest.wait(), Outcome::Stopped(Stop::Timeout)));
        }
    }
}

#[guest_test]
fn stopped_from_another_thread(platform: Platform) {
    let hostile = image("hostile");
    for workers in [0, 2] {
        let engine = platform.engine(workers);
        for way in ["endless-loop", "sleep-forever"] {
            let (guest, output) = start(&engine, &hostile, &[way]);
            let controller = guest.controller();
            let stopper = std::thread::spawn(move || {
                eventually("its first words", || (!output.text().is_empty()).then_some(()));
                controller.stop(Stop::Interrupted);
                // The second reason comes too late.
                controller.stop(Stop::Timeout);
            });
            let outcome = guest.wait();
            assert!(matches!(outcome, Outcome::Stopped(Stop::Interrupted)), "{way}: {outcome:?}");
            stopper.join().unwrap();
            // To stop what has ended is harmless, as long as it is there and afterwards.
            let controller = guest.controller();
            controller.stop(Stop::Timeout);
            assert!(matches!(guest.wait(), Outcome::Stopped(Stop::Interrupted)));
            drop(guest);
            controller.stop(Stop::Timeout);
            assert!(!controller.request_shutdown());
        }
    }
}

#[guest_test]
fn a_guest_that_is_dropped_is_gone(platform: Platform) {
    let hostile = image("hostile");
    for workers in [0, 1] {
        let engine = platform.engine(workers);
        for _ in 0..3 {
            let (guest, output) = start(&engine, &hostile, &["endless-loop"]);
            if workers > 0 {
                eventually("its first words", || (!output.text().is_empty()).then_some(()));
            }
            drop(guest);
        }
        // The thread is free for others.
        exited(&start(&engine, &image("hello"), &[]).0.wait(), 0);
    }
}

#[guest_test]
fn a_request_to_end_is_heard_by_those_who_listen(platform: Platform) {
    use hv::device::net::user::{UserConfig, UserNet};
    let engine = platform.engine(1);
    let output = Buffer::default();
    let network = UserNet::new(UserConfig::new([2, 0, 0, 0, 0, 1])).unwrap();
    let builder = Builder::new(image("udp-echo")).output(output.clone()).network(Box::new(network), None);
    let guest = builder.spawn(&engine).unwrap();
    eventually("its first words", || (!output.text().is_empty()).then_some(()));
    eventually("that it listens", || guest.controller().request_shutdown().then_some(()));
    exited(&guest.wait(), 0);
}

#[guest_test]
fn a_crash_is_a_value(platform: Platform) {
    let engine = platform.engine(2);
    let crash = image("crash");
    for (way, reason, function) in [
        ("null", "null pointer", "main"),
        ("panic", "panic", "main"),
        ("ud2", "invalid opcode", "main"),
        ("stack-overflow", "stack overflow", "recurse"),
    ] {
        let output = Buffer::default();
        let builder = Builder::new(crash.clone()).name("victim").argument(way).output(output.clone());
        let Outcome::Crashed(report) = builder.spawn(&engine).unwrap().wait() else {
            panic!("{way}: no crash")
        };
        assert_eq!(report.guest, "victim");
        assert!(report.reason.contains(reason), "{way}: {}", report.reason);
        let registers = report.registers.expect("it has registers");
        assert!(registers.rip != 0 && registers.rsp != 0, "{registers}");
        let found = report.backtrace.iter().any(|frame| {
            frame.function.as_deref().is_some_and(|name| name.contains(function))
                && frame.file.as_deref().is_some_and(|file| file.ends_with("crash.rs"))
                && frame.line.is_some()
        });
        assert!(found, "{way}: {report}");
        assert!(report.to_string().starts_with("guest victim crashed: "), "{report}");
        // What was printed before is there.
        assert!(output.text().starts_with(&format!("{way}: ")), "{}", output.text());
    }
    // The others do not notice.
    exited(&start(&engine, &image("hello"), &[]).0.wait(), 0);
}

#[guest_test]
fn input_output_and_environment(platform: Platform) {
    let engine = platform.engine(0);
    let output = Buffer::default();
    let builder = Builder::new(image("probe")).argument("env").output(output.clone());
    let guest = builder.variable("A", "1").variable("B", "x=y").spawn(&engine).unwrap();
    exited(&guest.wait(), 0);
    assert_eq!(output.text(), "A=1\nB=x=y\n");
    // Output beyond a buffer's limit is dropped; nobody waits for it.
    let short = Buffer::new(10);
    let builder = Builder::new(image("probe")).argument("lines").argument("20000").output(short.clone());
    exited(&builder.spawn(&engine).unwrap().wait(), 0);
    assert_eq!(short.bytes(), b"line 0\nlin");
}

#[guest_test]
fn wishes_that_cannot_be_met(platform: Platform) {
    let (hello, engine) = (image("hello"), platform.engine(0));
    let refused = |builder: Builder| builder.spawn(&engine).err().expect("it is refused");
    let small = refused(Builder::new(hello.clone()).name("tiny").memory(64 << 10));
    let StartError::MemoryTooSmall { name, given: 64, needed } = &small else { panic!("{small}") };
    assert_eq!(name, "tiny");
    exited(&Builder::new(hello.clone()).memory(needed << 10).spawn(&engine).unwrap().wait(), 0);
    for bytes in [4097, (64 << 30) + 4096, !4095] {
        assert!(matches!(refused(Builder::new(hello.clone()).memory(bytes)), StartError::MemorySize(_)));
    }
    let long = "x".repeat(200_000);
    assert!(matches!(refused(Builder::new(hello.clone()).argument(&long)), StartError::TooLong { .. }));
    assert!(matches!(refused(Builder::new(hello.clone()).variable("A", &long)), StartError::TooLong { .. }));
}

// ---------------------------------------------------------------- a scripted platform

/// The scripted platform, shared with the test.
#[derive(Clone)]
struct Scripted(Arc<FakePlatform>);

impl hv::platform::Platform for Scripted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError> {
        self.0.prepare(memory, pages)
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, PlatformError> {
        self.0.start(start)
    }
}

fn call(number: u32, argument: u64) -> Exit {
    Exit::Hypercall { number, arguments: [argument, 0, 0] }
}

/// Runs a script; the outcome, and what its hypercalls returned.
fn scripted(workers: usize, script: Vec<Exit>) -> (Guest, Outcome, Vec<i64>) {
    let platform = Scripted(Arc::new(FakePlatform::new(script)));
    let engine = Engine::new(platform.clone(), workers).unwrap();
    let guest = Builder::new(image("hello")).name("script").spawn(&engine).unwrap();
    let outcome = guest.wait();
    let results = platform.0.results();
    (guest, outcome, results)
}

const NOP: u32 = 0;
const EXIT: u32 = 2;
const BLOCK: u32 = 4;
const YIELD: u32 = 5;
const WALL_CLOCK: u32 = 6;
const ENTROPY: u32 = 7;
const READY: u32 = 8;
const NO_SYS: i64 = -38;
const FAULT: i64 = -14;

#[test]
fn a_script_of_hypercalls() {
    for workers in [0, 2] {
        let script = vec![
            call(NOP, 0),
            call(99, 1),
            call(u32::MAX, u64::MAX),
            call(YIELD, 0),
            Exit::Interrupted,
            call(BLOCK, 0),
            call(BLOCK, 1),
            call(READY, 0),
            Exit::Hypercall { number: ENTROPY, arguments: [8, 16, 0] },
            Exit::Doorbell(77),
            Exit::Doorbell(u32::MAX),
            call(WALL_CLOCK, 0),
            call(EXIT, 0x1_2a),
            call(NOP, 0),
        ];
        let (guest, outcome, results) = scripted(workers, script);
        exited(&outcome, 0x2a);
        assert_eq!(results[..8], [0, NO_SYS, NO_SYS, 0, 0, 0, 0, FAULT], "{results:?}");
        assert!(results.len() == 9 && results[8] > 0, "{results:?}");
        assert_eq!(count(&guest, "unknown_hypercall"), 2);
        assert_eq!(count(&guest, "unbound_doorbell"), 2);
        assert_eq!(count(&guest, "interruption"), 1);
        assert_eq!(count(&guest, "block"), 2);
        assert!(guest.phases().ready.is_some());
    }
}

#[test]
fn a_script_that_fails_or_ends() {
    for (script, reason) in [
        (vec![Exit::Failed("out of luck".into())], "the host failed: out of luck"),
        (vec![call(NOP, 0)], "the script has ended"),
        (vec![], "the script has ended"),
        (vec![Exit::Fault(Fault::Port(0x80))], "0x80"),
        (vec![Exit::Fault(Fault::Shutdown)], "triple fault"),
        (vec![Exit::Fault(Fault::Exception { vector: 0, error: 0, address: 0 })], "division"),
        (vec![Exit::Fault(Fault::Exception { vector: 14, error: 4, address: 16 })], "null pointer"),
        (
            vec![Exit::Fault(Fault::Exception { vector: 255, error: u64::MAX, address: u64::MAX })],
            "exception",
        ),
    ] {
        let (_, outcome, _) = scripted(0, script);
        let Outcome::Crashed(report) = outcome else { panic!("{reason}: {outcome:?}") };
        assert!(report.reason.contains(reason), "{reason:?} in {:?}", report.reason);
        assert_eq!(report.guest, "script");
    }
}

#[test]
fn a_script_that_panics() {
    // The message would be outside its memory, and of any length.
    for (address, len) in [(0, 10), (u64::MAX, u64::MAX), (1 << 40, 1 << 40)] {
        let panic = Exit::Hypercall { number: 3, arguments: [address, len, 0] };
        let (_, outcome, _) = scripted(1, vec![panic]);
        let Outcome::Crashed(report) = outcome else { panic!("{outcome:?}") };
        assert!(report.reason.starts_with("panic"), "{}", report.reason);
    }
}

#[test]
fn a_script_that_blocks_for_good_is_stopped() {
    for workers in [0, 1] {
        let platform = FakePlatform::new([call(BLOCK, u64::MAX)]);
        let engine = Engine::new(platform, workers).unwrap();
        let guest = Builder::new(image("hello")).spawn(&engine).unwrap();
        let controller = guest.controller();
        let (waiting, waits) = mpsc::channel();
        let stopper = std::thread::spawn(move || {
            waits.recv().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            controller.stop(Stop::Timeout);
        });
        waiting.send(()).unwrap();
        assert!(matches!(guest.wait(), Outcome::Stopped(Stop::Timeout)));
        stopper.join().unwrap();
    }
}
