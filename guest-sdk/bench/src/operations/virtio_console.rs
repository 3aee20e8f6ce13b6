//! Printing through a virtio console.

use super::console::text;
use crate::hardware::console::VirtioConsole;
use crate::meter::Meter;
use crate::operation::{Operation, Rig};
use alloc::string::String;

/// Writes so many bytes at a time; each is over when the device has passed them on.
fn deliver<const LEN: usize>(meter: &mut Meter) -> Result<(), String> {
    let bytes = text::<LEN>();
    let mut console = VirtioConsole::open()?;
    meter.each(|| console.write(&bytes));
    Ok(())
}

const fn operation(
    name: &'static str,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "console", against: None, rig: Rig::VirtioConsole, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "virtio-line-delivered",
        80,
        "A line of 80 bytes to a virtio console, until the device has passed it on.",
        deliver::<80>,
    ),
    operation(
        "virtio-64k-delivered",
        65_536,
        "64 KiB to a virtio console in one buffer, until the device has passed them on.",
        deliver::<65_536>,
    ),
];
