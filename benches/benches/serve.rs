//! `hv serve` with a fresh virtual machine for each request, against a server
//! that spawns a static program for each, in turns, under `wrk -c 16`.

use hv_benches::pair::words;
use hv_benches::suite::Suite;
use hv_stats::Estimate;
use hv_tests::{Running, guest, has_tools, release_hv};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Turns of each server.
const TURNS: usize = 6;

/// What wrk says of one turn; times in µs.
#[derive(Clone, Copy, Debug)]
struct Turn {
    rate: f64,
    median: f64,
    last: f64,
}

/// A server, and its port.
struct Server {
    _running: Running,
    port: u16,
}

impl Server {
    /// Starts a server that says where it listens: on standard error, or on standard output.
    fn start(command: &mut Command, on_error: bool) -> Server {
        let mut running = Running::new(command);
        let stream: Box<dyn Read + Send> = if on_error {
            Box::new(running.child.stderr.take().expect("it is captured"))
        } else {
            Box::new(running.child.stdout.take().expect("it is captured"))
        };
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(lines.read_line(&mut line).expect("it is text") > 0, "it ended");
        }
        // What it says later is read, too, so that it never waits.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let port = line.trim().rsplit([' ', ':']).next().and_then(|port| port.parse().ok());
        Server { _running: running, port: port.expect("it names its port") }
    }

    fn turn(&self) -> Turn {
        let url = format!("http://127.0.0.1:{}/hello", self.port);
        let output = Command::new("wrk").args(["-t2", "-c16", "-d3s", "--latency", &url]).output();
        let text = String::from_utf8(output.expect("wrk runs").stdout).expect("it is text");
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let of = |name: &str| {
            let line = text.lines().map(str::trim).find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).trim_start_matches(name).trim().to_owned()
        };
        Turn {
            rate: of("Requests/sec:").parse().expect("a number"),
            median: microseconds(&of("50%")),
            last: microseconds(&of("99%")),
        }
    }
}

/// A time as wrk writes it.
fn microseconds(text: &str) -> f64 {
    let at = text.find(|c: char| c.is_alphabetic()).expect("a unit");
    let number: f64 = text[..at].parse().expect("a number");
    match &text[at..] {
        "us" => number,
        "ms" => number * 1e3,
        "s" => number * 1e6,
        unit => panic!("the unit {unit}"),
    }
}

/// A static program that prints the same answer, built by the C library's own means.
fn static_program(folder: &Path) -> PathBuf {
    let program = folder.join("hello");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/static_hello.rs");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort"]);
    let status = rustc.args(["-C", "strip=symbols", "-o"]).arg(&program).arg(source).status();
    assert!(status.expect("rustc runs").success(), "the static program does not build");
    program
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Estimate::of(values, 1).median
}

fn print(what: &str, turns: &[Turn]) {
    println!(
        "serve: {what} | {:.0} requests/s | p50 {:.0} µs | p99 {:.0} µs",
        median(turns.iter().map(|turn| turn.rate)),
        median(turns.iter().map(|turn| turn.median)),
        median(turns.iter().map(|turn| turn.last)),
    );
}

const NAME: &str = "a virtual machine for each request, under wrk -c16";

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    if suite.wants(NAME) && hv_tests::can_run_guests() && has_tools(&["wrk"]) {
        suite.run(NAME, || measure(suite.times(TURNS)));
    }
    suite.end()
}

fn measure(turns: usize) {
    let folder = tempfile::tempdir().expect("room for a folder");
    let hv = std::env::var_os("HV_BIN").map_or_else(|| release_hv().into(), PathBuf::from);
    let function = format!("/hello={}", guest("fn-hello").display());
    let mut command = Command::new(hv);
    command.args(["serve", "--listen", "127.0.0.1:0", "--log", "off", "--function", &function]);
    let hv = Server::start(&mut command, true);
    let program = static_program(folder.path());
    let spawn = Server::start(Command::new(env!("CARGO_BIN_EXE_spawn_web")).arg(program), false);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    hv.turn();
    spawn.turn();
    for turn in 0..turns {
        // None is always the first.
        if turn % 2 == 0 {
            floor.push(spawn.turn());
            ours.push(hv.turn());
        } else {
            ours.push(hv.turn());
            floor.push(spawn.turn());
        }
    }
    print("a static program for each request", &floor);
    print("a virtual machine for each request", &ours);
    let ratio = |of: fn(&Turn) -> f64| {
        words(&Estimate::of(ours.iter().zip(&floor).map(|(ours, floor)| of(ours) / of(floor)), 1))
    };
    println!(
        "serve: machine to program | p50 {} | p99 {} | reach 1.0 x the latency, 4000 requests/s, p99 10 ms",
        ratio(|turn| turn.median),
        ratio(|turn| turn.last),
    );
}
