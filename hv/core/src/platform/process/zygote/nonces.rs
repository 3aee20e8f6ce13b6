//! The numbers of requests.
#![forbid(unsafe_code)]

use std::io;

/// Numbers by which answers are told apart: none is used twice, and none of one engine is another's.
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
