//! Printing.

use crate::meter::Meter;
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec::Vec;
use hv_guest::console;

const LINE: usize = 80;
const MANY: usize = 64 << 10;

/// Writes so many bytes at a time.
fn write<const LEN: usize>(meter: &mut Meter) -> Result<(), String> {
    let bytes = text::<LEN>();
    meter.each(|| console::write(&bytes));
    Ok(())
}

/// The same; each is over when the host has passed the bytes on.
fn deliver<const LEN: usize>(meter: &mut Meter) -> Result<(), String> {
    let bytes = text::<LEN>();
    meter.each(|| {
        console::write(&bytes);
        console::flush();
    });
    Ok(())
}

/// So many bytes, with a line break at the end of each 80.
pub(super) fn text<const LEN: usize>() -> Vec<u8> {
    let mut bytes = alloc::vec![b'.'; LEN];
    bytes.iter_mut().skip(LINE - 1).step_by(LINE).for_each(|byte| *byte = b'\n');
    bytes
}

const fn operation(
    name: &'static str,
    against: Option<&'static str>,
    bytes: usize,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let bytes = bytes as u64;
    Operation { name, group: "console", against, rig: Rig::Plain, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "console-byte",
        Some("uart-worst-byte"),
        1,
        "One byte to the paravirtual console, as fast as its reader takes them.",
        write::<1>,
    ),
    operation(
        "console-line",
        Some("uart-worst-line"),
        LINE,
        "A line of 80 bytes to the paravirtual console.",
        write::<LINE>,
    ),
    operation(
        "console-64k",
        None,
        MANY,
        "64 KiB to the paravirtual console, four times what its ring holds.",
        write::<MANY>,
    ),
    operation(
        "console-line-delivered",
        Some("virtio-line-delivered"),
        LINE,
        "A line to the paravirtual console, until the host has passed it on.",
        deliver::<LINE>,
    ),
    operation(
        "console-64k-delivered",
        Some("virtio-64k-delivered"),
        MANY,
        "64 KiB to the paravirtual console, until the host has passed them on.",
        deliver::<MANY>,
    ),
];
