//! What goes wrong.

use alloc::string::String;
use core::fmt;
use embedded_io_async::ErrorKind;

/// Why a body could not be read, or an answer not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request was cancelled: the answer is not read.
    Cancelled,
    /// The body is longer than was allowed.
    TooLong,
    /// The heap has no room for the body.
    NoMemory,
    /// The host broke the device's protocol. Nothing works any more.
    Broken,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Cancelled => "the request was cancelled",
            Error::TooLong => "the request's body is too long",
            Error::NoMemory => "no memory for the request's body",
            Error::Broken => "the host broke the protocol of the function device",
        })
    }
}

impl core::error::Error for Error {}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Cancelled => ErrorKind::ConnectionAborted,
            Error::TooLong => ErrorKind::InvalidInput,
            Error::NoMemory => ErrorKind::OutOfMemory,
            Error::Broken => ErrorKind::Other,
        }
    }
}

impl From<hv_abi::ring::Violation> for Error {
    fn from(_: hv_abi::ring::Violation) -> Self {
        Error::Broken
    }
}

/// Why a function stopped serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeError {
    /// The guest was given no function device.
    NoDevice,
    /// The host broke the device's protocol.
    Broken,
    /// A handler failed after the head of its answer had left, for this
    /// reason. Half an answer cannot be taken back, and ending it would make
    /// it look whole: the guest has to end instead.
    Abandoned(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::NoDevice => f.write_str("no function device: run the guest with hv serve"),
            ServeError::Broken => Error::Broken.fmt(f),
            ServeError::Abandoned(reason) => write!(f, "an answer was given up in the middle: {reason}"),
        }
    }
}

impl core::error::Error for ServeError {}

impl From<hv_abi::ring::Violation> for ServeError {
    fn from(_: hv_abi::ring::Violation) -> Self {
        ServeError::Broken
    }
}
