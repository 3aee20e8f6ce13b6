//! Why a request has no answer.

use crate::crash::CrashReport;
use std::error::Error;
use std::time::Duration;

/// Why there is no answer, or only the beginning of one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest crashed.
    #[error("the guest crashed: {}", .0.reason)]
    Crashed(Box<CrashReport>),
    /// The guest ended by itself instead of answering.
    #[error("the guest ended with exit code {0} instead of answering")]
    Exited(u8),
    /// The time for one request is over.
    #[error("the time for one request is over")]
    WallTime,
    /// Its processor time is used up.
    #[error("the processor time for one request is used up")]
    CpuTime,
    /// As many guests as allowed are there already.
    #[error("as many guests as allowed are busy")]
    Full,
    /// It has crashed many times in a row, and is not tried for this long.
    #[error("the function crashes always: it is tried again in {0:?}")]
    BackOff(Duration),
    /// The host cannot start another guest.
    #[error("no further guest can be started: {0}")]
    NoRoom(#[source] Box<dyn Error + Send + Sync>),
    /// A binding cannot be reached, and the guest could not do without it.
    #[error("binding {0} cannot be reached")]
    Unreachable(String),
    /// The function is being shut down.
    #[error("the function is being shut down")]
    Stopped,
}
