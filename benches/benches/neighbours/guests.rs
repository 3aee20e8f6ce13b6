//! Guests of one engine: the neighbour echoes what its console is sent, and others attack.

use crate::{Selection, as_client};
use hv::device::block::{Disk, DiskSpec};
use hv::device::console::{Input, Output};
use hv::device::net::user::{UserConfig, UserNet};
use hv::platform::Platform;
use hv::{Builder, Engine, Guest, Image};
use hv_tests::guest;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A time slice spent asleep: on the platform `process` only.
pub(crate) const ASLEEP: &str = "asleep in its own turn";

/// Who attacks.
pub(crate) const ATTACKS: [&str; 11] = [
    "a guest that does nothing",
    "a spinner per processor",
    ASLEEP,
    "storm of hypercalls",
    "storm of doorbells",
    "storm of reads, 4 KiB",
    "storm of reads, 64 KiB",
    "storm of frames",
    "console flood, read at once",
    "console flood, nobody reads",
    "flood of errors, nobody reads",
];

/// An end of a console that another program reads or writes.
struct Stream(UnixStream);

impl Stream {
    /// One end for a guest, and the other.
    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets can be made");
        ours.set_nonblocking(true).expect("it is a socket");
        (Stream(ours), theirs)
    }
}

impl Output for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

impl Input for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

/// The guest whose client is measured.
struct Echo {
    _guest: Guest,
    input: UnixStream,
    output: UnixStream,
}

impl Echo {
    fn start(engine: &Engine) -> Echo {
        let ((ours_in, input), (ours_out, output)) = (Stream::pair(), Stream::pair());
        let builder = Builder::new(image("echo")).memory(4 << 20).input(ours_in).output(ours_out);
        Echo { _guest: builder.spawn(engine).expect("it starts"), input, output }
    }

    /// A line, there and back.
    fn ask(&mut self) {
        let (line, mut answer) = (b"is anybody there?", [0; 17]);
        self.input.write_all(line).expect("it reads");
        self.output.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, line);
    }
}

fn image(name: &str) -> Arc<Image> {
    Arc::new(Image::open(&guest(name)).expect("it was built"))
}

/// The devices of an attacker.
fn with_disk(builder: Builder, file: &std::path::Path) -> Builder {
    let mut spec = DiskSpec::new(file);
    spec.read_only = true;
    builder.disk(Disk::open(&spec).expect("the file can be opened"))
}

fn with_network(builder: Builder) -> Builder {
    let network = UserNet::new(UserConfig::new([2, 0, 0, 0, 0, 1])).expect("nothing is published");
    builder.network(Box::new(network), None)
}

pub(crate) fn measure(selection: &Selection, platform: &str, on: Box<dyn Platform>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = Engine::new(on, cores).expect("an engine can be made");
    let file = tempfile::NamedTempFile::new().expect("room for a file");
    file.as_file().set_len(64 << 20).expect("room for a file");
    // In the page cache.
    let _ = std::fs::read(file.path()).expect("it can be read");
    let (hostile, reads) = (image("hostile"), image("reads"));
    let attacker = |image: &Arc<Image>, arguments: &[&str]| {
        let builder = Builder::new(image.clone()).memory(8 << 20);
        arguments.iter().fold(builder, |builder, argument| builder.argument(argument))
    };
    // As many as there are processors, each of them made so.
    let all = |make: &dyn Fn() -> Builder| -> Vec<Guest> {
        (0..cores).map(|_| make().spawn(&engine).expect("it starts")).collect()
    };
    let forever = "1000000000000";
    as_client(|| {
        let mut echo = Echo::start(&engine);
        let ask: &mut dyn FnMut() = &mut || echo.ask();
        let mut attack = |what: &str, make: &dyn Fn() -> Builder| {
            selection.measure(platform, &format!("echo: {what}"), ask, || all(make));
        };
        attack("a guest that does nothing", &|| attacker(&hostile, &["sleep-forever"]));
        attack("a spinner per processor", &|| attacker(&hostile, &["endless-loop"]));
        if platform == "process" {
            attack(ASLEEP, &|| attacker(&hostile, &["sleeps-in-its-turn"]));
        }
        attack("storm of hypercalls", &|| attacker(&image("probe"), &["hypercalls", "1000000000"]));
        attack("storm of doorbells", &|| {
            with_network(with_disk(attacker(&hostile, &["doorbell-storm", forever]), file.path()))
        });
        attack("storm of reads, 4 KiB", &|| {
            with_disk(attacker(&reads, &["random", "4096", "64", forever]), file.path())
        });
        attack("storm of reads, 64 KiB", &|| {
            with_disk(attacker(&reads, &["random", "65536", "64", forever]), file.path())
        });
        attack("storm of frames", &|| with_network(attacker(&hostile, &["frame-storm"])));
        attack("console flood, read at once", &|| attacker(&hostile, &["flood"]));
        let unread = Stream::pair();
        attack("console flood, nobody reads", &|| {
            attacker(&hostile, &["flood"]).output(Stream(unread.0.0.try_clone().expect("it is open")))
        });
        attack("flood of errors, nobody reads", &|| {
            let errors = Stream(unread.0.0.try_clone().expect("it is open"));
            attacker(&image("probe"), &["error-lines", "1000000000"]).error_output(errors)
        });
    });
}
