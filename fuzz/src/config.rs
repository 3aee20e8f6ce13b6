//! What people write: `hv.toml`, and the command line with sizes, times, disks and ports.

use crate::{Input, Seed};
use clap::Parser;
use hv::device::block::DiskSpec;
use hv::device::net::Publish;
use hv_cli::Cli;
use hv_host::units;
use hv_serve::door as serve;
use std::path::{Path, PathBuf};

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte() % 4;
    let text = String::from_utf8_lossy(input.rest());
    match mode {
        0 => file(&text),
        1 => values(&text),
        2 => arguments(&text),
        _ => {
            let functions: Vec<_> = text.split('\n').map(str::to_owned).collect();
            let _ = hv_serve::config::of_arguments(&functions, &resolve);
        }
    }
}

/// Any image is there, and none is built.
fn resolve(name: &str) -> Result<PathBuf, String> {
    if name.is_empty() { Err("no name".into()) } else { Ok("/dev/null".into()) }
}

fn file(text: &str) {
    match serve::validate_config(Path::new("/nowhere/hv.toml"), text, &resolve) {
        Ok(config) => {
            assert!(!config.listen.is_empty() && config.connections > 0 && !config.drain.is_zero());
            for function in &config.functions {
                assert!(
                    !function.paths.is_empty() && function.paths.iter().all(|path| path.starts_with('/'))
                );
                assert!(function.deployment.concurrency > 0 && !function.deployment.wall_time.is_zero());
                assert!(function.is_same(function));
            }
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// What is wrong is said in one line, fit for a terminal.
fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
}

fn values(text: &str) {
    let _ = units::size(text);
    if let Ok(time) = units::time(text) {
        assert!(text.bytes().any(|byte| byte.is_ascii_digit()), "{time:?}");
    }
    let _ = text.parse::<DiskSpec>();
    if let Ok(publish) = text.parse::<Publish>() {
        assert!(publish.guest_port != 0);
    }
}

/// Arguments, one a line.
fn arguments(text: &str) {
    if let Err(error) = Cli::try_parse_from(std::iter::once("hv").chain(text.split('\n'))) {
        assert!(!error.to_string().is_empty());
    }
}

/// The example, and pieces of the manual.
pub fn seeds() -> Vec<Vec<u8>> {
    let with = |mode: u8, text: &str| Seed::default().byte(mode).raw(text.as_bytes()).done();
    let mut seeds = vec![with(0, include_str!("../../docs/hv.toml"))];
    for text in [
        "listen = [\"127.0.0.1:0\", \"[::1]:0\"]\nlog = \"off\"\nlog_format = \"json\"\nheader_time = 5\nconnections = 9\nguests = 3\n",
        "[function.a]\nimage = \"x\"\npath = \"/a\"\nmemory = 16777216\nargs = [\"1\", \"2\"]\ndisks = [\"a.img,ro\", \"b,overlay,sector=4096\"]\nenv = { A = 1, B = \"2\", C = 1.5 }\n",
        "[function.b]\nsnapshot = \"/tmp\"\npath = [\"/b\", \"/b/*\"]\nisolation = \"instance\"\nidle = \"1m\"\nconsole = \"off\"\nweight = 5\ncap = 50\nready_time = \"1s\"\nqueue_time = \"2.5s\"\n",
        "[function.c]\nimage = \"x\"\npath = \"/healthz\"\n",
        "[function.d]\nimage = \"x\"\npath = \"/d\"\nmethod = \"GET\"\n",
    ] {
        seeds.push(with(0, text));
    }
    for value in [
        "16M",
        "1.5m",
        "500ms",
        "18446744073709551615G",
        "a.img,ro",
        "b.img,overlay,sector=4096",
        "8080:80",
        "0.0.0.0:7007:7/udp",
        "[::1]:80:80/tcp",
        "a,direct,ro",
    ] {
        seeds.push(with(1, value));
    }
    for line in [
        "run\nweb\n--disk\ndocs\n--publish\n8080:80\n--memory\n64M\n--timeout\n5s\n--\n-x\ny",
        "snapshot\nweb\n-o\nweb.snap\n--net",
        "restore\nweb.snap\n--publish\n8080:80\n--disk-overlay",
        "serve\n--function\n/hello=fn-hello\n--listen\n127.0.0.1:0",
        "bench\n--quick\n--report\nbench.html",
        "completions\nbash",
        "run\n--help",
    ] {
        seeds.push(with(2, line));
    }
    seeds.push(with(3, "/hello=fn-hello\n/b/*=a"));
    seeds
}
