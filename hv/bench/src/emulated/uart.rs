//! A 16550 UART: vm-superio's, without an interrupt line.
#![forbid(unsafe_code)]

use super::RegisterAccess;
use hv_core::device::console::Output;
use std::convert::Infallible;
use std::io::{self, Write};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// No line to an interrupt controller.
struct NoLine;

impl Trigger for NoLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What the transmitter is connected to.
struct Wire(Box<dyn Output>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART.
pub(super) struct Uart(Serial<NoLine, NoEvents, Wire>);

impl Uart {
    pub(super) fn new(output: Box<dyn Output>) -> Self {
        Uart(Serial::new(NoLine, Wire(output)))
    }
}

impl RegisterAccess for Uart {
    fn read(&mut self, offset: u64, _: u8) -> u64 {
        self.0.read(offset as u8).into()
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        // A byte that its reader does not take is lost, as on a wire.
        let _ = self.0.write(offset as u8, value as u8);
    }
}
