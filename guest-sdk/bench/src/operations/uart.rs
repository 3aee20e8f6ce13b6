//! Printing to an emulated UART: the worst case of a console.

use super::console::text;
use crate::hardware::uart;
use crate::meter::Meter;
use crate::operation::{Operation, Rig};
use alloc::string::String;

const LINE: usize = 80;

/// Sends so many bytes at a time: 16 to the FIFO, then a look whether it is empty.
fn send<const LEN: usize>(meter: &mut Meter) -> Result<(), String> {
    let mut uart = uart::open()?;
    let bytes = text::<LEN>();
    meter.each(|| uart.send_bytes_exact(&bytes));
    Ok(())
}

const fn operation(
    name: &'static str,
    bytes: usize,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let bytes = bytes as u64;
    Operation { name, group: "console", against: None, rig: Rig::Uart, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "uart-worst-byte",
        1,
        "The worst case: one byte to an emulated 16550 UART: a look at its state, and the byte.",
        send::<1>,
    ),
    operation(
        "uart-worst-line",
        LINE,
        "The worst case: a line of 80 bytes to an emulated 16550 UART, 16 for each look at its state.",
        send::<LINE>,
    ),
];
