//! ⚠ The UART, by the crate uart_16550.
#![allow(unsafe_code, reason = "a port of a device")]

use crate::meter::failed;
use alloc::string::String;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// The first port of a PC's first UART.
const PORT: u16 = 0x3f8;

/// The UART, initialised.
pub fn open() -> Result<Uart16550<PioBackend>, String> {
    // SAFETY: hv gives these eight ports to the guest together with the device;
    // nothing else in the guest uses them.
    let mut uart = unsafe { Uart16550::new_port(PORT) }.map_err(|error| failed("the UART's port", error))?;
    uart.init(Config::default()).map_err(|error| failed("the UART", error))?;
    Ok(uart)
}
