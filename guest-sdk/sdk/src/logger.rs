//! The back end of [`log`]: lines on the error output.
//!
//! The environment variable `LOG` sets the level (`off`, `error`, `warn`,
//! `info`, `debug`, `trace`); without it, it is `info`. Nothing is allocated.
#![forbid(unsafe_code)]

use crate::console::eprintln;
use crate::{clock, env};
use log::{LevelFilter, Log, Metadata, Record};

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let micros = clock::now_nanos() / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            eprintln!(
                "[{seconds:5}.{micros:06}] {:5} {}: {}",
                record.level(),
                record.target(),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}

/// The level from the environment. An unknown level is reported, and ignored.
fn level() -> LevelFilter {
    const DEFAULT: LevelFilter = LevelFilter::Info;
    let Some(text) = env::var("LOG") else { return DEFAULT };
    text.parse().unwrap_or_else(|_| {
        eprintln!(
            "LOG={}: no such level, taking info; use off, error, warn, info, debug or trace",
            text.escape_debug()
        );
        DEFAULT
    })
}

/// Installs it; called before `main`.
pub(crate) fn install() {
    // It cannot have been set before: this runs once, before anything else.
    let _ = log::set_logger(&Lines);
    log::set_max_level(level());
}
