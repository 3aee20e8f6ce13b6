//! hv's own log on standard error, with a limit on the warnings that guests can cause.

use super::OneLine;
use hv_host::rate_limit::Bucket;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes of warnings at once, and each second in the long run.
const AT_ONCE: u64 = 64 << 10;
const PER_SECOND: u64 = 4 << 10;

/// Sends hv's own log to standard error: warnings, and with `-v` and `-vv` more.
pub(super) fn log(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // With `-vv` there is no limit.
    let bucket = (verbose == 0).then(|| Mutex::new(Bucket::new(AT_ONCE, PER_SECOND, Instant::now())));
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Warnings { bucket })
        .with_target(false)
        .without_time()
        .init();
}

/// Makes the writer of a message.
struct Warnings {
    bucket: Option<Mutex<Bucket>>,
}

/// Standard error for one message, or nothing.
struct Message<'a> {
    bucket: Option<&'a Mutex<Bucket>>,
    is_told: bool,
}

impl<'a> MakeWriter<'a> for Warnings {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        let Some(bucket) = &self.bucket else { return Message { bucket: None, is_told: true } };
        let now = Instant::now();
        let mut state = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.take_left_out(now) {
            let line = format!(" WARN {count} further lines left out\n");
            state.charge(line.len());
            // Standard error may be closed: an error of the write is ignored.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        Message { bucket: Some(bucket), is_told: state.allows(now) }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Message<'a> {
        // Errors of hv itself are always printed.
        match *metadata.level() {
            Level::ERROR => Message { bucket: None, is_told: true },
            _ => self.make_writer(),
        }
    }
}

impl Write for Message<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_told {
            return Ok(bytes.len());
        }
        if let Some(bucket) = self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).charge(bytes.len());
        }
        OneLine(io::stderr()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_ends() {
        let warnings = Warnings { bucket: Some(Mutex::new(Bucket::new(10, 1, Instant::now()))) };
        assert!(warnings.make_writer().is_told);
        warnings.bucket.as_ref().unwrap().lock().unwrap().charge(1_000_000);
        assert!(!warnings.make_writer().is_told);
        assert_eq!(warnings.make_writer().write(b"lost").unwrap(), 4);
        assert!(Warnings { bucket: None }.make_writer().is_told);
    }
}
