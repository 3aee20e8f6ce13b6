//! Registers and stack of a virtual CPU, copied while the guest is paused. The backtrace takes longer. It is made from
//! the copy, on a background thread.

use crate::crash::{Backtrace, Budget, Frame, Symbols};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::Registers;
use hv_abi::{GuestAddr, PAGE_SIZE};
use std::sync::Arc;

/// What a backtrace is made from.
pub(super) struct CpuCopy {
    image: Arc<Image>,
    image_base: u64,
    pub(super) registers: Option<Registers>,
    stack: StackCopy,
}

impl CpuCopy {
    /// Copies the stack; at most [`StackCopy::MAX`] bytes.
    pub(super) fn new(
        image: Arc<Image>,
        image_base: u64,
        memory: &GuestMemory,
        registers: Option<Registers>,
    ) -> Self {
        let stack =
            registers.map_or_else(StackCopy::default, |registers| StackCopy::copy(memory, registers.rsp));
        CpuCopy { image, image_base, registers, stack }
    }

    /// The functions that were running, with all details that are found within the budget. Empty without registers.
    pub(super) fn backtrace(&self) -> Backtrace {
        let Some(registers) = self.registers else { return Backtrace { frames: Vec::new(), missing: None } };
        let symbols = Symbols::new(self.image.bytes(), self.image_base, self.image.known());
        let mut read = |address| self.stack.word(address);
        symbols.backtrace(&registers.unwind(), &mut Budget::default(), &mut read)
    }

    /// The backtrace without anything that needs a lookup, and the reason.
    pub(super) fn without_names(&self, missing: &'static str) -> Backtrace {
        let offset = |rip: u64| rip.checked_sub(self.image_base).filter(|offset| *offset < self.image.size());
        let frames = self.registers.iter().map(|registers| Frame::bare(registers.rip, offset(registers.rip)));
        Backtrace { frames: frames.collect(), missing: Some(missing) }
    }
}

/// A copy of the innermost part of a stack.
#[derive(Default)]
struct StackCopy {
    address: u64,
    bytes: Vec<u8>,
}

impl StackCopy {
    /// Most bytes that are copied; frames beyond them are not found.
    const MAX: u64 = 128 << 10;

    /// The stack with this pointer.
    fn copy(memory: &GuestMemory, pointer: u64) -> StackCopy {
        let address = pointer & !7;
        let mut bytes = Vec::new();
        let mut page = [0; PAGE_SIZE as usize];
        while (bytes.len() as u64) < Self::MAX {
            let at = address.wrapping_add(bytes.len() as u64);
            // Up to the start of the next page: that page may not be mapped.
            let part = &mut page[..(PAGE_SIZE - at % PAGE_SIZE) as usize];
            if memory.read(GuestAddr(at), part).is_err() {
                break;
            }
            bytes.extend_from_slice(part);
        }
        StackCopy { address, bytes }
    }

    /// The 8 bytes at an address.
    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}
