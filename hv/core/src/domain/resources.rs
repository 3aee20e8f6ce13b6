//! What the host gives to a guest, for booted and for restored guests.

use super::StartError;
use crate::budget::{Budget, Promise};
use crate::device::BackEnd;
use crate::device::console::{Input, Output};
use crate::device::stdio::Buffer;
use crate::sched::{Group, Share};
use std::sync::Arc;

/// All resources that a guest gets from the host besides its memory.
pub(super) struct Resources {
    pub(super) output: Box<dyn Output>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) input: Option<Box<dyn Input>>,
    /// Its devices in their order, without the console.
    pub(super) back_ends: Vec<Box<dyn BackEnd>>,
    pub(super) share: Share,
    pub(super) group: Option<Group>,
    /// Bytes of memory that the guest is promised; `None`: what is usual for guests of its kind.
    pub(super) promised_memory: Option<u64>,
    /// Whether pages of its memory that equal others on the host are shared with them.
    pub(super) share_equal_pages: bool,
}

impl Resources {
    /// What a guest is promised of its memory: this, or what is usual.
    pub(super) fn promise(&self, budget: &Arc<Budget>, usual: u64, most: u64) -> Result<Promise, StartError> {
        let promised = self.promised_memory.unwrap_or(usual);
        if promised > most {
            return Err(StartError::Promise { promised, most });
        }
        Ok(budget.promise(promised)?)
    }
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
            group: None,
            promised_memory: None,
            share_equal_pages: false,
        }
    }
}
