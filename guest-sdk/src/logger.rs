//! The back end of [`log`]: lines on the console.
//!
//! The environment variable `LOG` sets the level (`off`, `error`, `warn`,
//! `info`, `debug`, `trace`); without it, it is `info`. Nothing is allocated.
#![forbid(unsafe_code)]

use crate::{env, println, time};
use log::{LevelFilter, Log, Metadata, Record};

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let micros = time::now_nanos() / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            println!("[{seconds:5}.{micros:06}] {:5} {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Installs it; called before `main`.
pub(crate) fn install() {
    let level = env::var("LOG").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    // It cannot have been set before: this runs once, before anything else.
    let _ = log::set_logger(&Console);
    log::set_max_level(level);
}
