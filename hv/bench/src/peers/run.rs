//! One run of a peer.

use hv_host::escape::escape;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a run may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What a run took, from the start of the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first_byte: Duration,
    pub(super) whole: Duration,
}

/// Runs it to its end; or why that failed, in a line.
pub(super) fn once(command: &[OsString]) -> Result<Times, String> {
    let [program, arguments @ ..] = command else { return Err("no command".into()) };
    let begin = Instant::now();
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("{} cannot be started: {error}", escape(program)))?;
    let outcome = follow(&mut child, begin);
    if outcome.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

fn follow(child: &mut Child, begin: Instant) -> Result<Times, String> {
    let mut output = child.stdout.take().ok_or("no pipe")?;
    let (mut first, mut bytes) = (None, [0; 256]);
    loop {
        let left = LIMIT.saturating_sub(begin.elapsed());
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(&output, PollFlags::IN)];
        match poll(&mut ready, Some(&wait)) {
            Ok(0) => return Err(format!("it did not end within {} s", LIMIT.as_secs())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(format!("waiting for it: {error}")),
        }
        match output.read(&mut bytes) {
            Ok(0) => break,
            Ok(_) => first = first.or_else(|| Some(begin.elapsed())),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("reading what it prints: {error}")),
        }
    }
    let status = child.wait().map_err(|error| format!("waiting for it: {error}"))?;
    let whole = begin.elapsed();
    match first {
        Some(first_byte) if status.success() => Ok(Times { first_byte, whole }),
        _ => Err(format!("it ended with {status}{}", complaint(child))),
    }
}

/// The last line that it complained with.
fn complaint(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(errors) = &mut child.stderr {
        // What cannot be read is not said.
        let _ = errors.take(4096).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(160).collect();
    if line.is_empty() { String::new() } else { format!(": {line}") }
}
