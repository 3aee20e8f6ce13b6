//! ⚠ Instructions that read and write I/O ports.
//!
//! Whether a guest may do so is the host's decision: a port that was not opened
//! to it ends it with a crash report. To memory these instructions do nothing.
#![allow(unsafe_code, reason = "instructions that read and write ports")]

use core::arch::asm;

macro_rules! instructions {
    ($($size:ident $register:tt $read:ident $write:ident;)*) => {$(
        #[doc = concat!("Reads a port, as a `", stringify!($size), "`.")]
        pub fn $read(port: u16) -> $size {
            let value: $size;
            // SAFETY: neither memory nor flags change (see the module).
            unsafe {
                asm!(
                    concat!("in ", $register, ", dx"),
                    in("dx") port,
                    out($register) value,
                    options(nomem, nostack, preserves_flags)
                );
            }
            value
        }

        #[doc = concat!("Writes a `", stringify!($size), "` to a port.")]
        pub fn $write(port: u16, value: $size) {
            // SAFETY: neither memory nor flags change (see the module).
            unsafe {
                asm!(
                    concat!("out dx, ", $register),
                    in("dx") port,
                    in($register) value,
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
    )*};
}

instructions! {
    u8 "al" read_u8 write_u8;
    u16 "ax" read_u16 write_u16;
    u32 "eax" read_u32 write_u32;
}

/// Reads a port once for each pair of bytes, by one instruction.
pub fn read_string_u16(port: u16, bytes: &mut [u8]) {
    // SAFETY: it writes as many pairs as there are; the direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep insw",
            in("dx") port,
            inout("rdi") bytes.as_mut_ptr() => _,
            inout("rcx") bytes.len() / 2 => _,
            options(nostack, preserves_flags)
        );
    }
}
