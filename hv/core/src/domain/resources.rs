//! What the host gives to a guest, for booted and for restored guests.

use crate::device::BackEnd;
use crate::device::console::{Input, Output};
use crate::device::stdio::Buffer;
use crate::sched::Share;

/// All resources that a guest gets from the host besides its memory.
pub(super) struct Resources {
    pub(super) output: Box<dyn Output>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) input: Option<Box<dyn Input>>,
    /// Its devices in their order, without the console.
    pub(super) back_ends: Vec<Box<dyn BackEnd>>,
    pub(super) share: Share,
}

impl Default for Resources {
    /// Dropped output, and no other resources.
    fn default() -> Self {
        Resources {
            output: Box::new(Buffer::new(0)),
            errors: None,
            input: None,
            back_ends: Vec::new(),
            share: Share::default(),
        }
    }
}
