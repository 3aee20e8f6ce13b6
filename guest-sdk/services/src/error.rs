//! What goes wrong.

use alloc::string::String;
use core::fmt;
use embedded_io_async::ErrorKind;
use hv_abi::io::services::Status;

/// Why an operation failed. The text, from the host, says which binding it was and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no such key, blob or secret.
    NotFound,
    /// The condition of a change does not hold: somebody else has changed the value.
    Conflict,
    /// The function was given nothing of this name, or may not go there.
    Denied(String),
    /// A name, a key or a size that is never valid.
    Invalid(String),
    /// More bytes than allowed.
    TooLarge(String),
    /// More operations, connections or bytes than allowed; trying later may help.
    Limited(String),
    /// What is behind it does not answer. A handler that returns this error answers 503.
    Unreachable(String),
    /// What is behind it has failed, or the connection was broken.
    Failed(String),
    /// There is no request yet: nothing can be reached before the first one.
    NoRequest,
    /// The guest has no services device.
    NoDevice,
    /// The host broke the device's protocol. Nothing works any more.
    Broken,
}

impl Error {
    pub(crate) fn of(status: u16, text: String) -> Error {
        match Status::from_number(status) {
            Some(Status::NotFound) => Error::NotFound,
            Some(Status::Conflict) => Error::Conflict,
            Some(Status::Denied) => Error::Denied(text),
            Some(Status::Invalid) => Error::Invalid(text),
            Some(Status::TooLarge) => Error::TooLarge(text),
            Some(Status::Limited) => Error::Limited(text),
            Some(Status::Unreachable) => Error::Unreachable(text),
            Some(Status::NoRequest) => Error::NoRequest,
            Some(Status::Ok | Status::Failed) | None => Error::Failed(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, text) = match self {
            Error::NotFound => ("there is no such key", ""),
            Error::Conflict => ("the value was changed meanwhile", ""),
            Error::Denied(text) => ("not allowed", &**text),
            Error::Invalid(text) => ("not valid", &**text),
            Error::TooLarge(text) => ("too large", &**text),
            Error::Limited(text) => ("too much at a time", &**text),
            Error::Unreachable(text) => ("not reachable", &**text),
            Error::Failed(text) => ("failed", &**text),
            Error::NoRequest => ("services are there for requests: there is none yet", ""),
            Error::NoDevice => {
                ("this guest has no services: run it with hv serve, and name some in its table", "")
            }
            Error::Broken => ("the host broke the protocol of the services device", ""),
        };
        f.write_str(what)?;
        if text.is_empty() { Ok(()) } else { write!(f, ": {text}") }
    }
}

impl core::error::Error for Error {}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound => ErrorKind::NotFound,
            Error::Conflict => ErrorKind::AlreadyExists,
            Error::Denied(_) | Error::NoRequest => ErrorKind::PermissionDenied,
            Error::Invalid(_) | Error::TooLarge(_) => ErrorKind::InvalidInput,
            Error::Limited(_) => ErrorKind::OutOfMemory,
            Error::Unreachable(_) => ErrorKind::ConnectionRefused,
            Error::Failed(_) => ErrorKind::ConnectionAborted,
            Error::NoDevice => ErrorKind::Unsupported,
            Error::Broken => ErrorKind::Other,
        }
    }
}

impl From<hv_abi::ring::Violation> for Error {
    fn from(_: hv_abi::ring::Violation) -> Self {
        Error::Broken
    }
}
