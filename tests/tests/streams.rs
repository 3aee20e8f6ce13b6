//! What a guest prints on its two streams, and where that goes.

use hv::device::console::Output;
use hv::device::stdio::Buffer;
use hv::{Builder, Guest, Image, Outcome};
use hv_tests::refusal::finished;
use hv_tests::{Finished, Platform, Running, eventually, guest, guest_test};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Checks what the probe prints on both streams.
#[track_caller]
fn both(end: &Finished) {
    assert_eq!(end.text(), "data\nmore data\n");
    let lines: Vec<_> = end.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", end.err);
    assert_eq!(lines[0], "error");
    assert!(lines[1].starts_with('[') && lines[1].ends_with("INFO  probe: information"), "{}", lines[1]);
    assert_eq!((lines[2], lines[3]), ("long ".repeat(2000).as_str(), ""));
}

#[guest_test]
fn output_and_errors_are_apart(platform: Platform) {
    both(&platform.ran("probe", &[], &["streams"]).expect(0));
}

#[guest_test]
fn a_restored_guest_has_both_streams(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snap");
    let mut snapshot = platform.command();
    snapshot.arg("snapshot").arg(guest("probe")).arg("-o").arg(&path).args(["--", "streams"]);
    finished(&mut snapshot).expect(0);
    both(&finished(platform.command().arg("restore").arg(&path)).expect(0));
}

#[guest_test]
fn the_log_level_is_the_environments(platform: Platform) {
    let said = |level: &str, line: &str| {
        let end = platform.ran("probe", &["--env", &format!("LOG={level}")], &["streams"]).expect(0);
        end.err.lines().any(|said| said.ends_with(line))
    };
    assert!(said("debug", "DEBUG probe: detail") && said("Info", "INFO  probe: information"));
    assert!(!said("warn", "INFO  probe: information") && !said("info", "DEBUG probe: detail"));
}

#[guest_test]
fn a_log_level_that_there_is_not_is_said(platform: Platform) {
    let end = platform.ran("probe", &["--env", "LOG=inof"], &["streams"]).expect(0);
    let (first, rest) = end.err.split_once('\n').unwrap();
    assert_eq!(first, "LOG=inof: no such level, taking info; use off, error, warn, info, debug or trace");
    both(&Finished { err: rest.into(), ..end });
}

#[guest_test]
fn a_flood_of_errors_waits_for_a_slow_reader_and_loses_nothing(platform: Platform) {
    let mut guest = Running::new(&mut platform.run("probe", &[], &["error-lines", "20000"]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(guest.child.try_wait().unwrap().is_none(), "the guest waits for its reader");
    let end = guest.finish().expect(0);
    assert_eq!(end.err.lines().count(), 20_000);
    assert!(end.err.lines().enumerate().all(|(n, line)| line == format!("line {n}")));
}

#[guest_test]
fn a_guest_outlives_the_reader_of_its_errors(platform: Platform) {
    let mut guest = Running::new(&mut platform.run("probe", &[], &["streams"]));
    drop(guest.child.stderr.take());
    assert_eq!(guest.finish().expect(0).text(), "data\nmore data\n");
}

#[guest_test]
fn without_a_place_for_errors_they_go_to_the_console(platform: Platform) {
    let engine = platform.engine(1);
    let builder = |output: &Buffer| {
        let image = Image::open(&guest("probe")).unwrap();
        Builder::new(image).argument("streams").output(output.clone())
    };
    let (all, data, errors) = (Buffer::default(), Buffer::default(), Buffer::default());
    let together = builder(&all).spawn(&engine).unwrap();
    let apart = builder(&data).error_output(errors.clone()).spawn(&engine).unwrap();
    for guest in [together, apart] {
        assert!(matches!(guest.wait(), Outcome::Exited(0)));
    }
    assert_eq!(data.text(), "data\nmore data\n");
    assert!(errors.text().starts_with("error\n["), "{}", errors.text());
    assert!(all.text().starts_with("data\nerror\n[") && all.text().ends_with("\n\nmore data\n"));
}

/// A socket that its other end reads, or does not.
struct Socket(UnixStream);

impl Output for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

/// An output that takes nothing until it is open, and cannot tell when that is.
struct Gate(Arc<AtomicBool>, Buffer);

impl Output for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.load(Ordering::SeqCst) {
            true => self.1.write(bytes),
            false => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[guest_test]
fn readers_that_do_not_read_keep_no_worker(platform: Platform) {
    let (engine, hello) = (platform.engine(2), Arc::new(Image::open(&guest("hello")).unwrap()));
    let start = |output: Box<dyn FnOnce(Builder) -> Builder>| -> Guest {
        output(Builder::new(hello.clone()).memory(4 << 20)).spawn(&engine).unwrap()
    };
    let (mut theirs, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (mut ours, other) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut full = 0;
        while let Ok(count) = ours.write(&[b'.'; 4096]) {
            full += count;
        }
        theirs.push((other, full));
        sockets.push(start(Box::new(|builder| builder.output(Socket(ours)))));
    }
    let (open, printed) = (Arc::new(AtomicBool::new(false)), Buffer::default());
    let gates: Vec<_> = (0..2)
        .map(|_| {
            let gate = Gate(open.clone(), printed.clone());
            start(Box::new(|builder| builder.output(gate)))
        })
        .collect();
    // More than there are workers have ended, with something left to be read.
    for guest in sockets.iter().chain(&gates) {
        eventually("the guest to exit", || guest.counters().contains(&("exit", 1)).then_some(()));
    }
    let output = Buffer::default();
    let other = start(Box::new({
        let output = output.clone();
        move |builder| builder.output(output)
    }));
    assert!(matches!(other.wait(), Outcome::Exited(0)));
    assert_eq!(output.text(), "Hello from a unikernel, world!\n");
    assert!(
        sockets.iter().chain(&gates).all(|guest| guest.outcome().is_none()),
        "they wait for their readers"
    );

    open.store(true, Ordering::SeqCst);
    for (mut reader, full) in theirs {
        let mut bytes = vec![0; full + output.bytes().len()];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[full..], output.bytes());
    }
    for guest in sockets.iter().chain(&gates) {
        assert!(matches!(guest.wait(), Outcome::Exited(0)));
    }
    assert_eq!(printed.text(), output.text().repeat(2));
    // Nor does one that nobody waits for any longer.
    let closed = start(Box::new(|builder| builder.output(Gate(Arc::default(), Buffer::default()))));
    eventually("the guest to exit", || closed.counters().contains(&("exit", 1)).then_some(()));
    closed.controller().abandon();
    assert!(matches!(closed.wait(), Outcome::Exited(0)));
}
