//! What `main` may return, and the resulting exit code.
#![forbid(unsafe_code)]

use crate::console::eprintln;
use core::fmt::Display;

/// What `main` may return: nothing, an exit code, or a `Result` whose error is printed.
pub trait Termination {
    /// The guest's exit code.
    fn report(self) -> u8;
}

impl Termination for () {
    fn report(self) -> u8 {
        0
    }
}

impl Termination for u8 {
    fn report(self) -> u8 {
        self
    }
}

impl<T: Termination, E: Display> Termination for Result<T, E> {
    fn report(self) -> u8 {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                eprintln!("error: {error}");
                1
            }
        }
    }
}
