//! Secrets.

use crate::call::{Call, Open};
use crate::{Channel, Error, Link};
use alloc::vec::Vec;
use core::fmt;
use hv_abi::io::services::Operation;

/// A secret. It is not shown by `{:?}`, and its memory is overwritten when it is dropped.
#[derive(PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text; `None` if it is none.
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler must not leave out what nobody reads.
        core::hint::black_box(&self.0);
    }
}

/// The secret of this name.
///
/// # Errors
///
/// [`Error::NotFound`] if the function was given none of this name; and all other [`Error`]s.
pub async fn secret<L: Link>(channel: &Channel<L>, key: &str) -> Result<Secret, Error> {
    let open = Open { key, ..Open::default() };
    let mut call = Call::open(channel, Operation::Secret, open, true)?;
    let size = call.answer().await?.size;
    call.read_to_vec(size).await.map(Secret)
}
