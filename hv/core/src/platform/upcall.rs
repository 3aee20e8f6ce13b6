//! The stack of an upcall, the same on all platforms.

use super::PlatformError;
use crate::memory::GuestMemory;
use hv_abi::GuestAddr;
use hv_abi::shared_info::RED_ZONE;

/// Stores the return address below the red zone of a guest's stack. Returns the stack pointer with which its handler begins.
///
/// # Errors
///
/// [`PlatformError::NoStack`] if the guest could not write there.
pub fn push_return(memory: &GuestMemory, stack_pointer: u64, address: u64) -> Result<u64, PlatformError> {
    let top = stack_pointer.wrapping_sub(RED_ZONE + 8);
    match memory.write(GuestAddr(top), &address.to_le_bytes()) {
        Ok(()) => Ok(top),
        Err(_) => Err(PlatformError::NoStack(stack_pointer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Access;
    use hv_abi::PAGE_SIZE;

    #[test]
    fn the_address_lies_below_the_red_zone_or_nowhere() {
        let base = 0x20_0000;
        let mut memory = GuestMemory::new(GuestAddr(base), 4 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ);
        memory.allow(2 * PAGE_SIZE..3 * PAGE_SIZE, Access::READ | Access::WRITE);
        let page = base + 2 * PAGE_SIZE;
        memory.host_write(2 * PAGE_SIZE, &[0xaa; PAGE_SIZE as usize]);
        assert_eq!(push_return(&memory, page + 1000, 0x1234).unwrap(), page + 864);
        let mut bytes = [0; 144];
        memory.host_read(2 * PAGE_SIZE + 864, &mut bytes);
        assert_eq!(bytes[..8], 0x1234_u64.to_le_bytes());
        assert!(bytes[8..].iter().all(|&byte| byte == 0xaa), "the red zone");
        assert!(push_return(&memory, page + PAGE_SIZE + RED_ZONE, 1).is_ok(), "the last word");
        for lost in
            [0, 135, page + 135, page + PAGE_SIZE + 136, base, base + 4 * PAGE_SIZE, 1 << 63, u64::MAX]
        {
            let refused = push_return(&memory, lost, 1);
            assert!(matches!(refused, Err(PlatformError::NoStack(at)) if at == lost), "{lost:#x}");
        }
    }
}
