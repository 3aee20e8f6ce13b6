//! The harness of the integration tests: builds the guests, runs hv, and finds
//! the tools that a test needs.
//!
//! `HV_BIN` and `HV_GUESTS` (a program, a folder) replace building, for
//! machines without cargo.

pub mod console;
pub mod control;
pub mod debug;
pub mod haproxy;
pub mod host;
pub mod http;
mod platform;
pub mod refusal;
pub mod serve;
pub mod services;
pub mod snapshot;
pub mod stalling;
pub mod trace;

pub use hv_skip::skip;
pub use hv_tests_macros::guest_test;
pub use platform::{Platform, run_on};

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest that any guest of a test may take.
pub const LIMIT: Duration = Duration::from_secs(120);

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the workspace")
}

fn cargo(folder: &str, arguments: &[&str]) {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace().join(folder))
        .args(arguments)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo {arguments:?} failed");
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The `hv` program, freshly built.
pub fn hv() -> &'static Path {
    static HV: OnceLock<PathBuf> = OnceLock::new();
    HV.get_or_init(|| {
        if let Some(program) = std::env::var_os("HV_BIN") {
            return program.into();
        }
        // Which features dependencies have is decided by what is built together. These choices make them
        // those of `cargo test --workspace`: nothing that it has built is built again.
        cargo(".", &["build", "--quiet", "--workspace", "--bin", "hv", "--test", "loom"]);
        target().join("debug/hv")
    })
}

/// The `hv` program as it is measured: built for release.
pub fn release_hv() -> &'static Path {
    static HV: OnceLock<PathBuf> = OnceLock::new();
    HV.get_or_init(|| {
        cargo(".", &["build", "--quiet", "--release", "--package", "hv", "--bin", "hv"]);
        target().join("release/hv")
    })
}

/// The image of a guest, freshly built with all the others.
pub fn guest(name: &str) -> PathBuf {
    static GUESTS: OnceLock<PathBuf> = OnceLock::new();
    let folder = GUESTS.get_or_init(|| {
        if let Some(folder) = std::env::var_os("HV_GUESTS") {
            return folder.into();
        }
        cargo("guest-sdk", &["build", "--quiet", "--profile", "guest", "--workspace", "--bins"]);
        target().join("guest")
    });
    folder.join(name)
}

/// `hv`, not yet started, on the platform that it takes by itself. For what is refused before there is a guest, and where
/// the platform makes no difference; others ask for one ([`Platform::command`]).
pub fn command() -> Command {
    Command::new(hv())
}

/// The folder with rustdoc's pages of a workspace, freshly made as `.ci/run` makes them.
pub fn documentation(folder: &str) -> Option<PathBuf> {
    if std::env::var_os("HV_BIN").is_some() {
        skip("needs cargo: HV_BIN is set");
        return None;
    }
    cargo(folder, &["doc", "--workspace", "--no-deps", "--lib", "--quiet"]);
    Some(target().join("doc"))
}

/// Whether guests can run here on any platform; says why not.
pub fn can_run_guests() -> bool {
    match hv::platform::choose(hv::platform::Preference::Auto) {
        Ok(_) => true,
        Err(error) => {
            skip(format_args!("needs the platform kvm or process: {error}"));
            false
        }
    }
}

/// Whether these programs are installed; says which one is not.
pub fn has_tools(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
            || ["/usr/sbin", "/sbin"].iter().any(|folder| Path::new(folder).join(tool).is_file());
        if !found {
            crate::skip(format_args!("needs {tool}"));
        }
        found
    })
}

/// A program that is found in the folders of administrators, too.
pub fn system_tool(name: &str) -> Command {
    let folders = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    Command::new(folders.into_iter().find(|path| path.is_file()).unwrap_or_else(|| name.into()))
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Finished {
    /// Runs any program to its end, however that is.
    pub fn of(command: &mut Command) -> Finished {
        Running::new(command.stdin(Stdio::null())).finish()
    }

    /// Its exit code; a signal is none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Itself, if the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(
            self.code(),
            Some(code),
            "standard error:\n{}\nstandard output:\n{}",
            self.err,
            beginning(&self.text())
        );
        self
    }
}

/// As much of a text as a failed test prints.
fn beginning(text: &str) -> &str {
    const MOST: usize = 4000;
    &text[..text.floor_char_boundary(MOST)]
}

/// A program that runs; killed when dropped.
pub struct Running {
    /// The process.
    pub child: Child,
}

impl Running {
    /// Starts `command` with its output captured.
    pub fn new(command: &mut Command) -> Running {
        let child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        Running { child }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no memory is passed; the process is this one's child, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end, reading its output meanwhile.
    pub fn finish(mut self) -> Finished {
        let (mut out, mut err) = (self.child.stdout.take(), self.child.stderr.take());
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.as_mut().map(|err| err.read_to_end(&mut text));
            text
        });
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.as_mut().map(|out| out.read_to_end(&mut bytes));
            bytes
        });
        let status = self.wait();
        let out = output.join().expect("reading does not panic");
        let err = String::from_utf8_lossy(&errors.join().expect("reading does not panic")).into_owned();
        Finished { status, out, err }
    }

    /// Waits for its end without reading.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "the program hangs");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name, parent and state of a process; `None` if there is none of this number.
pub fn stat(process: u32) -> Option<(String, u32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((name.into(), fields.next()?.parse().ok()?, state))
}

/// The children of a process that have this name, and have not ended.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("it is mounted");
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        stat(*process).is_some_and(|(has, of, state)| of == parent && state != 'Z' && has == name)
    };
    all.filter(is_child).collect()
}

/// Runs any program to its end, and expects it to succeed.
#[track_caller]
pub fn tool(command: &mut Command) -> Finished {
    Running::new(command.stdin(Stdio::null())).finish().expect(0)
}

/// A TCP port of the loopback interface that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has free ports").port()
}

/// A UDP port of the loopback interface that is free now.
pub fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("loopback has free ports").port()
}

/// A guest that serves a port of its own on a port of the loopback interface.
pub struct Service {
    /// hv with the guest.
    pub guest: Running,
    /// The port of the host.
    pub port: u16,
}

impl Service {
    /// Starts a guest that serves `port` (written as `80` or `7/udp`), and
    /// waits until it says that it listens.
    #[track_caller]
    pub fn start(platform: Platform, name: &str, options: &[&str], port: &str) -> Service {
        Service::of(|publish| platform.run(name, &[options, &["--publish", publish]].concat(), &[]), port)
    }

    /// As [`start`](Self::start), with the command made from the value of `--publish`.
    #[track_caller]
    pub fn of(command: impl Fn(&str) -> Command, guest_port: &str) -> Service {
        eventually("a free port", || {
            // Free now, which may change until hv takes it.
            let port = if guest_port.ends_with("/udp") { free_udp_port() } else { free_port() };
            let publish = format!("127.0.0.1:{port}:{guest_port}");
            let mut guest = Running::new(&mut command(&publish));
            let mut output = BufReader::new(guest.child.stdout.take().expect("it is captured"));
            let mut line = String::new();
            while !line.contains(" port ") {
                line.clear();
                if output.read_line(&mut line).expect("the output is text") == 0 {
                    let end = guest.finish();
                    assert!(end.err.contains("in use"), "{}", end.err);
                    return None;
                }
            }
            // Closing it would end the guest.
            guest.child.stdout = Some(output.into_inner());
            Some(Service { guest, port })
        })
    }

    /// Asks the guest to end, and expects that it does so in good order.
    #[track_caller]
    pub fn end(self) -> Finished {
        self.guest.signal(libc::SIGTERM);
        let end = self.guest.finish().expect(0);
        let complaints = end.err.lines().find(|line| !line.contains("the guest was asked to end"));
        assert_eq!(complaints, None);
        end
    }
}

/// `hv …` as an ordinary user: as nobody if this is root. Says why that cannot be.
pub fn hv_as_ordinary_user(arguments: &[&str]) -> Option<Command> {
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        let mut command = command();
        command.args(arguments).stdin(Stdio::null());
        return Some(command);
    }
    if !has_tools(&["setpriv"]) {
        return None;
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        command.arg(hv()).args(arguments).stdin(Stdio::null());
        command
    };
    // The folder that the program is in may be root's alone.
    let tried = as_nobody(&["--version"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        crate::skip(format_args!("needs an hv that other users may run: {}", hv().display()));
        return None;
    }
    Some(as_nobody(arguments))
}

/// Tries until it succeeds; panics after [`LIMIT`].
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
