//! What the host gives to a guest, whether that begins or resumes from a snapshot.

use crate::device::BackEnd;
use crate::device::console::{Input, Output};
use crate::device::stdio::Buffer;
use crate::sched::Share;

/// All that a guest gets of the host beside its memory.
pub(super) struct Resources {
    pub(super) output: Box<dyn Output>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) input: Option<Box<dyn Input>>,
    /// Its devices in their order, the console excepted.
    pub(super) back_ends: Vec<Box<dyn BackEnd>>,
    pub(super) share: Share,
}

impl Default for Resources {
    /// Output that is dropped, and nothing else.
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
