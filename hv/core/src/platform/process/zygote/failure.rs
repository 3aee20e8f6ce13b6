//! Why a start has no process.
#![forbid(unsafe_code)]

use super::channel::NotSent;
use super::reply::Violation;
use crate::platform::PlatformError;
use crate::platform::process::{ProcessError, failed};
use std::io;
use std::time::{Duration, Instant};

/// At most one warning about a zygote in this time.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// Why a start has no process.
pub(super) enum StartFailure {
    /// The host refuses something. The zygote continues.
    Refused(PlatformError),
    /// The host refuses the process to map the guest's memory in this way. Likewise.
    Unmapped(PlatformError),
    /// The host refused the zygote a process, and the zygote has ended, possibly some time ago.
    Exhausted(PlatformError),
    /// Nothing more that arrives on the zygote's socket can be trusted.
    Poisoned(Violation),
}

impl StartFailure {
    pub(super) fn not_sent(error: NotSent) -> StartFailure {
        match error {
            NotSent::Violation(violation) => StartFailure::Poisoned(violation),
            NotSent::Refused(error) => StartFailure::Refused(failed("asking for a process")(error)),
        }
    }

    pub(super) fn into_error(self) -> PlatformError {
        match self {
            StartFailure::Refused(error) | StartFailure::Unmapped(error) | StartFailure::Exhausted(error) => {
                error
            }
            StartFailure::Poisoned(violation) => ProcessError::zygote(violation).into(),
        }
    }
}

pub(super) fn refused(what: &'static str, error: Option<i32>) -> PlatformError {
    failed(what)(error.map_or(io::ErrorKind::InvalidData.into(), io::Error::from_raw_os_error))
}

/// Logs poisoned zygotes, at a limited rate.
#[derive(Default)]
pub(super) struct Warnings {
    last: Option<Instant>,
    untold: u64,
}

impl Warnings {
    pub(super) fn warn(&mut self, violation: &Violation) {
        if self.last.is_some_and(|last| last.elapsed() < BETWEEN_WARNINGS) {
            self.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut self.untold);
        tracing::warn!(untold, "platform process: a zygote was ended and is replaced: {violation}");
        self.last = Some(Instant::now());
    }
}
