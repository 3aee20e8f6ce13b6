//! ⚠ The main counter of a high-precision event timer.
#![allow(unsafe_code, reason = "registers of a device")]

/// Where its registers are on a PC, and the counter among them.
const COUNTER: usize = 0xfed0_0000 + 0xf0;

/// What the counter reads: its lower 32 bits, as Linux reads it.
pub fn counter() -> u32 {
    // SAFETY: hv maps this page together with the device; each read of it is an access of the device.
    unsafe { core::ptr::read_volatile(COUNTER as *const u32) }
}
