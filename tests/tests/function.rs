//! Functions: requests answered in clones, through the library.

use hv::{Builder, Engine, Image};
use hv_function::{Answer, Call, Failure, Function, Isolation, Options};
use hv_tests::{Platform, guest, guest_test};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What comes of a request.
#[derive(Debug, Default, Clone)]
struct Got {
    head: String,
    body: Vec<u8>,
    failure: Option<String>,
}

struct Collect(Got, Sender<Got>);

impl Answer for Collect {
    fn head(&mut self, head: &[u8]) -> Result<(), String> {
        self.0.head = String::from_utf8(head.to_vec()).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        self.0.body.extend_from_slice(bytes);
        bytes.len()
    }

    fn end(&mut self) {
        let _ = self.1.send(std::mem::take(&mut self.0));
    }

    fn failed(&mut self, failure: Failure) {
        self.0.failure = Some(failure.to_string());
        let _ = self.1.send(std::mem::take(&mut self.0));
    }

    fn writable(&mut self) {}
}

/// A function on an engine with one thread, whose guests answer one after the other in one machine.
fn deploy(platform: Platform, name: &str, options: Options) -> (Engine, Function) {
    let engine = platform.engine(1);
    let image = Image::open(&guest(name)).unwrap();
    let snapshot =
        hv_function::boot(&engine, Builder::new(image).name(name), Duration::from_secs(10)).unwrap();
    let function = Function::new(&engine, Arc::new(snapshot), options).unwrap();
    (engine, function)
}

fn begin(function: &Function, head: &str) -> (Call, Receiver<Got>) {
    // A machine that is being reset, or replaced, is not there for a moment.
    loop {
        let (sender, receiver) = channel();
        match function.call(head.as_bytes(), Box::new(Collect(Got::default(), sender))) {
            Ok(call) => return (call, receiver),
            Err(Failure::Full) => std::thread::yield_now(),
            Err(failure) => panic!("{failure}"),
        }
    }
}

fn get(function: &Function, target: &str) -> Got {
    let (mut call, receiver) = begin(function, &format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
    call.end();
    receiver.recv_timeout(Duration::from_secs(20)).expect("an answer")
}

fn text(got: &Got) -> String {
    assert!(got.failure.is_none() && got.head.starts_with("HTTP/1.1 200"), "{got:?}");
    String::from_utf8(got.body.clone()).unwrap()
}

/// One machine serves all.
fn one() -> Options {
    Options { instances: 1, ..Options::default() }
}

#[guest_test]
fn every_request_has_a_guest_of_its_own(platform: Platform) {
    let (_engine, function) = deploy(platform, "fn-hello", Options::default());
    for n in 0..300 {
        assert!(text(&get(&function, &format!("/?name=guest{n}"))).contains(&format!("guest{n}")));
    }
    let stats = function.stats();
    assert_eq!(stats.ended, 0);
    assert!(stats.cold <= 10, "machines are used again: {stats:?}");
    assert!(stats.warm >= 290, "{stats:?}");
    // All guests together, with those that are closed.
    let moved = stats.usage.devices["function"];
    assert_eq!((moved.operations_in, moved.operations_out), (300, 300));
    assert!(moved.bytes_in > 300 * 30 && moved.bytes_out > 300 * 30, "{moved:?}");
    assert!(!stats.usage.vcpu_time.is_zero() && stats.usage.memory_byte_nanos > 0, "{:?}", stats.usage);
    assert!(stats.shared_byte_seconds > 0.0);

    let (_engine, function) = deploy(platform, "fn-probe", one());
    assert_eq!([0; 5].map(|_| text(&get(&function, "/count")).trim().to_owned()), ["1"; 5]);
}

#[guest_test]
fn an_instance_goes_on(platform: Platform) {
    let (_engine, function) =
        deploy(platform, "fn-probe", Options { isolation: Isolation::Instance, ..one() });
    for n in 1..=5 {
        assert_eq!(text(&get(&function, "/count")).trim(), n.to_string());
    }
    while function.stats().idle == 0 {
        std::thread::yield_now();
    }
    function.reap(Instant::now());
    assert_eq!(function.stats().live, 0, "scaled to zero");
    assert_eq!(text(&get(&function, "/count")).trim(), "1");
}

#[guest_test]
fn nothing_that_a_guest_hides_is_found_by_the_next(platform: Platform) {
    let (_engine, function) = deploy(platform, "fn-probe", one());
    // Offsets and how many words of the secret are there. Within one guest, the seeker finds them.
    let places = |found: String| -> Vec<(String, u64)> {
        let place = |line: &str| line.rsplit_once(' ').map(|(name, n)| (name.to_owned(), n.parse().unwrap()));
        found.lines().filter_map(place).collect()
    };
    let found = places(text(&get(&function, "/hide-and-seek")));
    assert!(found.len() >= 6 && found.iter().all(|(_, count)| *count > 0), "{found:?}");
    for _ in 0..3 {
        text(&get(&function, "/secret"));
        let found = places(text(&get(&function, "/find")));
        assert!(found.len() >= 6 && found.iter().all(|(_, count)| *count == 0), "left behind: {found:?}");
    }
    let stats = function.stats();
    assert_eq!((stats.live, stats.cold), (1, 1), "all of it in one machine: {stats:?}");
}

#[guest_test]
fn no_two_clones_have_random_bytes_or_a_generation_in_common(platform: Platform) {
    let (_engine, function) = deploy(platform, "fn-probe", Options { instances: 3, ..Options::default() });
    let mut seen = std::collections::HashSet::new();
    for _ in 0..500 {
        assert!(seen.insert(text(&get(&function, "/random"))), "the same bytes twice");
        assert!(seen.insert(text(&get(&function, "/generation"))), "the same generation twice");
    }
}

#[guest_test]
fn failures_are_told_apart(platform: Platform) {
    let options =
        Options { wall_time: Duration::from_secs(5), cpu_time: Duration::from_millis(300), ..one() };
    let (_engine, function) = deploy(platform, "fn-probe", options);
    for (target, reason) in [
        ("/crash", "the guest crashed: null pointer"),
        ("/panic", "the guest crashed: panic"),
        ("/exit?code=7", "exit code 7"),
        ("/hang", "processor time"),
        ("/sleep?ms=60000", "the time for one request"),
    ] {
        let failure = get(&function, target).failure.unwrap_or_default();
        assert!(failure.contains(reason), "{target}: {failure:?}");
        assert_eq!(text(&get(&function, "/count")).trim(), "1", "after {target}");
    }
    // A client that disconnects ends its guest.
    let (call, receiver) = begin(&function, "GET /hang HTTP/1.1\r\n\r\n");
    drop(call);
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap().failure.is_some());
    assert_eq!(text(&get(&function, "/count")).trim(), "1");
}

#[guest_test]
fn bodies_are_streamed_with_back_pressure(platform: Platform) {
    let (_engine, function) = deploy(platform, "fn-probe", one());
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut call, receiver) = begin(&function, "POST /echo HTTP/1.1\r\n\r\n");
    let mut sent = 0;
    while sent < bytes.len() {
        sent += call.send(&bytes[sent..bytes.len().min(sent + 100_000)]);
        std::thread::yield_now();
    }
    call.end();
    let got = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(got.failure.is_none() && got.body == bytes, "{} bytes came back", got.body.len());
    assert_eq!(get(&function, "/big?n=2000000").body.len(), 2_000_000);
}

#[guest_test]
fn guests_that_break_the_protocol_end_as_crashed(platform: Platform) {
    let (_engine, function) = deploy(platform, "fn-probe", one());
    for kind in [
        "kind",
        "zero",
        "ones",
        "empty-head",
        "long-head",
        "body-first",
        "end-first",
        "cancel",
        "two-heads",
        "empty-body",
        "long-body",
        "long-end",
        "trailers-first",
        "two-trailers",
        "body-behind",
        "index",
        "back",
    ] {
        let failure = get(&function, &format!("/garbage?kind={kind}")).failure.unwrap_or_default();
        assert!(failure.contains("the guest crashed: function device"), "{kind}: {failure:?}");
        assert_eq!(text(&get(&function, "/count")).trim(), "1", "after {kind}");
    }
    // What comes behind the end of an answer is never looked at.
    assert!(get(&function, "/garbage?kind=after-end").failure.is_none());
    assert_eq!(text(&get(&function, "/count")).trim(), "1");
}
