//! Nonces of requests.
#![forbid(unsafe_code)]

use std::io;

/// Nonces that distinguish replies. None is used twice, and different engines have different ones.
pub(super) struct Nonces(u64);

impl Nonces {
    pub(super) fn new() -> io::Result<Nonces> {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Nonces(u64::from_le_bytes(bytes)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}
