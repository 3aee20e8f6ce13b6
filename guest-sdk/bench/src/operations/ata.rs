//! Reading an emulated ATA disk.

use super::block::scatter;
use crate::hardware::ata::AtaDisk;
use crate::meter::{Meter, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;

const SECTOR: u64 = 512;

/// Reads `SIZE` bytes at a time.
fn read<const SIZE: usize>(meter: &mut Meter) -> Result<(), String> {
    let disk = AtaDisk::open()?;
    let sectors = SIZE as u64 / SECTOR;
    let places = disk.sectors() / sectors;
    let mut buffer = vec![1u8; SIZE];
    meter.phases(|count, recorder| {
        for n in 0..count {
            let start = tsc();
            disk.read(scatter(n) % places * sectors, &mut buffer)?;
            recorder.record(tsc() - start);
        }
        Ok(())
    })
}

const fn operation(
    name: &'static str,
    against: &'static str,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "block", against: Some(against), rig: Rig::Ata, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "ata-512",
        "block-512-d1",
        512,
        "512 bytes from the same disk by ATA PIO: 256 reads of a port.",
        read::<512>,
    ),
    operation(
        "ata-4k",
        "block-4k-d1",
        4096,
        "4 KiB from the same disk by ATA PIO: 2048 reads of a port.",
        read::<4096>,
    ),
    operation(
        "ata-64k",
        "block-64k-d1",
        65_536,
        "64 KiB from the same disk by ATA PIO: 32768 reads of a port.",
        read::<65_536>,
    ),
];
