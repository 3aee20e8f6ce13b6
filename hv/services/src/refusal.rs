//! Why a call is not carried out.

use hv_abi::io::services::Status;
use hv_core::device::services::{Call, Closed};
use rustix::io::Errno;

/// Why a call is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The guest wants to hear no more.
    Closed,
    /// With this status, and a text for people.
    Status(Status, String),
    /// A binding of this name does not answer.
    Unreachable(String, String),
}

impl Refusal {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Refusal {
        Refusal::Status(status, text.into())
    }

    /// What metrics call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Refusal::Closed => "closed",
            Refusal::Status(status, _) => name(*status),
            Refusal::Unreachable(..) => name(Status::Unreachable),
        }
    }

    /// Tells the guest.
    pub(crate) fn tell(self, call: Call) {
        match self {
            Refusal::Closed => drop(call),
            Refusal::Status(status, text) => call.end(status, &text),
            Refusal::Unreachable(binding, text) => {
                call.unreachable(&binding, &format!("binding {binding}: {text}"));
            }
        }
    }
}

/// What metrics call a status.
pub(crate) fn name(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::NotFound => "not_found",
        Status::Conflict => "conflict",
        Status::Denied => "denied",
        Status::Invalid => "invalid",
        Status::TooLarge => "too_large",
        Status::Limited => "limited",
        Status::Unreachable => "unreachable",
        Status::Failed => "failed",
        Status::NoRequest => "no_request",
    }
}

impl From<Closed> for Refusal {
    fn from(_: Closed) -> Self {
        Refusal::Closed
    }
}

/// Of a file in a folder. The guest is not told paths of the host.
impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Refusal::new(Status::NotFound, ""),
            Errno::NOSPC | Errno::DQUOT => Refusal::new(Status::Failed, "the host's disk is full"),
            Errno::NAMETOOLONG => Refusal::new(Status::Invalid, "the key is too long"),
            error => Refusal::new(Status::Failed, format!("the host's file system: {error}")),
        }
    }
}
