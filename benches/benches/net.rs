//! Guests that serve HTTP against the same server code as a process of the
//! host, over the loopback interface: small answers under `wrk`, one large one,
//! and a request at a time. Besides, what `redis-benchmark` says of `kv`.

use criterion::Bencher;
use hv_benches::pair::{Ratio, words};
use hv_benches::suite::Suite;
use hv_tests::{Running, Service, guest, has_tools, release_hv};
use std::cell::LazyCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const FILE: &str = "1k.bin";
/// Bytes of the large answer.
const BULK: u64 = 1 << 30;
const MIB: f64 = (1 << 20) as f64;

fn hv() -> &'static Path {
    static HV: OnceLock<PathBuf> = OnceLock::new();
    HV.get_or_init(|| std::env::var_os("HV_BIN").map_or_else(|| release_hv().into(), PathBuf::from))
}

/// A guest with 64 MiB that serves a port.
fn in_guest(name: &str, options: &[&str], port: &str) -> Service {
    let image = guest(name);
    let command = |publish: &str| {
        let mut command = Command::new(hv());
        command.arg("run").arg(&image).args(["--memory", "64M", "--publish", publish]).args(options);
        command.stdin(Stdio::null());
        command
    };
    Service::of(command, port)
}

/// The process of the host that serves the same.
fn on_host(folder: &str) -> Service {
    let mut guest = Running::new(Command::new(env!("CARGO_BIN_EXE_host_web")).arg(folder));
    let mut output = BufReader::new(guest.child.stdout.take().expect("it is captured"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the output is text");
    guest.child.stdout = Some(output.into_inner());
    let port = line.trim().rsplit(' ').next().and_then(|port| port.parse().ok());
    Service { guest, port: port.expect("it names its port") }
}

/// The time per request under `wrk` with 64 connections.
fn under_wrk(port: u16) -> Duration {
    let url = format!("http://127.0.0.1:{port}/{FILE}");
    let output = Command::new("wrk").args(["-t2", "-c64", "-d3s", &url]).output().expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate: f64 = rate.and_then(|rate| rate.trim().parse().ok()).expect("wrk says how many");
    Duration::from_secs_f64(1.0 / rate)
}

/// The time per MiB of one large answer.
fn bulk(port: u16) -> Duration {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let start = Instant::now();
    write!(socket, "GET /stream/{BULK} HTTP/1.1\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    while let count @ 1.. = socket.read(&mut buffer).expect("it answers") {
        bytes += count as u64;
    }
    let time = start.elapsed();
    assert!((BULK..BULK + 1024).contains(&bytes), "{bytes} bytes, with a head");
    time.div_f64(BULK as f64 / MIB)
}

/// Prints a line of speeds in things per second.
fn print(ratio: &Ratio, what: &str, reach: &str, unit: &str) {
    println!(
        "speed: {what} | host {:.0} {unit}/s | hv {:.0} {unit}/s | {} | reach {reach}",
        1.0 / ratio.floor.median,
        1.0 / ratio.ours.median,
        words(&ratio.ratio.inverse()),
    );
}

/// One request after the other on one connection.
fn one_at_a_time(bencher: &mut Bencher, port: u16) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    socket.set_nodelay(true).expect("it is TCP");
    let mut answer = vec![0; 64 << 10];
    let mut ask = |expected: usize| {
        write!(socket, "GET /{FILE} HTTP/1.1\r\n\r\n").expect("it reads");
        let mut count = 0;
        while count < expected {
            count += socket.read(&mut answer[count..]).expect("it answers");
        }
        count
    };
    let all = ask(1024 + 100);
    bencher.iter(|| ask(all));
}

/// Prints what `redis-benchmark` says of the guest `kv`.
fn kv() {
    let kv = in_guest("kv", &[], "6379");
    for pipeline in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-q", "-t", "set,get", "-n", "200000", "-c", "50", "-P", pipeline]);
        let output = command.args(["-p", &kv.port.to_string()]).output().expect("redis-benchmark runs");
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.split(['\r', '\n']).filter(|line| line.contains("requests per second")) {
            println!("kv: pipeline of {pipeline} | {}", line.trim());
        }
    }
    kv.end();
}

fn main() -> ExitCode {
    let suite = Suite::of_arguments();
    // Nothing is started before it is known that it is needed.
    let folder = LazyCell::new(|| {
        let folder = tempfile::tempdir().expect("room for a file");
        std::fs::write(folder.path().join(FILE), [b'x'; 1024]).expect("room for a file");
        folder
    });
    let path = || folder.path().to_str().expect("a plain path");
    let host = LazyCell::new(|| on_host(path()));
    let web = LazyCell::new(|| in_guest("web", &["--disk", path()], "80"));
    let what = "HTTP, wrk -c 64, 1 KiB";
    if suite.wants(what) && has_tools(&["wrk"]) {
        let (floor, ours) = (|| under_wrk(host.port), || under_wrk(web.port));
        suite.pair(what, 6, floor, ours, |ratio| print(ratio, what, "0.4 x the speed", "requests"));
    }
    let stream = LazyCell::new(|| in_guest("stream", &[], "80"));
    let what = "HTTP, one stream of 1 GiB";
    let (floor, ours) = (|| bulk(host.port), || bulk(stream.port));
    suite.pair(what, 7, floor, ours, |ratio| print(ratio, what, "0.25 x the speed", "MiB"));
    let what = "kv, redis-benchmark";
    if suite.wants(what) && has_tools(&["redis-benchmark"]) {
        suite.run(what, kv);
    }

    suite.criterion(|criterion| {
        let mut group = criterion.benchmark_group("net");
        group.bench_function("host, one request at a time", |b| one_at_a_time(b, host.port));
        group.bench_function("guest, one request at a time", |b| one_at_a_time(b, web.port));
        group.finish();
    });
    suite.end()
}
